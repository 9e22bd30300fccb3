#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/engine.hpp"
#include "support/eventually.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

/// Counts how often its mux routes a task to it.
class Counted final : public TaskHandler {
 public:
  Counted(std::atomic<int>& routings, Outcome outcome)
      : routings_{routings}, outcome_{std::move(outcome)} {}
  Outcome handle(Context&, const Task&) override { return outcome_; }

 private:
  void refine(std::string_view, TaskRoute&) const noexcept override { ++routings_; }

  std::atomic<int>& routings_;
  const Outcome outcome_;
};

/// An engine with tasks whose routings are counted.
struct Routed : Engine {
  std::atomic<int> routings{0};

  Routed() {
    mux->handle("good:", std::make_unique<Counted>(routings, Outcome::success()));
    mux->handle("bad:", std::make_unique<Counted>(routings, Outcome::fail("boom")));
    mux->not_found(std::make_unique<Counted>(routings, Outcome::fail("nobody knows it")));
    ServeMux inner;
    inner.handle("nested:in", std::make_unique<Counted>(routings, Outcome::success()));
    mux->handle("nested:", std::make_unique<ServeMux>(std::move(inner)));
  }

  static TaskMessage message_of(const std::string& type) {
    TaskMessage made = message("t1");
    made.task.type = type;
    return made;
  }

  /// Runs the task on a worker's thread, and settles it.
  void run(TaskMessage task) {
    enqueue(broker, std::move(task));
    runner->start();
    make_ready(take_runs());
    CHECK(eventually([&] { return settler.unsettled() == 1; }));
    runner->join();
    carry_out();
  }

  SettleAction action() const { return ends.at(0).second; }
  const std::string& pattern() const { return patterns.at(0); }
};

}  // namespace

TEST_CASE("a run is routed once, if it succeeds, fails, or nobody handles its type", "[routing]") {
  Routed r;
  SECTION("success") {
    r.run(Routed::message_of("good:1"));
    CHECK(r.action() == SettleAction::complete);
    CHECK(r.pattern() == "good:");
  }
  SECTION("failure") {
    r.run(Routed::message_of("bad:1"));
    CHECK(r.action() == SettleAction::retry);
    CHECK(r.pattern() == "bad:");
  }
  SECTION("no handler") {
    r.run(Routed::message_of("other"));
    CHECK(r.action() == SettleAction::retry);
    CHECK(r.pattern().empty());
  }
  SECTION("a mux in a mux") {
    r.run(Routed::message_of("nested:in:1"));
    CHECK(r.action() == SettleAction::complete);
    CHECK(r.pattern() == "nested:in");
  }
  CHECK(r.routings == 1);
}

TEST_CASE("a run that comes too late is routed once", "[routing]") {
  Routed r;
  TaskMessage late = Routed::message_of("good:1");
  late.deadline = r.clock->now() - 1s;
  r.run(late);
  CHECK(r.action() == SettleAction::archive);
  CHECK(r.pattern() == "good:");
  CHECK(r.routings == 1);
}

TEST_CASE("a run that is cancelled before it was started is routed once", "[routing]") {
  Routed r;
  enqueue(r.broker, Routed::message_of("good:1"));
  r.settler.cancel(r.take_runs().at(0), CancelMode::archive, r.clock->steady_now());
  r.carry_out();
  CHECK(r.action() == SettleAction::archive);
  CHECK(r.pattern() == "good:");
  CHECK(r.routings == 1);
}

TEST_CASE("a lost run is routed once by whoever takes it over", "[routing]") {
  Routed r;
  enqueue(r.broker, Routed::message_of("good:1"));
  Run lost = take_one(r.broker);
  lost.begun = Begun::yes;
  r.settler.settle_lost(lost, false, 0.5, r.clock->steady_now() + 10s);
  r.carry_out();
  CHECK(r.action() == SettleAction::retry);
  CHECK(r.pattern() == "good:");
  CHECK(r.routings == 1);
}

TEST_CASE("a run that goes back unstarted tells its pattern too", "[routing]") {
  Routed r;
  enqueue(r.broker, Routed::message_of("good:1"));
  r.settler.give_back_unstarted(r.take_runs());
  CHECK(r.routings == 0);
  r.carry_out();
  CHECK(r.action() == SettleAction::give_back);
  CHECK(r.pattern() == "good:");
  CHECK(r.routings == 1);
}
