#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include "taskmux/broker.hpp"
#include "taskmux/task.hpp"

// What a settlement does to a task, for all brokers alike:
//
// clang-format off
//
//     action               to                    counts as             lock    message
//     -------------------  --------------------  --------------------  ------  --------------------
//     complete, retained   completed             processed             freed   completed_at
//     complete             gone                  processed             freed
//     remove               gone                  processed             freed
//     retry, with a delay  retry                 processed, failed *   kept    error, retried *
//     retry, at once       pending, last **      processed, failed *   kept    error, retried *
//     archive              archived              processed, failed     kept    error
//     give_back            pending, first                              kept
//     snooze               scheduled                                   kept
//
//     attempt              *  a retry counts     crashes in a row      ** first in line
//     -------------------  --------------------  --------------------  ----------------
//     counts               yes                   0                     no
//     excused              no                    0                     no
//     crashed              yes                   one more              yes
//     not_begun            no                    as they were          no
//
// clang-format on
//
// A run that is given back leaves the crashes as they were unless it crashed, and is the only one
// after which a wish to cancel it stays.
namespace taskmux {
inline namespace v0 {
namespace detail {

/// What a settlement does to its task.
struct Transition {
  /// The state that the task is in next; none: it is gone.
  std::optional<TaskState> to{};
  /// When it leaves that state by itself, from now: retry, scheduled: it is due; completed: it is
  /// deleted.
  Duration due_in{};
  /// Pending: before all others.
  bool first_in_line = false;
  /// The attempt adds to those that ended, and to those that failed.
  bool processed = false;
  bool failed = false;
  /// Its unique lock is free; else it lasts as long as was asked for.
  bool frees_lock = false;
  /// The message gets the settlement's error, and the time of it.
  bool notes_error = false;
  /// The message gets one more retry.
  bool uses_retry = false;
  /// A wish to cancel the run is one to cancel the next, too.
  bool keeps_wish = false;
  /// Workers lost in a row from now on.
  int crashes = 0;

  /// Whether the message is not what it was.
  constexpr bool rewrites() const noexcept { return notes_error || to == TaskState::completed; }

  bool operator==(const Transition&) const = default;
};

/// What of a task decides, in addition to its settlement.
struct TaskFacts {
  std::chrono::seconds retention{0};
  /// Workers lost in a row until now.
  int crashes = 0;
};

/// More crashes are not told apart.
inline constexpr int most_crashes = 65'535;

constexpr Transition transition_of(SettleAction action, Attempt attempt, Duration delay,
                                   TaskFacts task) noexcept {
  const bool crashed = attempt == Attempt::crashed;
  const bool counts = crashed || attempt == Attempt::counts;
  Transition next;
  if (crashed) {
    next.crashes = std::min(task.crashes, most_crashes - 1) + 1;
  } else if (attempt == Attempt::not_begun || action == SettleAction::give_back) {
    next.crashes = task.crashes;
  }
  switch (action) {
    case SettleAction::complete:
      if (task.retention.count() > 0) next.to = TaskState::completed;
      next.due_in = task.retention;
      next.processed = next.frees_lock = true;
      break;
    case SettleAction::remove: next.processed = next.frees_lock = true; break;
    case SettleAction::retry:
      next.to = delay > Duration{0} ? TaskState::retry : TaskState::pending;
      next.due_in = std::max(delay, Duration{0});
      next.first_in_line = crashed && next.to == TaskState::pending;
      next.processed = next.failed = next.uses_retry = counts;
      next.notes_error = true;
      break;
    case SettleAction::archive:
      next.to = TaskState::archived;
      next.processed = next.failed = next.notes_error = true;
      break;
    case SettleAction::give_back:
      next.to = TaskState::pending;
      next.first_in_line = next.keeps_wish = true;
      break;
    case SettleAction::snooze:
      next.to = TaskState::scheduled;
      next.due_in = delay;
      break;
  }
  return next;
}

/// The same, of a task whose message is that of the settlement's run: retention and crashes are the
/// run's.
inline Transition transition_of(const Settlement& settlement) noexcept {
  const TaskMessage* message = settlement.run.message.get();
  return transition_of(settlement.action, settlement.attempt, settlement.delay,
                       {.retention = message ? message->retention : std::chrono::seconds{0},
                        .crashes = settlement.run.crashes});
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
