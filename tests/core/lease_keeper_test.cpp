#include "taskmux/detail/engine/lease_keeper.hpp"

#include <set>
#include <span>
#include <string>
#include <vector>

#include "support/engine.hpp"
#include "support/test.hpp"
#include "taskmux/broker_wrapper.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

struct Keeping : Engine {
  detail::LeaseKeeper keeper{{broker, registry, settler, health, logger, clock, events}, 10s};

  /// Advances the clock by `length`, in steps as the keeper's thread would.
  void pass(Duration length) {
    const SteadyTime end = clock->steady_now() + length;
    while (true) {
      const SteadyTime next = keeper.run_once().value();
      if (next > end) break;
      clock->advance(std::chrono::duration_cast<Duration>(next - clock->steady_now()));
    }
    clock->advance(std::chrono::duration_cast<Duration>(end - clock->steady_now()));
  }
};

/// A broker that does not answer for the leases of some tasks.
struct Silent : BrokerWrapper {
  using BrokerWrapper::BrokerWrapper;
  std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override {
    std::vector<ExtendReply> replies;
    for (const ExtendRequest& request : runs) {
      const std::string& id = request.run.message->id;
      asked.push_back(id);
      replies.push_back(about.contains(id) ? ExtendReply{.status = LeaseStatus::unknown}
                                           : BrokerWrapper::extend(std::span{&request, 1}, lease).at(0));
    }
    return replies;
  }

  std::set<std::string> about{};
  std::vector<std::string> asked{};
};

}  // namespace

TEST_CASE("a worker owns a run for as long as the lease is extended", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.begin(*runs[0]);
  k.pass(2min);
  CHECK(upkeep(k.broker).lost.empty());
  CHECK(settle(k.broker, completed(runs[0]->run())) == SettleStatus::applied);
}

TEST_CASE("a run that waits for a worker, or to be settled, is extended too", "[lease]") {
  Keeping k;
  k.broker.enqueue(many("t", 2));
  const auto runs = k.take_runs();
  runs[1]->advance(detail::RunState::Phase::ready, detail::RunState::Phase::ended);
  k.pass(30s);
  CHECK(upkeep(k.broker).lost.empty());
}

TEST_CASE("leases are extended each quarter, and young ones not at all", "[lease]") {
  Keeping k;
  CHECK(*k.keeper.run_once() - k.clock->steady_now() == 2500ms);
  enqueue(k.broker, message("t1"));
  k.take_runs();
  k.pass(2400ms);
  CHECK(k.broker.calls(Operation::extend) == 0);
  k.pass(10s);
  CHECK(k.broker.calls(Operation::extend) >= 3);
  CHECK(k.broker.calls(Operation::extend) <= 5);
}

TEST_CASE("the end of a lease counts from when its extension was sent", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  const SteadyTime taken = k.clock->steady_now();
  CHECK(runs[0]->lease_until() == taken + 10s);
  k.clock->advance(3s);
  k.keeper.run_once();
  CHECK(runs[0]->lease_until() == taken + 13s);
  k.broker.lose_reply(Operation::extend);
  k.pass(9s);
  CHECK(runs[0]->lease_until() == taken + 13s);
}

TEST_CASE("a lost lease triggers the run's stop token", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.begin(*runs[0]);
  k.clock->advance(12s);
  upkeep(k.broker);  // Taken over.
  k.keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::lease_lost);
  CHECK(k.watches_due == 1);
  CHECK(k.log.size() == 1);
}

TEST_CASE("a run that is lost before a worker takes it is dropped", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.clock->advance(12s);
  upkeep(k.broker);
  k.keeper.run_once();
  CHECK(k.registry.size() == 0);
  CHECK(runs[0]->phase() == detail::RunState::Phase::ended);
  CHECK(k.settler.unsettled() == 0);
}

TEST_CASE("a cancellation reaches the run with its mode", "[lease]") {
  Keeping k;
  const CancelMode mode = GENERATE(CancelMode::retry, CancelMode::archive, CancelMode::remove);
  std::vector<std::string> hinted;
  const auto watch = k.broker.watch({"default"}, [&](const Hint& hint) {
    if (hint.kind == Hint::Kind::cancel) hinted.push_back(hint.task_id);
  });
  k.broker.enqueue(many("t", 2));
  const auto runs = k.take_runs();
  for (const auto& run : runs) k.begin(*run);
  k.memory.cancel("default", "t2", mode);
  REQUIRE(hinted == std::vector<std::string>{"t2"});
  k.keeper.run_once();  // Its regular extension.
  const std::size_t extends = k.broker.calls(Operation::extend);
  k.keeper.cancel(hinted[0]);
  k.keeper.run_once();
  CHECK(k.broker.calls(Operation::extend) == extends + 1);
  CHECK(runs[0]->stop_reason() == StopReason::none);
  CHECK(runs[1]->stop_reason() == StopReason::cancelled);
  CHECK(runs[1]->cancel_mode() == mode);
}

TEST_CASE("a hint without a mode cancels as asynq does; a hint for an unknown task is ignored",
          "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.begin(*runs[0]);
  k.keeper.cancel("nobody's");
  k.keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::none);
  k.keeper.cancel("t1");
  k.keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::cancelled);
  CHECK(runs[0]->cancel_mode() == CancelMode::retry);
}

TEST_CASE("a run that is cancelled before its start is settled without its handler", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  k.take_runs();
  k.memory.cancel("default", "t1", CancelMode::archive);
  k.keeper.cancel("t1");
  k.keeper.run_once();
  k.carry_out();
  CHECK(k.state("t1") == TaskState::archived);
  CHECK(k.handled.empty());
}

TEST_CASE("during an outage, runs continue, and are extended as soon as the broker is back",
          "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.begin(*runs[0]);
  k.broker.fail(Operation::extend);
  k.pass(9s);
  CHECK(runs[0]->stop_reason() == StopReason::none);
  CHECK_FALSE(k.health.health().healthy);
  k.broker.recover();
  k.pass(1s);
  CHECK(k.health.health().healthy);
  k.clock->advance(8s);
  CHECK(upkeep(k.broker).lost.empty());
}

TEST_CASE("a cancellation during an outage is not forgotten", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("t1"));
  const auto runs = k.take_runs();
  k.begin(*runs[0]);
  k.memory.cancel("default", "t1", CancelMode::remove);
  k.broker.fail(Operation::extend, 2);
  k.keeper.cancel("t1");
  k.keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::none);
  k.pass(5s);
  CHECK(runs[0]->cancel_mode() == CancelMode::remove);
}

TEST_CASE("a cancellation in one queue leaves a task of the same id in another alone", "[lease]") {
  Keeping k;
  enqueue(k.broker, message("same", "default"));
  enqueue(k.broker, message("same", "other"));
  const auto runs = k.take_runs();
  const Run other = take_one(k.broker, "other");
  const auto others = std::make_shared<detail::RunState>(other, k.environment,
                                                         k.clock->steady_now(), k.clock->now());
  k.registry.add(std::vector{others});
  k.begin(*runs[0]);
  k.begin(*others);
  const auto watch = k.broker.watch(
      {"default"}, [&](const Hint& hint) { k.keeper.cancel(hint.task_id, hint.queue); });
  k.memory.cancel("default", "same", CancelMode::retry);
  k.keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::cancelled);
  CHECK(others->stop_reason() == StopReason::none);
}

TEST_CASE("a run whose extension is unknown continues, and is extended again soon", "[lease]") {
  Keeping k;
  Silent silent{k.memory};
  detail::LeaseKeeper keeper{{silent, k.registry, k.settler, k.health, k.logger, k.clock, k.events},
                             10s};
  k.broker.enqueue(many("t", 2));
  const auto runs = k.take_runs();
  for (const auto& run : runs) k.begin(*run);
  k.clock->advance(3s);
  silent.about = {"t1"};
  CHECK(*keeper.run_once() - k.clock->steady_now() == 400ms);
  CHECK(runs[0]->stop_reason() == StopReason::none);
  CHECK(k.watches_due == 0);
  CHECK(k.health.health().reason.find("t1") != std::string::npos);

  silent.about.clear();
  k.clock->advance(625ms);
  CHECK(*keeper.run_once() - k.clock->steady_now() == 2500ms);
  CHECK(k.health.health().healthy);
  k.clock->advance(9s);
  CHECK(upkeep(k.broker).lost.empty());
}

TEST_CASE("a failed extension is repeated within a second, however long the lease is", "[lease]") {
  Engine e;
  detail::LeaseKeeper keeper{
      {e.broker, e.registry, e.settler, e.health, e.logger, e.clock, e.events}, 10min};
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.begin(*runs[0]);
  e.clock->advance(5min);
  e.broker.fail(Operation::extend);
  CHECK(keeper.run_once() == e.clock->steady_now() + 400ms);
  e.broker.recover();
  e.clock->advance(1s);
  CHECK(keeper.run_once() == e.clock->steady_now() + 150s);
}

TEST_CASE("a cancellation is kept while the broker does not answer for its run", "[lease]") {
  Keeping k;
  Silent silent{k.memory};
  detail::LeaseKeeper keeper{{silent, k.registry, k.settler, k.health, k.logger, k.clock, k.events},
                             10s};
  k.broker.enqueue(many("t", 2));
  const auto runs = k.take_runs();
  for (const auto& run : runs) k.begin(*run);
  keeper.run_once();
  silent.about = {"t1"};
  keeper.cancel("t1");
  keeper.cancel("t2");
  keeper.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::none);
  CHECK(runs[1]->stop_reason() == StopReason::cancelled);

  silent.about.clear();
  silent.asked.clear();
  keeper.run_once();
  CHECK(silent.asked == std::vector<std::string>{"t1"});
  CHECK(runs[0]->stop_reason() == StopReason::cancelled);
}

TEST_CASE("a failed extension is forgotten once there are no runs left", "[lease]") {
  Engine e;
  detail::LeaseKeeper keeper{
      {e.broker, e.registry, e.settler, e.health, e.logger, e.clock, e.events}, 10s};
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.begin(*runs[0]);
  e.clock->advance(3s);
  e.broker.fail(Operation::extend);
  keeper.run_once();
  CHECK_FALSE(e.health.health().healthy);
  e.settler.give_back(runs[0]);
  e.carry_out();
  REQUIRE(e.registry.size() == 0);
  e.clock->advance(1s);
  keeper.run_once();
  CHECK(e.health.health().healthy);
}
