#include "taskmux/detail/upkeep.hpp"

#include "support/engine.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

struct Keeping : Engine {
  int trims = 0;
  detail::Upkeep upkeep{
      {broker, settler, health, clock,
       [] {
         return ServerInfo{.host = "h", .pid = 1, .id = "s1", .concurrency = 2, .status = "active"};
       },
       [this] { ++trims; }},
      {"default"},
      {2s, 5s, 10s}};
};

}  // namespace

TEST_CASE("upkeep forwards, recovers and expires, every two seconds", "[upkeep]") {
  Keeping k;
  CHECK(*k.upkeep.run_once() - k.clock->steady_now() == 2s);
  enqueue(k.broker, scheduled(message("due"), 1s));
  TaskMessage kept = message("kept");
  kept.retention = 1s;
  enqueue(k.broker, kept);
  settle(k.broker, completed(take_one(k.broker)));
  enqueue(k.broker, message("lost"));
  take_one(k.broker);

  k.clock->advance(2s);
  k.upkeep.run_once();
  CHECK(k.state("due") == TaskState::pending);
  CHECK(k.state("kept") == std::nullopt);
  CHECK(k.state("lost") == TaskState::active);

  k.clock->advance(10s);
  k.upkeep.run_once();
  k.carry_out();
  CHECK(k.state("lost") == TaskState::pending);
  CHECK(k.memory.find("default", "lost")->last_error == "worker lost");
}

TEST_CASE("the heartbeat keeps the server listed", "[upkeep]") {
  Keeping k;
  k.upkeep.run_once();
  CHECK(k.broker.calls(Operation::heartbeat) == 1);
  for (int i = 0; i < 20; ++i) {
    k.clock->advance(1s);
    k.upkeep.run_once();
    REQUIRE(k.memory.servers().size() == 1);
  }
  CHECK(k.broker.calls(Operation::heartbeat) == 5);
  CHECK(k.memory.servers()[0].id == "s1");
}

TEST_CASE("a step that reaches its limit is repeated at once", "[upkeep]") {
  Keeping k;
  k.upkeep.run_once();
  std::vector<EnqueueRequest> batch;
  for (int i = 0; i < 250; ++i) batch.push_back(scheduled(message("t" + std::to_string(i)), 1s));
  k.broker.enqueue(std::move(batch));
  k.clock->advance(2s);
  while (*k.upkeep.run_once() <= k.clock->steady_now()) {
  }
  CHECK(k.memory.queue_info("default").pending == 250);
}

TEST_CASE("upkeep outlives an outage", "[upkeep]") {
  Keeping k;
  k.broker.fail(Operation::upkeep, 1);
  k.broker.fail(Operation::heartbeat, 1);
  k.upkeep.run_once();
  CHECK_FALSE(k.health.health().healthy);
  k.clock->advance(5s);
  k.upkeep.run_once();
  CHECK(k.health.health().healthy);
  CHECK(k.memory.servers().size() == 1);
}

TEST_CASE("archives are looked through now and then", "[upkeep]") {
  Keeping k;
  k.upkeep.run_once();
  CHECK(k.trims == 1);
  k.clock->advance(59s);
  k.upkeep.run_once();
  CHECK(k.trims == 1);
  k.clock->advance(1s);
  k.upkeep.run_once();
  CHECK(k.trims == 2);
}

TEST_CASE("a role that keeps failing beside others that work is told of once", "[upkeep]") {
  Keeping k;
  k.broker.fail(Operation::upkeep);
  for (int i = 0; i < 20; ++i) {
    k.upkeep.run_once();
    k.health.broker_answered(detail::HealthMonitor::Role::exchange);
    k.clock->advance(1s);
  }
  CHECK_FALSE(k.health.health().healthy);
  CHECK(k.health_changes.size() == 1);
  CHECK(k.log.size() == 1);
  k.broker.recover();
  k.upkeep.run_once();
  k.clock->advance(2s);
  k.upkeep.run_once();
  CHECK(k.health.health().healthy);
  CHECK(k.health_changes.size() == 2);
}
