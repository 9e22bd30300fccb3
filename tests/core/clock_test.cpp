#include "taskmux/clock.hpp"

#include <atomic>
#include <latch>
#include <thread>

#include "support/run.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace std::chrono_literals;

TEST_CASE("a manual clock stands still until it is moved", "[clock]") {
  ManualClock clock{Time{5s}};
  const SteadyTime before = clock.steady_now();
  CHECK(clock.now() == Time{5s});
  clock.advance(1500ms);
  CHECK(clock.now() == Time{6500ms});
  CHECK(clock.steady_now() - before == 1500ms);
  clock.advance_to(Time{10s});
  CHECK(clock.now() == Time{10s});
  clock.advance_to(Time{1s});
  CHECK(clock.now() == Time{10s});
}

TEST_CASE("the wall clock of a manual clock can be stepped separately", "[clock]") {
  ManualClock clock{Time{1h}};
  const SteadyTime before = clock.steady_now();
  clock.step_wall(-30min);
  CHECK(clock.now() == Time{30min});
  clock.step_wall(1h);
  CHECK(clock.now() == Time{90min});
  CHECK(clock.steady_now() == before);
}

TEST_CASE("advancing a manual clock wakes only sleepers whose deadline is reached", "[clock]") {
  ManualClock clock;
  Waker early;
  Waker late;
  std::atomic<int> woken{0};
  std::atomic<bool> stop{false};
  const SteadyTime start = clock.steady_now();
  const auto sleep = [&](Waker& waker, SteadyTime until) {
    while (clock.steady_now() < until && !stop) clock.wait(waker, until);
    ++woken;
  };
  std::thread first{[&] { sleep(early, start + 1s); }};
  std::thread second{[&] { sleep(late, start + 1h); }};
  clock.advance(1s);
  first.join();
  CHECK(woken == 1);
  stop = true;
  late.notify();
  second.join();
}

TEST_CASE("a notification before the wait is kept, and several count as one", "[clock]") {
  SystemClock clock;
  Waker waker;
  waker.notify();
  waker.notify();
  clock.wait(waker, std::nullopt);  // Returns at once, or this test hangs.
  clock.wait(waker, clock.steady_now());
}

TEST_CASE("a notification ends a wait on the system clock early", "[clock]") {
  SystemClock clock;
  Waker waker;
  std::latch begun{1};
  const SteadyTime far = clock.steady_now() + 1h;
  std::thread sleeper{[&] {
    begun.count_down();
    clock.wait(waker, far);
  }};
  begun.wait();
  waker.notify();
  sleeper.join();
  CHECK(clock.steady_now() < far);
}

TEST_CASE("a handler's wait ends at its deadline, or when the run is asked to stop", "[clock]") {
  const auto clock = std::make_shared<ManualClock>();
  test::OneRun run{{.type = "t"}, clock};
  std::atomic<bool> whole{false};
  std::thread waits{[&] { whole = run.context.wait_for(10s); }};
  clock->advance(9s);
  clock->advance(1s);
  // The thread may start to wait only now: then it needs another 10 s.
  std::atomic<bool> done{false};
  std::thread pushes{[&] {
    while (!done) clock->advance(1s);
  }};
  waits.join();
  done = true;
  pushes.join();
  CHECK(whole);

  bool stopped = true;
  std::thread waits_again{[&] { stopped = !run.context.wait_for(Limits::longest); }};
  run.state->request_stop(StopReason::cancelled, clock->steady_now());
  waits_again.join();
  CHECK(stopped);
  CHECK(run.context.stop_requested());
  CHECK(run.context.stop_token().stop_requested());
  CHECK(run.context.stop_reason() == StopReason::cancelled);
  CHECK_FALSE(run.context.wait_for(1s));
  CHECK_FALSE(run.context.wait_for(Duration::max()));
  CHECK_FALSE(run.state->request_stop(StopReason::timeout, clock->steady_now()));
  CHECK(run.context.stop_reason() == StopReason::cancelled);
}

TEST_CASE("a handler may wait without a limit until it is stopped", "[clock]") {
  test::OneRun run{{.type = "t"}};
  std::atomic<bool> ended{false};
  bool whole = true;
  std::thread waits{[&] {
    whole = run.context.wait_for(Duration::max());
    ended = true;
  }};
  const auto& clock = static_cast<const ManualClock&>(*run.clock);
  while (clock.sleepers() == 0 && !ended) std::this_thread::yield();
  CHECK_FALSE(ended);
  run.state->request_stop(StopReason::shutdown, clock.steady_now());
  waits.join();
  CHECK_FALSE(whole);
}
