#include "taskmux/detail/engine/watchdog.hpp"

#include <latch>

#include "support/engine.hpp"
#include "support/eventually.hpp"
#include "support/no_threads.hpp"
#include "support/test.hpp"
#include "support/violations.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Phase = detail::RunState::Phase;

namespace {

struct Watching : Engine {
  explicit Watching(std::size_t concurrency = 2) : Engine{concurrency} {}
  detail::Watchdog dog{{registry, *slots, *runner, settler, health, logger, clock, events}, 5s};

  Duration until(std::optional<SteadyTime> next) {
    return std::chrono::duration_cast<Duration>(next.value() - clock->steady_now());
  }
};

}  // namespace

TEST_CASE("with nothing to watch it sleeps, and a new run wakes it", "[watchdog]") {
  Watching w;
  CHECK(w.dog.run_once() == std::nullopt);
  CHECK(w.dog.concerns(w.clock->steady_now()));
  enqueue(w.broker, message("t1"));
  w.take_runs();
  CHECK(w.until(w.dog.run_once()) <= 21ms);
  CHECK_FALSE(w.dog.concerns(w.clock->steady_now() + 10ms));
}

TEST_CASE("at its deadline a run is asked to stop, with the reason", "[watchdog]") {
  Watching w;
  enqueue(w.broker, message("t1"));
  const auto runs = w.take_runs();
  w.begin(*runs[0], 3s);
  CHECK(w.until(w.dog.run_once()) == 3s);
  w.clock->advance(3s - 1us);
  w.dog.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::none);
  w.clock->advance(1us);
  CHECK(w.until(w.dog.run_once()) == 5s);
  CHECK(runs[0]->stop_reason() == StopReason::timeout);
  CHECK(runs[0]->phase() == Phase::running);
}

TEST_CASE("runs that no worker takes are given back after 20 ms, the oldest at the front",
          "[watchdog]") {
  Watching w;
  w.broker.enqueue(many("t", 4));
  const auto runs = w.take_runs(3);
  w.make_ready(runs);
  w.clock->advance(19ms);
  w.dog.run_once();
  CHECK(w.settler.unsettled() == 0);
  w.clock->advance(1ms);
  w.dog.run_once();
  CHECK(w.settler.unsettled() == 3);
  w.carry_out();
  CHECK(ids(w.memory, TaskState::pending) == std::vector<std::string>{"t1", "t2", "t3", "t4"});
  CHECK(w.registry.size() == 0);
  CHECK(w.dog.run_once() == std::nullopt);
}

TEST_CASE("later runs are given back with it, so that the order is kept", "[watchdog]") {
  Watching w;
  w.broker.enqueue(many("t", 5));
  w.make_ready(w.take_runs(2));
  w.clock->advance(15ms);
  w.make_ready(w.take_runs(2));
  w.clock->advance(5ms);
  w.dog.run_once();
  CHECK(w.slots->load().ready == 0);
  w.carry_out();
  CHECK(ids(w.memory, TaskState::pending) ==
        std::vector<std::string>{"t1", "t2", "t3", "t4", "t5"});
}

TEST_CASE("an overdue run that is in no queue is checked now and then, not all the time",
          "[watchdog]") {
  Watching w;
  enqueue(w.broker, message("t1"));
  w.take_runs();  // And not handed to the workers yet.
  w.clock->advance(1s);
  CHECK(w.until(w.dog.run_once()) == 20ms);
}

TEST_CASE("nothing is taken ahead for a worker that is busy for longer than usual", "[watchdog]") {
  Watching w{2};
  for (int i = 0; i < 1000; ++i) w.slots->note_pace(100us);
  std::latch entered{1};
  std::latch leave{1};
  w.mux->handle("long", [&](Context&, const Task&) {
    entered.count_down();
    leave.wait();
  });
  TaskMessage task = message("t1");
  task.task.type = "long";
  enqueue(w.broker, task);
  w.runner->start();
  w.make_ready(w.take_runs());
  entered.wait();
  const std::size_t quick = w.slots->room().total;
  CHECK(quick > 50);
  w.clock->advance(1ms);
  const std::size_t slower = w.slots->room().total;
  CHECK(slower < quick - 30);
  w.clock->advance(3ms);
  CHECK(w.slots->room().total == 1 + (quick - 1) / 2);  // For the other worker, with what it takes.
  CHECK(w.slots->room().workers == 1);
  leave.count_down();
  w.runner->join();
}

TEST_CASE("after runs were given back, none is taken ahead until a worker has ended one",
          "[watchdog]") {
  Watching w{1};
  for (int i = 0; i < 1000; ++i) w.slots->note_pace(1us);
  CHECK(w.slots->room().total > 100);
  w.broker.enqueue(many("t", 3));
  w.make_ready(w.take_runs());
  w.clock->advance(20ms);
  w.dog.run_once();
  CHECK(w.settler.unsettled() == 3);
  CHECK(w.slots->room().total == 1);
  w.slots->note_pace(1us);
  CHECK(w.slots->room().total > 100);
}

TEST_CASE("the fetcher is woken when a missing worker could be started", "[watchdog]") {
  Watching w{1};
  const auto hang = std::make_shared<std::latch>(1);
  std::latch entered{1};
  w.mux->handle("hang", [&entered, hang](Context&, const Task&) {
    entered.count_down();
    hang->wait();
  });
  TaskMessage hanging = message("t1");
  hanging.task.type = "hang";
  hanging.timeout = 1s;
  enqueue(w.broker, hanging);
  w.runner->start();
  w.make_ready(w.take_runs());
  entered.wait();
  w.clock->advance(1s);
  w.dog.run_once();
  w.clock->advance(5s);
  {
    const NoThreads none;
    w.dog.run_once();
  }
  CHECK(w.slots->hung() == 1);
  CHECK(w.slots->missing() == 1);
  hang->count_down();
  while (w.slots->hung() > 0) std::this_thread::yield();
  const int before = w.exchanges_due;
  {
    // The hung handler has come back, but there still is no thread.
    const NoThreads none;
    w.dog.run_once();
  }
  CHECK(w.slots->room().total == 0);
  const int still = w.exchanges_due;
  w.clock->advance(5s);
  w.dog.run_once();
  CHECK(w.slots->room().total == 1);
  CHECK(w.exchanges_due > still);
  CHECK(still >= before);
}

TEST_CASE("a handler that hangs is given up, its run fails, and another worker takes its place",
          "[watchdog]") {
  Watching w{1};
  const auto hang = std::make_shared<std::latch>(1);
  const auto entered = std::make_shared<std::latch>(1);
  const auto left = std::make_shared<std::latch>(1);
  const auto violations = std::make_shared<Violations>();
  w.mux->handle("hang", [=](Context& context, const Task&) {
    entered->count_down();
    hang->wait();
    context.set_result("too late");
    violations->expect(!context.wait_for(1h), "a given-up handler waits");
    violations->expect(context.stop_requested(), "a given-up handler is not stopped");
    left->count_down();
  });
  TaskMessage hanging = message("t1");
  hanging.task.type = "hang";
  hanging.timeout = 3s;
  hanging.retention = 1h;
  enqueue(w.broker, hanging);
  enqueue(w.broker, message("t2", "default", "second"));
  w.runner->start();
  const auto runs = w.take_runs();
  w.make_ready(runs);
  entered->wait();

  w.clock->advance(3s);
  w.dog.run_once();
  CHECK(runs[0]->stop_reason() == StopReason::timeout);
  w.clock->advance(5s);
  w.dog.run_once();
  CHECK(runs[0]->phase() == Phase::abandoned);
  CHECK(w.slots->hung() == 1);
  CHECK(w.slots->room().total == 0);  // As many as may hang.
  CHECK_FALSE(w.health.health().healthy);
  while (w.settler.unsettled() < 2)
    std::this_thread::yield();  // The other worker runs t2, or it went back unstarted.
  w.carry_out();
  CHECK(w.state("t1") == TaskState::retry);
  CHECK(w.memory.find("default", "t1")->last_error.find("timed out after ") == 0);

  hang->count_down();
  left->wait();
  CHECK(violations->all() == std::vector<std::string>{});
  while (w.slots->hung() > 0) std::this_thread::yield();
  const int before = w.exchanges_due;
  w.dog.run_once();
  CHECK(w.exchanges_due == before + 1);
  CHECK(w.health.health().healthy);
  CHECK(w.settler.unsettled() == 0);  // What it did late went nowhere.
  CHECK(w.memory.find("default", "t1")->result.empty());
}

TEST_CASE("a handler that ends just as it is to be given up keeps its outcome", "[watchdog]") {
  Watching w;
  enqueue(w.broker, message("t1"));
  const auto runs = w.take_runs();
  w.begin(*runs[0], 1s);
  runs[0]->advance(Phase::running, Phase::ended);
  w.dog.give_up(runs[0], true);
  CHECK(w.slots->hung() == 0);
  CHECK(w.settler.unsettled() == 0);
}

TEST_CASE("a worker whose run was given back reports that it is free", "[watchdog]") {
  Watching w{1};
  enqueue(w.broker, message("t1"));
  const auto runs = w.take_runs();
  runs[0]->advance(Phase::ready, Phase::ended);
  w.make_ready(runs);
  w.runner->start();
  while (w.skips == 0) std::this_thread::yield();
  CHECK(w.slots->load().busy == 0);
  CHECK(w.handled.empty());
}

TEST_CASE("a step of the wall clock neither ends nor prolongs an attempt", "[watchdog][clock]") {
  Watching w;
  const Duration step = GENERATE(Duration{1h}, Duration{-1h});
  TaskMessage timed = message("t1");
  timed.timeout = 10min;
  TaskMessage due = message("t2");
  due.timeout = 0s;
  due.deadline = w.clock->now() + 10min;
  enqueue(w.broker, timed);
  enqueue(w.broker, due);
  const auto runs = w.take_runs();
  for (const auto& run : runs) {
    const auto limits = detail::attempt_limits(run->message(), std::nullopt, w.clock->steady_now(),
                                               run->taken_at_wall());
    run->start(w.clock->steady_now(), limits.steady, limits.wall, 0);
  }
  w.clock->step_wall(step);
  w.clock->advance(10min - 1us);
  w.dog.run_once();
  for (const auto& run : runs) CHECK(run->stop_reason() == StopReason::none);
  w.clock->advance(1us);
  w.dog.run_once();
  for (const auto& run : runs) CHECK(run->stop_reason() == StopReason::timeout);
}

TEST_CASE("an attempt's deadline uses the wall clock at the time of the take",
          "[watchdog][clock]") {
  Engine e;
  TaskMessage due = message("t1");
  due.timeout = 0s;
  due.deadline = e.clock->now() + 2h;
  enqueue(e.broker, due);
  e.clock->step_wall(1h);
  const QueueQuota quotas[] = {{"default", 1}};
  const ExchangeReply reply = e.broker.exchange({.quotas = quotas});
  const auto limits = detail::attempt_limits(*reply.runs.at(0).message, std::nullopt,
                                             e.clock->steady_now(), reply.now);
  CHECK(limits.steady - e.clock->steady_now() == 1h);
  CHECK(limits.wall == due.deadline);
}

TEST_CASE("a run taken more than a lease ago is not started, and is given back uncounted",
          "[watchdog]") {
  Watching w{1};
  const auto pause = GENERATE(9s, 10s);
  w.mux->handle("pause:", [&](Context&, const Task&) { w.clock->advance(pause); });
  TaskMessage first = message("t1");
  first.task.type = "pause:";
  enqueue(w.broker, first);
  TaskMessage second = message("t2");
  second.max_retry = 0;
  enqueue(w.broker, second);
  w.make_ready(w.take_runs());
  w.runner->start();
  REQUIRE(eventually([&] { return w.settler.unsettled() == 2; }));
  w.runner->join();
  CHECK(w.handled.size() == (pause == 9s ? 1 : 0));
  CHECK(w.lapses == (pause == 9s ? 0 : 1));
  w.carry_out();
  CHECK(w.state("t2") == (pause == 9s ? std::nullopt : std::optional{TaskState::pending}));
  CHECK(w.registry.size() == 0);
}

TEST_CASE("with an abandon time of 0, it still pauses between checks of handlers that hang",
          "[watchdog]") {
  Watching w{1};
  detail::Watchdog dog{
      {w.registry, *w.slots, *w.runner, w.settler, w.health, w.logger, w.clock, w.events}, 0s};
  const auto go = std::make_shared<std::latch>(1);
  const auto entered = std::make_shared<std::latch>(1);
  w.mux->handle("hang", [=](Context&, const Task&) {
    entered->count_down();
    go->wait();
  });
  TaskMessage hanging = message("t1");
  hanging.task.type = "hang";
  enqueue(w.broker, hanging);
  w.runner->start();
  const auto runs = w.take_runs();
  w.make_ready(runs);
  entered->wait();
  runs[0]->request_stop(StopReason::cancelled, w.clock->steady_now());
  dog.run_once();
  CHECK(w.slots->hung() == 1);
  CHECK(w.until(dog.run_once()) == 100ms);
  go->count_down();
  while (w.slots->hung() > 0) std::this_thread::yield();
}

TEST_CASE("a run that is too late for any attempt is ended without being started", "[runner]") {
  Engine e;
  TaskMessage late = message("t1");
  SECTION("after its deadline") { late.deadline = e.clock->now() - 1s; }
  SECTION("after it has expired") { late.expires_at = e.clock->now(); }
  SECTION("with a timeout that a Go client wrote") { late.timeout = -1s; }
  enqueue(e.broker, late);
  e.runner->start();
  e.make_ready(e.take_runs());
  while (e.settler.unsettled() == 0) std::this_thread::yield();
  e.runner->join();
  e.carry_out();
  CHECK(e.starts == 0);
  CHECK(e.handled.empty());
  CHECK(e.state("t1") == TaskState::archived);
  CHECK(e.memory.find("default", "t1")->retried == 0);
}
