#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

#include "taskmux/broker.hpp"
#include "taskmux/task.hpp"

// The effect of a settlement on a task, which is the same for all brokers:
//
// clang-format off
//
//     action               to                    counts as             lock    message
//     -------------------  --------------------  --------------------  ------  --------------------
//     complete, retained   completed             processed             freed   completed_at
//     complete             gone                  processed             freed
//     remove               gone                  processed             freed
//     retry, with a delay  retry                 processed, failed *   kept    error, retried *
//     retry, at once       pending, back **      processed, failed *   kept    error, retried *
//     archive              archived              processed, failed     kept    error
//     give_back            pending, front                              kept
//     snooze               scheduled                                   kept
//
//     attempt              *  a retry counts     crashes in a row      ** to the front
//     -------------------  --------------------  --------------------  ----------------
//     counts               yes                   0                     no
//     excused              no                    0                     no
//     crashed              yes                   one more              yes
//     not_begun            no                    as they were          no
//
// clang-format on
//
// `give_back` does not change the crashes unless the attempt crashed. It is the only action that
// keeps a cancellation request.
namespace taskmux {
inline namespace v0 {
namespace detail {

/// The effect of a settlement on its task.
struct Transition {
  /// The next state of the task; none if it is deleted.
  std::optional<TaskState> to{};
  /// How long the task stays in that state: for retry and scheduled until it is due, for completed
  /// until it is deleted.
  Duration due_in{};
  /// Pending: whether it moves to the front of the queue.
  bool first_in_line = false;
  /// Whether the attempt counts as processed, and as failed.
  bool processed = false;
  bool failed = false;
  /// Whether its unique lock is released; otherwise the lock lasts until it expires.
  bool frees_lock = false;
  /// The message receives the settlement's error and the time.
  bool notes_error = false;
  /// The message's number of retries grows by one.
  bool uses_retry = false;
  /// A cancellation request for this run also applies to the next run.
  bool keeps_wish = false;
  /// The number of workers lost in a row after the settlement.
  int crashes = 0;

  /// Whether the message changes.
  constexpr bool rewrites() const noexcept { return notes_error || to == TaskState::completed; }

  bool operator==(const Transition&) const = default;
};

/// The properties of a task that determine the effect, in addition to its settlement.
struct TaskFacts {
  std::chrono::seconds retention{0};
  /// The number of workers lost in a row before the settlement.
  int crashes = 0;
};

/// The number of crashes saturates at this value.
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

/// The same for a task whose message is that of the settlement's run: uses the run's retention and
/// crashes.
inline Transition transition_of(const Settlement& settlement) noexcept {
  const TaskMessage* message = settlement.run.message.get();
  return transition_of(settlement.action, settlement.attempt, settlement.delay,
                       {.retention = message ? message->retention : std::chrono::seconds{0},
                        .crashes = settlement.run.crashes});
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
