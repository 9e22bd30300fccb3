#include "redis/asynq/cancellations.hpp"

#include <chrono>
#include <string>

#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

struct CancellationsFixture {
  bool hear(const std::string& node, const std::string& task = "t1") {
    return cancellations.hear(node, task, now);
  }

  redis::Cancellations cancellations;
  SteadyTime now{1h};
};

TEST_CASE("a cancellation with its queue is decoded as it was encoded", "[redis]") {
  using redis::BoundCancellation;
  const BoundCancellation bound{
      .database = 12, .repeated = true, .queue = "q 1 2", .task_id = std::string{"i d\0\n", 5}};
  const auto read = BoundCancellation::decode(bound.encode());
  REQUIRE(read);
  CHECK(read->database == 12);
  CHECK(read->repeated);
  CHECK(read->queue == bound.queue);
  CHECK(read->task_id == bound.task_id);
  for (const char* text : {"", "0", "0 0", "0 0 5 abc", "x 0 1 qi", "0 0 -1 qi", "0 0 1", "0  1 qi"}) {
    CAPTURE(text);
    CHECK_FALSE(BoundCancellation::decode(text));
  }
  CHECK(BoundCancellation::decode("0 0 1 q"));  // an empty id
}

TEST_CASE("a cancellation that every node reports counts once", "[redis]") {
  CancellationsFixture t;
  CHECK(t.hear("a"));
  CHECK_FALSE(t.hear("b"));
  CHECK(t.hear("b", "t2"));
  CHECK_FALSE(t.hear("a", "t2"));
}

TEST_CASE("a second cancellation is new, whichever node reports it first", "[redis]") {
  CancellationsFixture t;
  CHECK(t.hear("a"));
  CHECK(t.hear("a"));
  CHECK_FALSE(t.hear("b"));
  CHECK_FALSE(t.hear("b"));
  CHECK(t.hear("b"));
  CHECK_FALSE(t.hear("a"));
}

TEST_CASE("a node that is added later may report an old cancellation", "[redis]") {
  CancellationsFixture t;
  CHECK(t.hear("a"));
  CHECK(t.hear("a"));
  CHECK_FALSE(t.hear("c"));
  CHECK_FALSE(t.hear("c"));
  CHECK(t.hear("c"));
}

TEST_CASE("a cancellation is forgotten 15 s after it was last reported", "[redis]") {
  CancellationsFixture t;
  CHECK(t.hear("a"));
  t.now += 14s;
  t.cancellations.forget_old(t.now);
  CHECK_FALSE(t.hear("b"));
  t.now += 14s;
  t.cancellations.forget_old(t.now);
  CHECK_FALSE(t.hear("c"));
  t.now += 15s;
  t.cancellations.forget_old(t.now);
  CHECK(t.hear("c"));
}

}  // namespace
}  // namespace taskmux::test
