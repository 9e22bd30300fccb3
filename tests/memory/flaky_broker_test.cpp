#include "support/flaky_broker.hpp"

#include <thread>

#include "memory_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

struct FlakyFixture : MemoryFixture {
  FlakyBroker flaky{memory};
};

TEST_CASE("a flaky broker forwards calls by default", "[flaky]") {
  FlakyFixture t;
  CHECK_FALSE(enqueue(t.flaky, message("t1")).error);
  const Run run = take_one(t.flaky);
  CHECK(extend(t.flaky, run).status == LeaseStatus::ok);
  CHECK(settle(t.flaky, completed(run)) == SettleStatus::applied);
  CHECK(upkeep(t.flaky).now == t.clock.now());
  CHECK_NOTHROW(t.flaky.ping());
  t.flaky.announce({.id = "s"}, 10s);
  CHECK(t.broker.registry().servers().size() == 1);
  t.flaky.retire({.id = "s"});
  CHECK(t.broker.registry().servers().empty());
  CHECK(t.flaky.queue_view().queues() == t.view.queues());
  CHECK(t.flaky.calls(Operation::exchange) == 2);
  CHECK(t.flaky.calls(Operation::ping) == 1);
}

TEST_CASE("the given number of calls fail and don't reach the broker", "[flaky]") {
  FlakyFixture t;
  t.flaky.fail(Operation::enqueue, 1);
  t.flaky.fail(Operation::exchange, 2);
  CHECK(enqueue(t.flaky, message("t1")).error == Errc::unavailable);
  CHECK(t.view.queues().empty());
  CHECK_FALSE(enqueue(t.flaky, message("t1")).error);

  CHECK(error_of([&] { take(t.flaky); }) == Errc::unavailable);
  CHECK(error_of([&] { take(t.flaky); }) == Errc::unavailable);
  CHECK(state_of(t.view, "t1") == TaskState::pending);
  CHECK(take(t.flaky).size() == 1);
}

TEST_CASE("every operation can fail until the broker recovers", "[flaky]") {
  FlakyFixture t;
  const auto watch = t.flaky.watch({"default"}, [](const Hint&) {});
  for (const Operation operation :
       {Operation::extend, Operation::watch, Operation::arm, Operation::upkeep,
        Operation::announce, Operation::retire, Operation::ping}) {
    t.flaky.fail(operation);
  }
  for (int i = 0; i < 2; ++i) {
    CHECK(error_of([&] { extend(t.flaky, {}); }) == Errc::unavailable);
    CHECK(error_of([&] { t.flaky.watch({}, [](const Hint&) {}); }) == Errc::unavailable);
    CHECK(error_of([&] { watch->arm(); }) == Errc::unavailable);
    CHECK(error_of([&] { upkeep(t.flaky); }) == Errc::unavailable);
    CHECK(error_of([&] { t.flaky.announce({}, 1s); }) == Errc::unavailable);
    CHECK(error_of([&] { t.flaky.retire({}); }) == Errc::unavailable);
    CHECK(error_of([&] { t.flaky.ping(); }) == Errc::unavailable);
  }
  t.flaky.recover();
  CHECK_NOTHROW(watch->arm());
  CHECK_NOTHROW(t.flaky.ping());
  CHECK(extend(t.flaky, {}).status == LeaseStatus::lost);
}

TEST_CASE("a lost reply does not undo the call", "[flaky]") {
  FlakyFixture t;
  t.flaky.lose_reply(Operation::enqueue, 1);
  CHECK(enqueue(t.flaky, message("t1")).error == Errc::unavailable);
  CHECK(enqueue(t.flaky, message("t1")).error == Errc::task_id_conflict);

  const Run run = take_one(t.flaky);
  t.flaky.lose_reply(Operation::exchange, 1);
  CHECK(error_of([&] { settle(t.flaky, completed(run)); }) == Errc::unavailable);
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(settle(t.flaky, completed(run)) == SettleStatus::stale);
}

TEST_CASE("a held call hangs until it is released", "[flaky]") {
  FlakyFixture t;
  enqueue(t.flaky, message("t1"));
  t.flaky.hold(Operation::exchange, 1);
  std::vector<Run> runs;
  std::jthread taker{[&] { runs = take(t.flaky); }};
  t.flaky.wait_held(Operation::exchange);
  CHECK(state_of(t.view, "t1") == TaskState::pending);
  CHECK(t.flaky.calls(Operation::exchange) == 1);

  t.flaky.release(Operation::exchange);
  taker.join();
  CHECK(ids(runs) == std::vector<std::string>{"t1"});
  CHECK(take(t.flaky).empty());
}

TEST_CASE("a held call may fail after its release", "[flaky]") {
  FlakyFixture t;
  t.flaky.hold(Operation::ping);
  t.flaky.fail(Operation::ping, 1);
  std::optional<Errc> error;
  std::jthread caller{[&] { error = error_of([&] { t.flaky.ping(); }); }};
  t.flaky.wait_held(Operation::ping);
  t.flaky.wait_calls(Operation::ping, 1);
  t.flaky.release(Operation::ping);
  caller.join();
  CHECK(error == Errc::unavailable);
  CHECK_NOTHROW(t.flaky.ping());
}

}  // namespace
}  // namespace taskmux::test
