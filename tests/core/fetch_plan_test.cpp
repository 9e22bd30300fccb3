#include "taskmux/detail/engine/fetch_plan.hpp"

#include <functional>

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;
using namespace std::chrono_literals;

namespace {

using Names = std::vector<std::string>;
using Action = FetchPlan::Step::Action;

/// A plan for queues "a" and "b", in this order of priority, with room for two tasks.
struct Planned {
  /// Returns the next step in words: "exchange a b +1 lost", "arm", "arm all", "sleep", "sleep
  /// 20ms".
  std::string next() {
    step = plan.next(facts);
    std::string words;
    switch (step.action) {
      case Action::arm: return step.all_queues ? "arm all" : "arm";
      case Action::sleep:
        if (!step.until) return "sleep";
        return "sleep " +
               std::to_string(
                   std::chrono::round<std::chrono::milliseconds>(*step.until - facts.now).count()) +
               "ms";
      case Action::exchange:
        words = "exchange";
        for (const QueueQuota& quota : step.call.quotas) words += ' ' + quota.queue;
        if (const std::size_t lost = step.call.recalled.size(); lost > 0)
          words += " +" + std::to_string(lost) + " lost";
    }
    return words;
  }

  /// The exchange of the last step has brought `runs` tasks.
  void exchanged(std::size_t runs, bool more = false, std::optional<Duration> due = {},
                 std::vector<LostTake> lost = {}) {
    REQUIRE(step.action == Action::exchange);
    plan.exchanged(step.call,
                   {.runs = std::vector<Run>(runs),
                    .now = broker_now,
                    .next_due = due ? std::optional{broker_now + *due} : std::nullopt,
                    .more = more,
                    .lost_takes = std::move(lost)},
                   facts.now);
  }

  std::optional<SteadyTime> armed(bool ready = false, std::optional<Duration> due = {}) {
    REQUIRE(step.action == Action::arm);
    return plan.armed({.ready = ready,
                       .next_due = due ? std::optional{broker_now + *due} : std::nullopt,
                       .now = broker_now},
                      facts.now);
  }

  void hint(std::optional<Names> queues = {}) { plan.hinted(std::move(queues), facts.now); }

  void pass(Duration time) { facts.now += time; }

  void drain(std::optional<Duration> due = {}) {
    next();
    exchanged(0, false, due);
  }
  void fall_asleep(std::optional<Duration> due = {}) {
    drain(due);
    next();
    armed(false, due);
  }
  /// What is ready may not be taken ahead of a free worker.
  void block(std::optional<Duration> due = {}) {
    facts.free_workers = 0;
    next();
    exchanged(0, true, due);
  }

  const Time broker_now{std::chrono::hours{1}};
  FetchPlan plan{QueuePicker{{{"a", 2}, {"b", 1}}, true}, Random{1}};
  FetchPlan::Facts facts{.now = SteadyTime{1h}, .free_workers = 2, .room = 2, .outcomes = false};
  FetchPlan::Step step;
};

}  // namespace

TEST_CASE("the phase and what has happened decide the next step", "[plan]") {
  using Play = std::function<void(Planned&)>;
  const Play looking = [](Planned&) {};
  const Play drained = [](Planned& p) { p.drain(); };
  const Play armed = [](Planned& p) { p.fall_asleep(); };
  const Play armed_until_due = [](Planned& p) { p.fall_asleep(5s); };
  const Play blocked = [](Planned& p) { p.block(); };
  const Play blocked_until_due = [](Planned& p) { p.block(5s); };

  const Play nothing = [](Planned&) {};
  const Play outcomes = [](Planned& p) { p.facts.outcomes = true; };
  const Play no_room = [](Planned& p) { p.facts.room = p.facts.free_workers = 0; };
  const Play outcomes_without_room = [](Planned& p) {
    p.facts.room = p.facts.free_workers = 0;
    p.facts.outcomes = true;
  };
  const Play free_worker = [](Planned& p) { p.facts.free_workers = 1; };
  const Play hint = [](Planned& p) { p.hint(); };
  const Play hint_of_b = [](Planned& p) { p.hint(Names{"b"}); };
  const Play hint_of_another = [](Planned& p) { p.hint(Names{"other"}); };
  const Play failure = [](Planned& p) { p.facts.now = p.plan.failed(p.facts.now); };
  const Play time = [](Planned& p) { p.pass(5s); };

  struct Row {
    const char* phase;
    const Play& reach;
    const char* event;
    const Play& happen;
    const char* step;
  };
  // clang-format off
  const Row rows[] = {
      {"looking", looking, "nothing", nothing, "exchange a b"},
      {"looking", looking, "no room", no_room, "sleep"},
      {"looking", looking, "outcomes without room", outcomes_without_room, "exchange"},
      {"looking", looking, "a hint of b", hint_of_b, "exchange a b"},
      {"drained", drained, "nothing", nothing, "arm all"},
      {"drained", drained, "no room", no_room, "sleep"},
      {"drained", drained, "outcomes", outcomes, "exchange a b"},
      {"drained", drained, "a hint", hint, "exchange a b"},
      {"armed", armed, "nothing", nothing, "sleep"},
      {"armed", armed, "outcomes", outcomes, "exchange"},
      {"armed", armed, "a hint", hint, "exchange a b"},
      {"armed", armed, "a hint of b", hint_of_b, "exchange b"},
      {"armed", armed, "a hint of no queue of ours", hint_of_another, "arm"},
      {"armed", armed, "a failure", failure, "exchange a b"},
      {"armed until due", armed_until_due, "nothing", nothing, "sleep 5000ms"},
      {"armed until due", armed_until_due, "no room", no_room, "sleep"},
      {"armed until due", armed_until_due, "5 s", time, "exchange a b"},
      {"blocked", blocked, "nothing", nothing, "sleep"},
      {"blocked", blocked, "outcomes", outcomes, "exchange"},
      {"blocked", blocked, "a hint", hint, "sleep"},
      {"blocked until due", blocked_until_due, "5 s", time, "sleep"},
      {"blocked", blocked, "a free worker", free_worker, "exchange a b"},
      {"blocked", blocked, "a failure", failure, "exchange a b"},
  };
  // clang-format on
  for (const Row& row : rows) {
    CAPTURE(row.phase, row.event);
    Planned p;
    row.reach(p);
    row.happen(p);
    CHECK(p.next() == row.step);
  }
}

TEST_CASE("what an exchange has brought decides what follows it", "[plan]") {
  struct Row {
    std::size_t free_workers;
    std::size_t runs;
    bool more;
    const char* step;
  };
  const Row rows[] = {
      {2, 0, false, "arm all"},     {2, 1, false, "arm all"},     {2, 2, false, "exchange a b"},
      {2, 1, true, "exchange a b"}, {2, 0, true, "exchange a b"}, {0, 0, true, "sleep"},
      {0, 1, true, "exchange a b"}, {0, 0, false, "arm all"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.free_workers, row.runs, row.more);
    Planned p;
    p.facts.free_workers = row.free_workers;
    p.next();
    p.exchanged(row.runs, row.more);
    CHECK(p.next() == row.step);
  }
}

TEST_CASE("arming finds the queues empty, or something ready", "[plan]") {
  Planned p;
  p.drain();
  REQUIRE(p.next() == "arm all");
  SECTION("empty: it sleeps until a hint") {
    CHECK(p.armed() == std::nullopt);
    CHECK(p.next() == "sleep");
  }
  SECTION("empty until a task is due") {
    CHECK(p.armed(false, 3s) == p.facts.now + 3s);
    CHECK(p.next() == "sleep 3000ms");
  }
  SECTION("ready: it looks at once") {
    CHECK(p.armed(true) == p.facts.now);
    CHECK(p.next() == "exchange a b");
  }
}

TEST_CASE("the watch looks at all queues again only after a failure", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.hint();
  p.next();
  p.exchanged(1);
  REQUIRE(p.next() == "arm");
  p.facts.now = p.plan.failed(p.facts.now);
  p.drain();
  CHECK(p.next() == "arm all");
}

TEST_CASE("the watch is armed again once a task was due, whether or not it was there", "[plan]") {
  const std::size_t runs = GENERATE(std::size_t{0}, std::size_t{1});
  Planned p;
  p.fall_asleep(5s);
  p.pass(5s);
  REQUIRE(p.next() == "exchange a b");
  p.exchanged(runs);
  p.pass(20ms);
  CHECK(p.next() == "arm");
}

TEST_CASE("a wake that finds nothing is followed by a pause", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.hint();
  p.next();
  p.exchanged(0);
  p.next();
  REQUIRE(p.step.action == Action::sleep);
  REQUIRE(p.step.until);
  const auto pause = *p.step.until - p.facts.now;
  CHECK(pause >= 500us);
  CHECK(pause <= 20ms);

  SECTION("after which it goes on") {
    p.facts.now = *p.step.until;
    CHECK(p.next() == "arm");
  }
  SECTION("in which a further hint has to wait") {
    p.hint();
    p.next();
    CHECK(p.step.until == p.facts.now + pause);
    p.facts.now = *p.step.until;
    CHECK(p.next() == "exchange a b");
  }
  SECTION("in which outcomes need not wait") {
    p.facts.outcomes = true;
    CHECK(p.next() == "exchange a b");
  }
}

TEST_CASE("the pause ends when a task is due, unless it follows a due time", "[plan]") {
  Planned p;
  p.fall_asleep(100us);
  const bool due = GENERATE(false, true);
  CAPTURE(due);
  if (due) {
    p.pass(100us);
  } else {
    p.hint();
  }
  p.next();
  p.exchanged(0, false, 100us);
  p.next();
  REQUIRE(p.step.until);
  CHECK((*p.step.until == p.facts.now + 100us) == !due);
}

TEST_CASE("a due time does not concern the pause after a later hint", "[plan]") {
  Planned p;
  p.fall_asleep(5s);
  p.pass(5s);
  p.next();
  p.exchanged(1);
  REQUIRE(p.next() == "arm");
  p.armed(false, 100us);
  p.hint();
  p.next();
  p.exchanged(0, false, 100us);
  p.next();
  CHECK(p.step.until == p.facts.now + 100us);
}

TEST_CASE("only a look that follows a sleep is followed by a pause", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.hint();
  p.next();
  p.exchanged(2);
  p.next();
  p.exchanged(0);
  CHECK(p.next() == "arm");
}

TEST_CASE("after a hint of one queue, two looks are at that queue alone", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.hint(Names{"b"});
  REQUIRE(p.next() == "exchange b");
  CHECK(p.step.call.quotas.at(0).count == 2);  // It has the others' share, too.
  p.exchanged(1);
  SECTION("then at all") {
    p.facts.outcomes = true;
    CHECK(p.next() == "exchange b");
    p.exchanged(1);
    CHECK(p.next() == "exchange a b");
  }
  SECTION("unless time passes") {
    p.facts.outcomes = true;
    p.pass(100ms);
    CHECK(p.next() == "exchange a b");
  }
  SECTION("or a hint names another") {
    p.hint(Names{"a"});
    CHECK(p.next() == "exchange a b");
  }
}

TEST_CASE("once all workers are busy, a look is at all queues", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.hint(Names{"b"});
  p.next();
  p.exchanged(2);
  CHECK(p.next() == "exchange a b");
}

TEST_CASE("a look at one queue does not hide when another's task is due", "[plan]") {
  Planned p;
  p.fall_asleep(3s);
  p.hint(Names{"b"});
  p.next();
  p.exchanged(1, false, 7s);
  p.pass(3s);
  CHECK(p.next() == "exchange a b");
}

TEST_CASE("outcomes whose fate is unknown are repeated after a while, not at once", "[plan]") {
  Planned p;
  p.fall_asleep();
  p.plan.settled(true, p.facts.now);
  p.next();
  REQUIRE(p.step.action == Action::sleep);
  REQUIRE(p.step.until);
  CHECK(*p.step.until > p.facts.now);
  CHECK_FALSE(p.plan.repeats_outcomes(p.facts.now));
  p.plan.settled(true, p.facts.now + 10ms);  // Others do not put that off.
  p.facts.now = *p.step.until;
  CHECK(p.plan.repeats_outcomes(p.facts.now));
  p.facts.outcomes = true;
  CHECK(p.next() == "exchange");
  CHECK_FALSE(p.plan.repeats_outcomes(p.facts.now));
}

TEST_CASE("failures are met with pauses that grow until a call succeeds", "[plan]") {
  Planned p;
  const auto rest = [&] {
    const auto pause = p.plan.failed(p.facts.now) - p.facts.now;
    CHECK(p.plan.rests_until() == p.facts.now + pause);
    return pause;
  };
  CHECK(rest() <= 75ms);
  for (int i = 0; i < 10; ++i) {
    const auto pause = rest();
    CHECK(pause <= 450ms);
    if (i >= 3) CHECK(pause >= 150ms);
  }
  if (GENERATE(true, false)) {
    p.plan.settled(false, p.facts.now);
  } else {
    p.drain();
    p.next();
    p.armed();
  }
  CHECK(rest() <= 75ms);
}

TEST_CASE("what a lost call took is given back before its queues are asked again", "[plan]") {
  Planned p;
  p.next();
  const std::uint64_t block = p.step.call.token_block;
  p.plan.lost(std::move(p.step.call));
  p.facts.now = p.plan.failed(p.facts.now);
  CHECK(p.plan.owes());
  REQUIRE(p.next() == "exchange +1 lost");
  CHECK(p.step.call.recalled.at(0).token_block == block);
  CHECK(p.step.call.token_block != block);

  SECTION("and then they are") {
    p.exchanged(0);
    CHECK_FALSE(p.plan.owes());
    CHECK(p.next() == "exchange a b");
  }
  SECTION("but not while they are silent") {
    p.exchanged(0, false, {}, {{.token_block = block, .queues = {"a", "b"}}});
    CHECK(p.next() == "sleep 500ms");
    p.pass(500ms);
    CHECK(p.next() == "exchange +1 lost");
  }
  SECTION("and one queue does not wait for another") {
    p.exchanged(0, false, {}, {{.token_block = block, .queues = {"a"}}});
    REQUIRE(p.next() == "exchange b");
    p.exchanged(0);
    REQUIRE(p.next() == "arm all");
    p.armed();
    CHECK(p.next() == "sleep 500ms");
    p.pass(500ms);
    REQUIRE(p.next() == "exchange +1 lost");
    p.exchanged(0);  // What was given back is ready now, though the watch was armed.
    REQUIRE(p.next() == "exchange a b");
    p.exchanged(0);
    CHECK(p.next() == "arm all");
  }
  SECTION("nor once they have answered, while the call may still be carried out") {
    p.exchanged(0, false, {}, {{.token_block = block, .queues = {"a", "b"}, .answered = true}});
    CHECK(p.plan.owes());
    CHECK(p.next() == "exchange a b");
  }
}

TEST_CASE("one exchange takes a bounded number of tasks", "[plan]") {
  Planned p;
  p.facts.room = p.facts.free_workers = 5000;
  p.next();
  CHECK(p.step.call.quotas.at(0).count == 1024);
}
