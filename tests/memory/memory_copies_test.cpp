#include <chrono>
#include <cstddef>
#include <string>

#include "support/engine.hpp"
#include "support/large_allocations.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

constexpr std::size_t large = 1 << 20;

/// How often the payload of a task is copied from when its handler returned to when its outcome is
/// recorded.
long copies_of_attempt(const Outcome& outcome, std::chrono::seconds retention, int max_retry = 25) {
  Engine e;
  TaskMessage task = message("t1", "default", std::string(large, 'p'));
  task.retention = retention;
  task.max_retry = max_retry;
  enqueue(e.broker, std::move(task));
  const auto runs = e.take_runs();
  e.begin(*runs.at(0));
  runs[0]->end(e.clock->steady_now());
  const LargeAllocations copies{large};
  e.settler.finish(runs[0], outcome, 0.5);
  CHECK(e.carry_out() == std::vector<SettleStatus>{SettleStatus::applied});
  return copies.count();
}

}  // namespace

TEST_CASE("a task's payload is not copied from its enqueue to its handler", "[memory][copies]") {
  Engine e;
  std::vector<EnqueueRequest> batch;
  batch.push_back(pending(message("t1", "default", std::string(large, 'p'))));
  const LargeAllocations copies{large};
  e.memory.enqueue(std::move(batch));
  CHECK(e.take_runs().at(0)->message().task.payload.size() == large);
  CHECK(copies.count() == 0);
}

TEST_CASE("a failed attempt copies the payload at most once", "[memory][copies]") {
  CHECK(copies_of_attempt(Outcome::fail("boom"), 0s) <= 1);
  CHECK(copies_of_attempt(Outcome::fail("boom"), 0s, 0) <= 1);
  CHECK(copies_of_attempt(Outcome::skip_retry("boom"), 1h) <= 1);
}

TEST_CASE("a success copies the payload at most once if it is kept, and else not at all",
          "[memory][copies]") {
  CHECK(copies_of_attempt(Outcome::success(), 1h) <= 1);
  CHECK(copies_of_attempt(Outcome::success(), 0s) == 0);
}
