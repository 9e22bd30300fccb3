#include "taskmux/detail/engine/upkeep.hpp"

#include <memory>
#include <set>
#include <string>
#include <utility>

#include "support/engine.hpp"
#include "support/test.hpp"
#include "taskmux/broker_wrapper.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

struct Keeping : Engine {
  detail::Upkeep upkeep{
      {broker, settler, registry, health, clock,
       [] {
         return ServerInfo{.host = "h", .pid = 1, .id = "s1", .concurrency = 2};
       }},
      {"default"},
      {2s, 5s, 10s}};

  /// Advances the clock by `length`, in steps as the upkeep's thread would.
  void pass(Duration length) {
    const SteadyTime end = clock->steady_now() + length;
    for (SteadyTime next = *upkeep.run_once(); next <= end; next = *upkeep.run_once()) {
      clock->advance(std::chrono::duration_cast<Duration>(next - clock->steady_now()));
    }
    clock->advance(std::chrono::duration_cast<Duration>(end - clock->steady_now()));
  }

  /// Lets a worker of another server, which dies, take a task.
  void lose(const std::string& id) {
    enqueue(broker, message(id));
    take_one(broker);
  }
};

}  // namespace

TEST_CASE("upkeep forwards, recovers and expires every two seconds", "[upkeep]") {
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

  k.pass(12s);
  k.carry_out();
  CHECK(k.state("lost") == TaskState::pending);
  CHECK(k.memory.find("default", "lost")->last_error == "worker lost");
}

TEST_CASE("tasks lost together are retried at different times, and prefetched ones use no retry",
          "[upkeep]") {
  Keeping k;
  k.broker.enqueue(many("t", 20));
  const QueueQuota quotas[] = {{"default", 20}};
  k.broker.exchange({.quotas = quotas, .free_workers = 5});
  k.pass(13s);
  k.carry_out();
  CHECK(ids(k.memory, TaskState::retry).size() == 5);
  CHECK(ids(k.memory, TaskState::scheduled).size() == 15);
  std::set<Time> due;
  for (const TaskState state : {TaskState::retry, TaskState::scheduled}) {
    for (const TaskInfo& info : listed(k.memory, "default", state)) {
      CHECK(info.crashes == 1);
      CHECK(info.retried == (state == TaskState::retry ? 1 : 0));
      CHECK(*info.next_process_at > k.clock->now());
      CHECK(*info.next_process_at <= k.clock->now() + 5s + 1us);
      due.insert(*info.next_process_at);
    }
  }
  CHECK(due.size() > 15);
  CHECK(k.settler.counts().recovered == 20);
}

TEST_CASE("the heartbeat keeps the server listed", "[upkeep]") {
  Keeping k;
  k.upkeep.run_once();
  CHECK(k.broker.calls(Operation::announce) == 1);
  for (int i = 0; i < 20; ++i) {
    k.clock->advance(1s);
    k.upkeep.run_once();
    REQUIRE(k.memory.servers().size() == 1);
  }
  CHECK(k.broker.calls(Operation::announce) == 5);
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

TEST_CASE("upkeep continues after an outage", "[upkeep]") {
  Keeping k;
  k.broker.fail(Operation::upkeep, 1);
  k.broker.fail(Operation::announce, 1);
  k.upkeep.run_once();
  CHECK_FALSE(k.health.health().healthy);
  k.clock->advance(5s);
  k.upkeep.run_once();
  CHECK(k.health.health().healthy);
  CHECK(k.memory.servers().size() == 1);
}

TEST_CASE("a role that keeps failing while others work is logged once", "[upkeep]") {
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

TEST_CASE("lost runs are looked for after a whole lease without a gap", "[upkeep][clock]") {
  Keeping k;
  k.lose("lost");
  k.clock->advance(12s);
  k.pass(9s);
  CHECK(k.settler.unsettled() == 0);
  k.pass(3s);
  CHECK(k.settler.unsettled() == 1);
}

TEST_CASE("after a pause of all servers, the owners of runs come first", "[upkeep][clock]") {
  Keeping k;
  k.pass(20s);
  enqueue(k.broker, message("t1"));
  const Run run = take_one(k.broker);  // Owned by another server, which pauses, too.
  k.clock->advance(1h);
  SECTION("an owner that extends in time keeps its run") {
    for (int i = 0; i < 10; ++i) {
      k.pass(2s);
      CHECK(extend(k.broker, run).status == LeaseStatus::ok);
    }
    CHECK(k.settler.unsettled() == 0);
  }
  SECTION("one that does not come back loses it") {
    k.pass(12s);
    CHECK(k.settler.unsettled() == 1);
  }
}

TEST_CASE("a pause within a step breaks contact, too", "[upkeep][clock]") {
  // The process is stopped while the heartbeat is being sent.
  struct Pausing : BrokerWrapper {
    using BrokerWrapper::BrokerWrapper;
    void announce(const ServerInfo& server, Duration lifetime) override {
      BrokerWrapper::announce(server, lifetime);
      clock->advance(std::exchange(pause, Duration{0}));
    }
    std::shared_ptr<ManualClock> clock{};
    Duration pause{};
  };
  Engine e;
  Pausing pausing{e.memory};
  pausing.clock = e.clock;
  detail::Upkeep upkeep{{pausing, e.settler, e.registry, e.health, e.clock,
                         [] { return ServerInfo{.id = "s1"}; }},
                        {"default"},
                        {2s, 5s, 10s}};
  for (int i = 0; i < 20; ++i) {
    upkeep.run_once();
    e.clock->advance(1s);
  }
  enqueue(e.broker, message("t1"));
  take_one(e.broker);
  pausing.pause = 1min;
  for (int i = 0; i < 9; ++i) {
    upkeep.run_once();
    e.clock->advance(1s);
  }
  CHECK(pausing.pause == 0s);
  CHECK(e.settler.unsettled() == 0);
}

TEST_CASE("a step of the wall clock is not a gap, and loses no run", "[upkeep][clock]") {
  Keeping k;
  k.pass(20s);
  enqueue(k.broker, message("held"));
  const Run run = take_one(k.broker);
  k.lose("lost");
  k.clock->step_wall(GENERATE(Duration{1h}, Duration{-1h}));
  for (int i = 0; i < 6; ++i) {
    k.pass(2s);
    CHECK(extend(k.broker, run).status == LeaseStatus::ok);
  }
  k.carry_out();
  CHECK(k.state("lost") == TaskState::pending);
  CHECK(k.state("held") == TaskState::active);
}

TEST_CASE("an outage of the broker breaks contact, a short failure does not", "[upkeep]") {
  Keeping k;
  k.pass(20s);
  k.lose("lost");
  k.pass(4s);
  k.broker.fail(Operation::upkeep);
  k.broker.fail(Operation::announce);
  const bool outage = GENERATE(false, true);
  k.pass(outage ? 6s : 2s);
  k.broker.recover();
  k.pass(outage ? 9s : 7s);
  CHECK(k.settler.unsettled() == (outage ? 0 : 1));
  k.pass(3s);
  CHECK(k.settler.unsettled() == 1);
}

TEST_CASE("a failed step is repeated soon", "[upkeep]") {
  Keeping k;
  k.broker.fail(Operation::upkeep, 1);
  CHECK(*k.upkeep.run_once() - k.clock->steady_now() == 400ms);
  k.clock->advance(625ms);
  CHECK(*k.upkeep.run_once() - k.clock->steady_now() == 2s);
}

TEST_CASE("a server's own run is not taken over, however late its lease is extended",
          "[upkeep][clock]") {
  Keeping k;
  k.pass(20s);
  enqueue(k.broker, message("own"));
  const auto runs = k.take_runs();  // Its keeper is stuck: nothing extends it.
  k.begin(*runs.at(0));
  k.lose("lost");
  k.pass(14s);
  CHECK(k.settler.unsettled() == 1);
  k.carry_out();
  CHECK(k.state("lost") == TaskState::pending);
  CHECK(settle(k.broker, completed(runs[0]->run())) == SettleStatus::applied);
}

TEST_CASE("if upkeep is rare, the broker is pinged in between", "[upkeep]") {
  Keeping k;
  detail::Upkeep rare{{k.broker, k.settler, k.registry, k.health, k.clock,
                       [] { return ServerInfo{.id = "s1"}; }},
                      {"default"},
                      {1min, 1min, 10s}};
  const auto pass = [&](Duration length) {
    const SteadyTime end = k.clock->steady_now() + length;
    while (k.clock->steady_now() < end) {
      k.clock->advance(
          std::chrono::duration_cast<Duration>(*rare.run_once() - k.clock->steady_now()));
    }
  };
  pass(30s);
  k.lose("lost");
  pass(32s);
  CHECK(k.broker.calls(Operation::ping) >= 20);
  CHECK(k.broker.calls(Operation::upkeep) == 2);
  CHECK(k.settler.unsettled() == 1);
}

TEST_CASE("if upkeep is frequent, no further call is made", "[upkeep]") {
  Keeping k;
  k.pass(1min);
  CHECK(k.broker.calls(Operation::ping) == 0);
}
