#include "redis/faults.hpp"

#include <memory>
#include <string>
#include <vector>

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace std::chrono_literals;

namespace {

using Names = std::vector<std::string>;

struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  Names log{};
  Logger logger{LogLevel::debug,
                [this](LogLevel, std::string_view line) { log.emplace_back(line); }};
  Faults faults{logger, clock};

  void fail(Duty duty, std::string_view queue = "a") {
    faults.failed(duty, queue, Error{Errc::protocol, "broken"});
  }
};

}  // namespace

TEST_CASE("a fault is told at once, then once a minute while it lasts, and its end",
          "[redis][faults]") {
  Fixture f;
  for (int second = 0; second < 119; ++second) {
    f.fail(Duty::upkeep);
    f.clock->advance(1s);
  }
  CHECK(f.log == Names{"broken", "broken"});
  f.faults.worked(Duty::upkeep, "a");
  f.faults.worked(Duty::upkeep, "a");
  CHECK(f.log == Names{"broken", "broken", "queue \"a\": upkeep works again"});
}

TEST_CASE("a fault that comes and goes is logged once a minute, too", "[redis][faults]") {
  Fixture f;
  for (int second = 0; second < 60; ++second) {
    f.fail(Duty::settle);
    f.faults.worked(Duty::settle, "a");
    f.clock->advance(1s);
  }
  CHECK(f.log == Names{"broken", "queue \"a\": settling runs works again"});
  f.fail(Duty::settle);
  CHECK(f.log.size() == 3);
}

TEST_CASE("queues and duties are logged separately", "[redis][faults]") {
  Fixture f;
  f.fail(Duty::take, "a");
  f.fail(Duty::take, "b");
  f.fail(Duty::extend, "a");
  CHECK(f.log.size() == 3);
  f.faults.worked(Duty::extend, "b");
  f.faults.worked(Duty::list, "");
  CHECK(f.log.size() == 3);
}

TEST_CASE("a queue rests for a second after a failed take, and for nothing else",
          "[redis][faults]") {
  Fixture f;
  const Names queues{"a", "b", "c"};
  CHECK(f.faults.awake(queues) == queues);
  CHECK_FALSE(f.faults.shortest_rest(queues));
  f.fail(Duty::take, "b");
  f.fail(Duty::upkeep, "c");
  CHECK(f.faults.awake(queues) == Names{"a", "c"});
  f.clock->advance(400ms);
  f.fail(Duty::take, "a");
  CHECK(f.faults.shortest_rest(queues) == 600ms);
  CHECK_FALSE(f.faults.shortest_rest(Names{"c"}));
  f.clock->advance(600ms);
  CHECK(f.faults.rests("a"));
  CHECK_FALSE(f.faults.rests("b"));
  f.faults.worked(Duty::take, "a");
  CHECK(f.faults.awake(queues) == queues);
}

TEST_CASE("an outage is no fault of a queue's", "[redis][faults]") {
  Fixture f;
  f.faults.failed(Duty::take, "a", Error{Errc::unavailable, "away"});
  CHECK_FALSE(f.faults.rests("a"));
  CHECK(f.log.empty());
}
