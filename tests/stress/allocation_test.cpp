// What happens when memory is short: nothing ends the process, and no task is lost.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <latch>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "support/engine.hpp"
#include "support/eventually.hpp"
#include "support/failing_allocation.hpp"
#include "support/test.hpp"
#include "taskmux/taskmux.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

/// Calls `step` on a thread whose `number`-th allocation fails. Returns whether one failed; it may have
/// been caught further in.
template <typename Step>
bool fails_in(long number, Step step) {
  FailingAllocation::fail_once(number);
  FailingAllocation::concern_this_thread(true);
  try {
    step();
  } catch (const std::bad_alloc&) {
    // As the thread of a role takes it.
  }
  FailingAllocation::concern_this_thread(false);
  FailingAllocation::end();
  return FailingAllocation::failures() > 0;
}

/// Calls `attempt` with 1, 2, 3 and so on, until it returns false: it makes the allocation of that number
/// fail, and returns whether one failed. More than `least` calls must be made.
template <typename Attempt>
void at_each_allocation(long least, Attempt attempt) {
  bool failed = true;
  long number = 1;
  for (; failed && number < 10'000; ++number) {
    CAPTURE(number);
    failed = attempt(number);
  }
  CHECK(number > least);
  CHECK_FALSE(failed);
}

}  // namespace

TEST_CASE("a fetch that lacks memory at any point loses no task", "[allocation]") {
  constexpr std::size_t tasks = 5;
  const bool reply_lost = GENERATE(false, true);
  at_each_allocation(5, [&](long number) {
    CAPTURE(reply_lost);
    Engine engine{tasks};
    detail::Fetcher fetcher{{engine.broker, engine.settler, engine.registry, *engine.slots,
                             engine.health, engine.environment, [] {}},
                            detail::QueuePicker{{{"default", 1}}, false},
                            10s};
    fetcher.set_watch(engine.broker.watch({"default"}, [&](const Hint&) { fetcher.hint(); }));
    engine.broker.enqueue(many("t", tasks));
    const auto ready = [&] { return engine.slots->load().ready; };
    if (reply_lost) engine.broker.lose_reply(FlakyBroker::Operation::exchange, 1);
    const bool failed = fails_in(number, [&] { fetcher.run_once(); });
    for (int turn = 0; turn < 100 && ready() < tasks; ++turn) {
      fetcher.hint();
      fetcher.run_once();
      engine.clock->advance(100ms);
    }
    REQUIRE(ready() == tasks);
    // One that is registered and not ready would be extended for ever, and run by nobody.
    REQUIRE(engine.registry.size() == tasks);
    for (int i = 1; i <= static_cast<int>(tasks); ++i)
      REQUIRE(engine.memory.find("default", "t" + std::to_string(i))->crashes == 0);
    return failed;
  });
}

TEST_CASE("a suspect that lacks memory at any point before it runs alone is run or given back",
          "[allocation][suspects]") {
  at_each_allocation(5, [&](long number) {
    Engine engine{2};
    detail::Fetcher fetcher{{engine.broker, engine.settler, engine.registry, *engine.slots,
                             engine.health, engine.environment, [] {}},
                            detail::QueuePicker{{{"default", 1}}, false},
                            10s};
    fetcher.set_watch(engine.broker.watch({"default"}, [&](const Hint&) { fetcher.hint(); }));
    enqueue(engine.broker, message("last"));
    for (int crash = 0; crash < 2; ++crash)
      settle(engine.broker, {crashed(take(engine.broker).at(0))});
    fetcher.hint();
    // A std::deque allocates for every 32nd of these: so the next push does.
    for (int i = 0; i < 31; ++i) {
      engine.make_ready({nullptr});
      engine.slots->ready().pop();
      engine.slots->ready().done();
    }
    const auto ready = [&] { return engine.slots->load().ready; };
    const bool failed = fails_in(number, [&] {
      for (int turn = 0; turn < 5 && ready() == 0; ++turn) fetcher.run_once();
    });
    for (int turn = 0; turn < 100 && ready() == 0; ++turn) {
      fetcher.hint();
      fetcher.run_once();
      engine.clock->advance(50ms);
    }
    REQUIRE(ready() == 1);
    REQUIRE(engine.registry.size() == 1);
    REQUIRE(fetcher.alone());
    return failed;
  });
}

TEST_CASE("an outcome that lacks memory at any point is recorded in the end", "[allocation]") {
  at_each_allocation(0, [&](long number) {
    Engine engine;
    engine.ends.reserve(10);
    engine.broker.enqueue(many("t", 3));
    const auto runs = engine.take_runs();
    REQUIRE(runs.size() == 3);
    for (const auto& run : runs) engine.begin(*run);
    const bool failed = fails_in(number, [&] {
      for (const auto& run : runs) engine.settler.finish(run, Outcome::success(), 0.5);
      engine.carry_out();
    });
    for (int turn = 0; turn < 10; ++turn) engine.carry_out();
    // A run whose end could not even be kept stays registered; its server runs it, or loses it, later.
    const std::size_t left = engine.memory.queue_info("default").active;
    REQUIRE(engine.registry.size() == left);
    REQUIRE(engine.settler.unsettled() == 0);
    REQUIRE(engine.ends.size() == 3 - left);
    return failed;
  });
}

TEST_CASE("a failure that lacks memory at any point is counted once", "[allocation]") {
  at_each_allocation(5, [&](long number) {
    MemoryBroker broker;
    enqueue(broker, message("t1"));
    const Run run = take_one(broker);
    const Settlement settlement{.run = run,
                                .action = SettleAction::retry,
                                .error = std::string(100, 'e'),
                                .delay = 1h,
                                .result = std::string(100, 'r')};
    const bool failed = fails_in(number, [&] { settle(broker, settlement); });
    settle(broker, settlement);  // The same, as an exchange without a reply is repeated.
    const std::optional<TaskInfo> info = broker.find("default", "t1");
    REQUIRE(info->state == TaskState::retry);
    REQUIRE(info->retried == 1);
    REQUIRE(info->last_error == settlement.error);
    REQUIRE(info->result == settlement.result);
    REQUIRE(broker.queue_info("default").failed_total == 1);
    REQUIRE(broker.queue_info("default").processed_today == 1);
    return failed;
  });
}

TEST_CASE("a cancellation that lacks memory at any point stops its run in the end", "[allocation]") {
  at_each_allocation(3, [&](long number) {
    Engine engine;
    detail::LeaseKeeper keeper{{engine.broker, engine.registry, engine.settler, engine.health,
                                engine.logger, engine.clock, engine.events},
                               10s};
    enqueue(engine.broker, message("t1"));
    const auto runs = engine.take_runs();
    engine.begin(*runs[0]);
    keeper.cancel("t1");
    const bool failed = fails_in(number, [&] { keeper.run_once(); });
    for (int turn = 0; turn < 3; ++turn) {
      engine.clock->advance(100ms);
      keeper.run_once();
    }
    REQUIRE(runs[0]->stop_reason() == StopReason::cancelled);
    return failed;
  });
}

TEST_CASE("a shutdown that lacks memory at any point ends the server", "[allocation]") {
  at_each_allocation(5, [&](long number) {
    MemoryBroker broker;
    const auto released = std::make_shared<std::latch>(1);
    const auto begun = std::make_shared<std::atomic<int>>(0);
    ServeMux mux;
    mux.handle("hangs", [=](Context&, const Task&) {
      ++*begun;
      released->wait();
    });
    mux.handle("heeds", [=](Context& context, const Task&) {
      ++*begun;
      context.wait_for(1h);
    });
    std::atomic<int> lines{0};
    std::atomic<int> events{0};
    Server server{broker,
                  std::move(mux),
                  {.concurrency = 2,
                   .shutdown_timeout = 0s,
                   .abandon_after = 50ms,
                   .hooks = {.on_state_change = [&](const TaskEvent&) { ++events; }},
                   .logger = Logger{LogLevel::debug, [&](const LogRecord&) { ++lines; }}}};
    server.start();
    Client client{broker};
    client.enqueue({.type = "hangs"});
    client.enqueue({.type = "heeds"});
    REQUIRE(eventually([&] { return *begun == 2; }));
    bool threw = false;
    const bool failed = fails_in(number, [&] {
      try {
        server.shutdown();
      } catch (...) {
        threw = true;
      }
    });
    CHECK_FALSE(threw);
    server.shutdown();
    REQUIRE(server.health().reason == "stopped");
    REQUIRE(server.stats().running == 0);
    // What was not given back is recovered as the runs of a lost worker are.
    REQUIRE(broker.queue_info("default").size() == 2);
    released->count_down();
    REQUIRE(eventually([&] { return server.stats().abandoned == 0; }));
    return failed;
  });
}

TEST_CASE("a server whose threads lack memory again and again does all its work", "[allocation]") {
  constexpr std::size_t tasks = 2000;
  MemoryBroker broker;
  std::vector<std::atomic<int>> times(tasks);
  std::atomic<std::size_t> done{0};
  ServeMux mux;
  mux.handle("t", [&](Context& context, const Task& task) -> Outcome {
    const std::size_t number = std::stoul(task.payload);
    if (number % 10 == 0 && context.retry_count() == 0) return Outcome::fail("once");
    context.wait_for(100us);
    if (++times.at(number) == 1) ++done;
    return Outcome::success();
  });
  Server server{broker,
                std::move(mux),
                {.concurrency = 3,
                 .retry_policy = FixedDelay{1ms},
                 .lease = 5s,
                 .max_crashes = 1000,
                 .upkeep_interval = 5ms,
                 .hooks = {.on_state_change = [](const TaskEvent&) {}},
                 .logger = Logger{LogLevel::error, [](LogLevel, std::string_view) {}},
                 .on_thread_start = [] { FailingAllocation::concern_this_thread(true); }}};
  server.start();
  std::vector<NewTask> batch(tasks);
  for (std::size_t i = 0; i < tasks; ++i) {
    batch[i].task = {.type = "t", .payload = std::to_string(i)};
    batch[i].options.max_retry = 1000;
  }
  Client client{broker};
  for (const EnqueueResult& result : client.enqueue_all(std::move(batch)))
    REQUIRE(result.accepted());

  // One fails each time that the work has got on a little, so that it does get on.
  long failures = 0;
  for (long i = 0; done < tasks; ++i) {
    const std::size_t before = done;
    FailingAllocation::fail_once(1 + i * 7 % 300);
    const auto failed = [] { return FailingAllocation::failures() > 0; };
    REQUIRE(eventually([&] { return (failed() && done > before) || done == tasks; }));
    failures += FailingAllocation::failures();
  }
  FailingAllocation::end();
  CHECK(failures > 10);
  CHECK(eventually([&] { return broker.queue_info("default").size() == 0; }));
  server.shutdown();
  const ServerStats stats = server.stats();
  CHECK(stats.running == 0);
  CHECK(stats.ready == 0);
  CHECK(stats.unsettled == 0);
  CHECK(stats.succeeded == tasks);
}
