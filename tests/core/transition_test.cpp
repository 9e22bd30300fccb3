#include "taskmux/detail/run/transition.hpp"

#include <limits>

#include "support/test.hpp"
#include "taskmux/queue_view.hpp"

using namespace taskmux;
using namespace std::chrono_literals;
using detail::Transition;
using detail::transition_of;

// The table can be read by the compiler.
static_assert(transition_of(SettleAction::complete, Attempt::counts, {}, {}).to == std::nullopt);

TEST_CASE("each action has its transition", "[transition]") {
  const auto of = [](SettleAction action, Duration delay = {}, std::chrono::seconds retention = 0s) {
    return transition_of(action, Attempt::counts, delay, {.retention = retention, .crashes = 2});
  };
  CHECK(of(SettleAction::complete) == Transition{.processed = true, .frees_lock = true});
  CHECK(of(SettleAction::complete, 0s, 1h) == Transition{.to = TaskState::completed,
                                                         .due_in = 1h,
                                                         .processed = true,
                                                         .frees_lock = true});
  CHECK(of(SettleAction::remove, 0s, 1h) == Transition{.processed = true, .frees_lock = true});
  CHECK(of(SettleAction::retry, 1min) == Transition{.to = TaskState::retry,
                                                    .due_in = 1min,
                                                    .processed = true,
                                                    .failed = true,
                                                    .notes_error = true,
                                                    .uses_retry = true});
  CHECK(of(SettleAction::retry) == Transition{.to = TaskState::pending,
                                              .processed = true,
                                              .failed = true,
                                              .notes_error = true,
                                              .uses_retry = true});
  CHECK(of(SettleAction::archive) == Transition{.to = TaskState::archived,
                                                .processed = true,
                                                .failed = true,
                                                .notes_error = true});
  CHECK(of(SettleAction::give_back) == Transition{.to = TaskState::pending,
                                                  .first_in_line = true,
                                                  .keeps_wish = true,
                                                  .crashes = 2});
  CHECK(of(SettleAction::snooze, 1min) ==
        Transition{.to = TaskState::scheduled, .due_in = 1min});
}

TEST_CASE("the attempt determines whether a retry counts, and the number of crashes",
          "[transition]") {
  struct Case {
    Attempt attempt;
    bool counts;
    int crashes;
    int given_back;
    bool first;
  };
  const Case c = GENERATE(values<Case>({{Attempt::counts, true, 0, 2, false},
                                        {Attempt::excused, false, 0, 2, false},
                                        {Attempt::crashed, true, 3, 3, true},
                                        {Attempt::not_begun, false, 2, 2, false}}));
  const Transition retry = transition_of(SettleAction::retry, c.attempt, {}, {.crashes = 2});
  CHECK(retry.uses_retry == c.counts);
  CHECK(retry.processed == c.counts);
  CHECK(retry.failed == c.counts);
  CHECK(retry.crashes == c.crashes);
  CHECK(retry.first_in_line == c.first);
  CHECK(retry.notes_error);
  CHECK_FALSE(transition_of(SettleAction::retry, c.attempt, 1s, {}).first_in_line);
  CHECK(transition_of(SettleAction::give_back, c.attempt, {}, {.crashes = 2}).crashes ==
        c.given_back);
  const Transition archived = transition_of(SettleAction::archive, c.attempt, {}, {.crashes = 2});
  CHECK(archived.failed);
  CHECK_FALSE(archived.uses_retry);
  CHECK(archived.crashes == c.crashes);
}

TEST_CASE("the number of crashes saturates", "[transition]") {
  const auto crashes = [](int before) {
    return transition_of(SettleAction::retry, Attempt::crashed, {}, {.crashes = before}).crashes;
  };
  CHECK(crashes(detail::most_crashes - 1) == detail::most_crashes);
  CHECK(crashes(detail::most_crashes) == detail::most_crashes);
  CHECK(crashes(std::numeric_limits<int>::max()) == detail::most_crashes);
}

TEST_CASE("an action is possible only from certain states", "[transition]") {
  static_assert(allows(TaskAction::run, TaskState::archived));
  for (const TaskState state : {TaskState::scheduled, TaskState::retry, TaskState::completed}) {
    CHECK(allows(TaskAction::run, state));
    CHECK(allows(TaskAction::archive, state));
    CHECK(allows(TaskAction::remove, state));
  }
  CHECK_FALSE(allows(TaskAction::run, TaskState::pending));
  CHECK(allows(TaskAction::archive, TaskState::pending));
  CHECK_FALSE(allows(TaskAction::archive, TaskState::archived));
  for (const TaskAction action : {TaskAction::run, TaskAction::archive, TaskAction::remove})
    CHECK_FALSE(allows(action, TaskState::active));
  CHECK_FALSE(allows(TaskAction::run, TaskState::aggregating));
  CHECK_FALSE(allows(TaskAction::archive, TaskState::aggregating));
  CHECK(allows(TaskAction::remove, TaskState::aggregating));
}
