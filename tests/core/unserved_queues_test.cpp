#include "taskmux/detail/engine/unserved_queues.hpp"

#include <chrono>

#include "support/engine.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

struct Looking : Engine {
  detail::UnservedQueues unserved{broker, {"default"}, logger, clock};

  void look_after(Duration time) {
    clock->advance(time);
    unserved.run_once();
  }
};

}  // namespace

TEST_CASE("a queue with tasks that no server serves is logged once an hour", "[unserved]") {
  Looking l;
  enqueue(l.broker, message("t1", "default"));
  enqueue(l.broker, message("t2", "emials"));
  l.look_after(59s);
  CHECK(l.log.empty());
  l.look_after(1s);
  const std::string line = "queue \"emials\": 1 task waits, and no live server works on it";
  CHECK(l.log == std::vector{line});
  enqueue(l.broker, message("t3", "emials"));
  for (int minute = 1; minute < 60; ++minute) l.look_after(1min);
  CHECK(l.log.size() == 1);
  l.look_after(1min);
  REQUIRE(l.log.size() == 2);
  CHECK(l.log[1] == "queue \"emials\": 2 tasks wait, and no live server works on it");
}

TEST_CASE("a queue that is served, new or empty is not logged", "[unserved]") {
  Looking l;
  l.broker.registry().announce({.host = "h", .id = "s", .queues = {{"images", 1}}}, 1h);
  enqueue(l.broker, message("t1", "images"));
  enqueue(l.broker, message("t2", "empty"));
  take(l.broker, "empty");
  l.clock->advance(55s);
  enqueue(l.broker, message("t3", "new"));
  l.look_after(5s);
  CHECK(l.log.empty());
}

TEST_CASE("a check covers a bounded number of queues, and the next one continues", "[unserved]") {
  Looking l;
  constexpr std::size_t most = detail::UnservedQueues::most_in_a_turn;
  const auto add = [&](const std::string& prefix, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::string queue = prefix + std::to_string(i);
      enqueue(l.broker, message("t", queue));
      if (prefix == "empty") take(l.broker, queue);
    }
  };
  add("empty", most + 10);  // Never logged, and so checked every time.
  add("misspelt", most + 10);
  l.look_after(1min);
  CHECK(l.log.empty());
  l.look_after(1min);
  CHECK(l.log.size() == most - 10);
  l.look_after(1min);
  CHECK(l.log.size() == most + 10);
}
