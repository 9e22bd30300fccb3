#include "taskmux/detail/engine/slots.hpp"

#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "support/run.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using detail::Slots;

namespace {

/// Slots without workers: the test plays what those do.
struct Places {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  Slots slots;
  std::vector<std::shared_ptr<detail::RunState>> busy;

  explicit Places(std::size_t count, std::size_t most_hung = 100)
      : slots{count, most_hung, clock} {}

  void push() {
    std::shared_ptr<detail::RunState> run = OneRun{{.type = "t"}, clock}.state;
    slots.ready().push(std::span{&run, 1});
  }
  /// A worker takes the oldest run, and begins it.
  void begin(std::size_t slot) {
    busy.push_back(slots.ready().pop());
    const SteadyTime now = clock->steady_now();
    busy.back()->start(now, now + 1h, clock->now() + 1h, slot);
    slots.note_begin(slot, now);
  }
  void set_pace(SteadyTime::duration took) {
    for (int i = 0; i < 1000; ++i) slots.note_pace(took);
  }
};

struct Row {
  std::size_t count;
  std::size_t busy;
  std::size_t waiting;
  std::size_t hung;
  std::size_t missing;
  std::size_t workers;  ///< Expected.
  std::size_t total;    ///< Expected.
};

}  // namespace

TEST_CASE("there is room for what can be begun at once, while runs take long", "[slots]") {
  const Row row = GENERATE(
      // count, busy, waiting, hung, missing: workers, total
      Row{4, 0, 0, 0, 0, 4, 4}, Row{4, 1, 0, 0, 0, 3, 3}, Row{4, 4, 0, 0, 0, 0, 0},
      Row{4, 1, 2, 0, 0, 1, 1}, Row{4, 1, 3, 0, 0, 0, 0}, Row{4, 4, 2, 0, 0, 0, 0},
      // A hung handler has lost its thread, and another has taken its place.
      Row{4, 0, 0, 1, 0, 4, 4}, Row{4, 2, 1, 1, 0, 1, 1},
      // Or none has.
      Row{4, 0, 0, 1, 1, 3, 3}, Row{4, 3, 0, 1, 1, 0, 0}, Row{4, 0, 1, 1, 1, 2, 2},
      Row{1, 0, 0, 1, 1, 0, 0},
      // As many as may hang.
      Row{4, 0, 0, 2, 0, 0, 0}, Row{4, 1, 0, 3, 3, 0, 0});
  Places p{row.count, 2};
  for (std::size_t i = 0; i < row.hung; ++i) {
    p.push();
    p.begin(i);
    CHECK(p.slots.give_up(*p.busy.back()));
  }
  p.slots.set_missing(row.missing);
  for (std::size_t i = 0; i < row.busy + row.waiting; ++i) p.push();
  for (std::size_t i = 0; i < row.busy; ++i) p.begin(i);
  CHECK(p.slots.load().busy == row.busy);
  CHECK(p.slots.load().ready == row.waiting);
  CHECK(p.slots.hung() == row.hung);
  CHECK(p.slots.room().workers == row.workers);
  CHECK(p.slots.room().total == row.total);
}

TEST_CASE("the quicker runs are, the more are taken ahead of free workers", "[slots]") {
  Places p{2};
  CHECK(p.slots.room().total == 2);  // The pace is not known yet.
  p.set_pace(5ms);
  CHECK(p.slots.room().total == 2);
  p.set_pace(900us);
  CHECK(p.slots.room().total == 2 + 2 * 4);
  p.set_pace(100ns);
  CHECK(p.slots.room().total == 2 + 2 * 512);
  CHECK(p.slots.room().workers == 2);
}

TEST_CASE("nothing is taken ahead for a slot without a worker, or a worker that is busy for long",
          "[slots]") {
  Places p{2};
  p.set_pace(900us);
  p.push();
  p.begin(0);
  SECTION("hung") {
    CHECK(p.slots.give_up(*p.busy[0]));
    p.slots.set_missing(1);
    CHECK(p.slots.room().total == 1 + 4);
    p.slots.set_missing(0);
    p.slots.note_idle(0);  // Another worker has come.
    CHECK(p.slots.room().total == 2 + 8);
  }
  SECTION("busy") {
    CHECK(p.slots.room().total == 1 + 8);
    p.clock->advance(2ms);
    CHECK(p.slots.room().total == 1 + 4 + 2);
    p.clock->advance(2ms);
    CHECK(p.slots.room().total == 1 + 4);
  }
}

TEST_CASE("a handler can be given up only while it is at work", "[slots]") {
  Places p{2};
  p.push();
  p.begin(0);
  const auto run = p.busy[0];
  SECTION("it has ended") {
    CHECK(run->end(p.clock->steady_now()));
    CHECK_FALSE(p.slots.give_up(*run));
    CHECK(p.slots.hung() == 0);
    CHECK(p.slots.load().busy == 1);  // Its worker says when it is free.
  }
  SECTION("it hangs, and returns") {
    CHECK(p.slots.give_up(*run));
    CHECK_FALSE(run->end(p.clock->steady_now()));
    CHECK(p.slots.hung() == 1);
    CHECK(p.slots.load().busy == 0);
    CHECK_FALSE(p.slots.give_up(*run));
    CHECK(p.slots.hung() == 1);
    p.slots.note_returned();
    CHECK(p.slots.hung() == 0);
  }
}

TEST_CASE("there is room again once a hung handler has returned", "[slots]") {
  Places p{2, 1};
  p.push();
  p.begin(0);
  CHECK(p.slots.give_up(*p.busy[0]));
  CHECK(p.slots.is_full_of_hung());
  CHECK(p.slots.room().total == 0);
  p.slots.note_returned();
  CHECK_FALSE(p.slots.is_full_of_hung());
  CHECK(p.slots.room().total == 2);
}
