#include "taskmux/detail/base/uuid.hpp"

#include <set>
#include <string>
#include <thread>
#include <vector>

#include "support/test.hpp"

using namespace taskmux::detail;

TEST_CASE("ids are version 4 UUIDs in lower case", "[uuid]") {
  UuidSource source;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = source.next();
    REQUIRE(id.size() == 36);
    for (std::size_t at = 0; at < id.size(); ++at) {
      const bool hyphen = at == 8 || at == 13 || at == 18 || at == 23;
      INFO(id << " at " << at);
      REQUIRE((hyphen ? id[at] == '-'
                      : std::string{"0123456789abcdef"}.find(id[at]) != std::string::npos));
    }
    REQUIRE(id[14] == '4');
    REQUIRE(std::string{"89ab"}.find(id[19]) != std::string::npos);
  }
}

TEST_CASE("ids differ, even if several threads use one source", "[uuid]") {
  UuidSource source;
  std::vector<std::vector<std::string>> drawn(4);
  std::vector<std::thread> threads;
  for (auto& ids : drawn) {
    threads.emplace_back([&source, &ids] {
      for (int i = 0; i < 2000; ++i) ids.push_back(source.next());
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::set<std::string> all;
  for (const auto& ids : drawn) all.insert(ids.begin(), ids.end());
  CHECK(all.size() == 8000);
}

TEST_CASE("the generator for jitter stays within its bounds", "[uuid]") {
  Random random{42};
  for (int i = 0; i < 10'000; ++i) {
    const double unit = random.unit();
    REQUIRE(unit >= 0.0);
    REQUIRE(unit < 1.0);
    REQUIRE(random.below(7) < 7);
  }
}
