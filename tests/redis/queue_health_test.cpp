#include "redis/session/queue_health.hpp"

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
  QueueHealth queue_health{logger, clock};

  void fail(QueueOperation operation, std::string_view queue = "a") {
    queue_health.failed(operation, queue, Error{Errc::protocol, "broken"});
  }
};

}  // namespace

TEST_CASE("a fault is logged at once, then once a minute while it lasts, and when it ends",
          "[redis][queue_health]") {
  Fixture f;
  for (int second = 0; second < 119; ++second) {
    f.fail(QueueOperation::upkeep);
    f.clock->advance(1s);
  }
  CHECK(f.log == Names{"broken", "broken"});
  f.queue_health.worked(QueueOperation::upkeep, "a");
  f.queue_health.worked(QueueOperation::upkeep, "a");
  CHECK(f.log == Names{"broken", "broken", "queue \"a\": upkeep works again"});
}

TEST_CASE("a fault that comes and goes is logged once a minute, too", "[redis][queue_health]") {
  Fixture f;
  for (int second = 0; second < 60; ++second) {
    f.fail(QueueOperation::settle);
    f.queue_health.worked(QueueOperation::settle, "a");
    f.clock->advance(1s);
  }
  CHECK(f.log == Names{"broken", "queue \"a\": settling runs works again"});
  f.fail(QueueOperation::settle);
  CHECK(f.log.size() == 3);
}

TEST_CASE("queues and operations are logged separately", "[redis][queue_health]") {
  Fixture f;
  f.fail(QueueOperation::take, "a");
  f.fail(QueueOperation::take, "b");
  f.fail(QueueOperation::extend, "a");
  CHECK(f.log.size() == 3);
  f.queue_health.worked(QueueOperation::extend, "b");
  f.queue_health.worked(QueueOperation::list, "");
  CHECK(f.log.size() == 3);
}

TEST_CASE("a queue is suspended for a second after a failed take, and after no other failure",
          "[redis][queue_health]") {
  Fixture f;
  const Names queues{"a", "b", "c"};
  const auto resting = [&] {
    Names names;
    for (const std::string& queue : queues) {
      if (f.queue_health.rests(queue)) names.push_back(queue);
    }
    return names;
  };
  CHECK(resting().empty());
  CHECK_FALSE(f.queue_health.shortest_rest(queues));
  f.fail(QueueOperation::take, "b");
  f.fail(QueueOperation::upkeep, "c");
  CHECK(resting() == Names{"b"});
  f.clock->advance(400ms);
  f.fail(QueueOperation::take, "a");
  CHECK(f.queue_health.shortest_rest(queues) == 600ms);
  CHECK_FALSE(f.queue_health.shortest_rest(Names{"c"}));
  f.clock->advance(600ms);
  CHECK(f.queue_health.rests("a"));
  CHECK_FALSE(f.queue_health.rests("b"));
  f.queue_health.worked(QueueOperation::take, "a");
  CHECK(resting().empty());
}

TEST_CASE("an outage is not a fault of a queue", "[redis][queue_health]") {
  Fixture f;
  f.queue_health.failed(QueueOperation::take, "a", Error{Errc::unavailable, "away"});
  CHECK_FALSE(f.queue_health.rests("a"));
  CHECK(f.log.empty());
}
