#include "taskmux/detail/notifier.hpp"

#include <stdexcept>
#include <string>
#include <vector>

#include "support/test.hpp"

using namespace taskmux;

TEST_CASE("calls are made in their order, and one that throws stops none", "[notifier]") {
  std::vector<std::string> log;
  const Logger logger{LogLevel::debug,
                      [&](LogLevel, std::string_view line) { log.emplace_back(line); }};
  detail::Notifier notifier{logger};
  std::vector<int> calls;
  CHECK(notifier.post([&] { calls.push_back(1); }));
  CHECK_FALSE(notifier.post([&] { throw std::runtime_error{"hook"}; }));
  CHECK_FALSE(notifier.post([&] { throw 1; }));
  CHECK_FALSE(notifier.post([&] { calls.push_back(2); }));
  notifier.run_once();
  CHECK(calls == std::vector{1, 2});
  CHECK(log.size() == 2);
  CHECK(notifier.dropped() == 0);
}

TEST_CASE("a full queue drops what comes, and counts it", "[notifier]") {
  const Logger logger;
  detail::Notifier notifier{logger};
  std::size_t calls = 0;
  for (std::size_t i = 0; i < detail::Notifier::capacity + 5; ++i) notifier.post([&] { ++calls; });
  CHECK(notifier.dropped() == 5);
  notifier.run_once();
  CHECK(calls == detail::Notifier::capacity);
  CHECK(notifier.post([&] { ++calls; }));
}
