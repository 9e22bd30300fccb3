#include <chrono>
#include <cstddef>
#include <string>
#include <utility>

#include "redis/net/commands.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/large_allocations.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

/// Less than what a broker sends at once over a line that it does not know yet.
constexpr std::size_t large = 200u << 10;

/// Runs of tasks with large payloads, each on the one connection that the broker has by now.
struct Taken {
  RedisFixture t;

  Taken() {
    // The first of each kind also sends its script.
    settle(t.broker, retried(run("r"), 1h));
    settle(t.broker, archived(run("a")));
    settle(t.broker, completed(run("c", 1h)));
  }

  Run run(std::string id, std::chrono::seconds retention = {}) {
    TaskMessage task = message(std::move(id), "default", std::string(large, 'p'));
    task.retention = retention;
    return started(t.broker, std::move(task));
  }

  /// How often something as large as the payload is copied while `settlement` is carried out.
  long copies_of(const Settlement& settlement) {
    // The buffer of the connection does not keep the memory that this took.
    enqueue(t.broker, message("filler", "other", std::string(4u << 20, 'f')));
    settle(t.broker, removed(take_one(t.broker, "other")));
    const LargeAllocations copies{large};
    CHECK(settle(t.broker, settlement) == SettleStatus::applied);
    return copies.count();
  }
};

}  // namespace

TEST_CASE("a failed attempt copies the payload at most twice", "[redis][copies]") {
  Taken taken;
  CHECK(taken.copies_of(retried(taken.run("t1"), 1h)) <= 2);
  CHECK(taken.copies_of(archived(taken.run("t2"))) <= 2);
  CHECK(taken.t.view.find("default", "t1")->task.payload == std::string(large, 'p'));
}

TEST_CASE("a success copies the payload at most twice if it is kept, and else not at all",
          "[redis][copies]") {
  Taken taken;
  CHECK(taken.copies_of(completed(taken.run("t1", 1h))) <= 2);
  CHECK(taken.copies_of(completed(taken.run("t2"))) == 0);
}

TEST_CASE("commands keep the memory of a call unless it was large", "[redis][copies]") {
  const auto allocations_after = [](std::size_t bytes) {
    const std::string text(bytes, 't');
    redis::Commands commands;
    commands.add({"SET", "key", text});
    commands.clear();
    const LargeAllocations again{bytes};
    commands.add({"SET", "key", text});
    return again.count();
  };
  CHECK(allocations_after(large) == 0);
  CHECK(allocations_after(8 * large) > 0);
}

TEST_CASE("the result of a task that is not kept does not travel", "[redis][copies]") {
  Taken taken;
  CHECK(taken.copies_of(completed(taken.run("t1"), std::string(large, 'r'))) == 0);
  Settlement revoked = removed(taken.run("t2", 1h));
  revoked.result = std::string(large, 'r');
  CHECK(taken.copies_of(revoked) == 0);
}

}  // namespace taskmux::test
