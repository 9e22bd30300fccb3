#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "taskmux/detail/base/config.hpp"

namespace taskmux {
inline namespace v0 {

/// An instant of the wall clock, UTC, with microsecond resolution. An instant with a finer
/// resolution, such as std::chrono::system_clock::now() in libstdc++, does not convert to it
/// implicitly: see to_time() and Instant.
using Time = std::chrono::sys_time<std::chrono::microseconds>;

/// Returns `instant` as a Time, rounded up.
template <typename Unit>
constexpr Time to_time(std::chrono::sys_time<Unit> instant) {
  return std::chrono::ceil<Time::duration>(instant);
}

/// A Time to which any instant of std::chrono::system_clock converts implicitly, rounded up:
///
///     {.process_at = std::chrono::system_clock::now() + 10s}
struct Instant : Time {
  constexpr Instant() = default;
  template <typename Unit>
  constexpr Instant(std::chrono::sys_time<Unit> instant) : Time{to_time(instant)} {}
};

/// A length of time, with microsecond resolution. Any coarser std::chrono duration converts to it:
/// `10min`, `1h`; for a finer one, use std::chrono::ceil<Duration>().
using Duration = std::chrono::microseconds;

/// Metadata that travels with a task; keys and values are UTF-8 without a NUL.
using Headers = std::map<std::string, std::string, std::less<>>;

/// A piece of work: its type, and the bytes that its handler needs. A plain value.
struct Task {
  std::string type{};     ///< Chooses the handler, such as "email:welcome". UTF-8, not blank.
  std::string payload{};  ///< Any bytes; taskmux does not interpret them.
  Headers headers{};      ///< Such as a trace id. Preserved by retries.
};

/// The state of a task.
enum class TaskState {
  pending,      ///< Ready to run.
  active,       ///< Being run by a worker, under a lease.
  scheduled,    ///< Waiting until it is due.
  retry,        ///< Failed, and waiting for its next attempt.
  archived,     ///< In the dead-letter queue.
  completed,    ///< Succeeded, and kept while its retention lasts.
  aggregating,  ///< In a group of Go's asynq. taskmux shows such tasks, but does not create them.
};

/// Returns the state's name as asynq spells it, such as "pending".
constexpr std::string_view to_string(TaskState state) noexcept {
  switch (state) {
    case TaskState::pending: return "pending";
    case TaskState::active: return "active";
    case TaskState::scheduled: return "scheduled";
    case TaskState::retry: return "retry";
    case TaskState::archived: return "archived";
    case TaskState::completed: return "completed";
    case TaskState::aggregating: return "aggregating";
  }
  return "unknown";
}

/// The limits that Client enforces. A worker also runs tasks of peers that exceed them.
struct Limits {
  /// Bytes of a task type, a queue name, a task id or a header key.
  static constexpr std::size_t name_bytes = 512;
  /// Bytes of all header keys and values of one task together.
  static constexpr std::size_t header_bytes = 64 * 1024;
  /// The default of ClientConfig::max_payload_bytes.
  static constexpr std::size_t payload_bytes = 16u << 20;
  /// The default of ServerConfig::max_result_bytes.
  static constexpr std::size_t result_bytes = 16u << 20;
  /// An error text is truncated to this length, at a character boundary.
  static constexpr std::size_t error_text_bytes = 8 * 1024;
  /// No duration may be longer.
  static constexpr Duration longest = std::chrono::hours{24 * 365 * 100};
};

/// Options of one task. Every field may be left out; then the client's defaults for the type apply,
/// and else the defaults that are stated here. Intended for designated initialisers:
///
///     client.enqueue({.type = "email:welcome", .payload = "42"},
///                    {.queue = "critical", .process_in = 10min});
struct EnqueueOptions {
  /// The queue; "default" when left out.
  std::optional<std::string> queue{};
  /// The id, unique within the queue across all states. A random UUID when left out.
  std::optional<std::string> task_id{};
  /// How often a failed task is retried before it is archived; 0 or more, 25 when left out.
  std::optional<int> max_retry{};
  /// How long one attempt may take, rounded up to whole seconds. 30 min when neither this nor
  /// `deadline` is given.
  std::optional<Duration> timeout{};
  /// The instant at which every attempt ends, rounded up to a whole second; must lie in the future,
  /// and after `process_at` or `process_in`. A task that was not started before it is archived. The
  /// time left is computed when an attempt starts, so a later step of the wall clock does not move
  /// its end.
  std::optional<Instant> deadline{};
  /// The task does not run before this instant; an instant in the past means at once. Can't be
  /// combined with `process_in`.
  std::optional<Instant> process_at{};
  /// The task does not run before this much time has passed on the broker's clock: a steady clock
  /// in the memory broker, the clock of the server with Redis. Can't be combined with `process_at`.
  std::optional<Duration> process_in{};
  /// For this long, or until the task succeeds or is deleted, no other task with the same queue,
  /// type and payload is accepted. At least 1 s; rounded up to whole seconds. Counted from the time
  /// at which the task may run.
  std::optional<Duration> unique_for{};
  /// How long the task is kept, with its result, after it succeeded; rounded up to whole seconds.
  /// When left out, the task is deleted once it has succeeded.
  std::optional<Duration> retention{};
  /// A task that no worker has started by this instant is archived instead of run. Must lie after
  /// `process_at`. Go workers ignore it. Can't be combined with `expires_in`.
  std::optional<Instant> expires_at{};
  /// As `expires_at`, counted from now on the broker's clock. Must be longer than `process_in`.
  std::optional<Duration> expires_in{};
  /// Makes it safe to repeat the call with the same `task_id` and `idempotent_for` after an error
  /// that leaves the outcome unknown (Errc::unavailable). For this long after it accepted a task,
  /// the broker remembers the id. It answers a repeat with EnqueueResult::accepted_before instead
  /// of accepting a second task, whether the first one still exists or has ended, expired or been
  /// deleted. At least 1 s; rounded up to whole seconds. A repeat does not extend the time.
  /// Deleting the queue ends it. Off when left out, since each remembered id costs memory: about 90
  /// bytes in a MemoryBroker, about 150 on Redis for an id of 36 characters.
  std::optional<Duration> idempotent_for{};
  /// Whether the unique lock treats an empty payload as a payload (as asynq's CLI does) or as no
  /// payload (as most Go code does). Matters only for locks that are shared with Go programs.
  bool unique_empty_payload = false;
};

/// The defaults for all tasks of a type, used where EnqueueOptions leave a field out. The bounds
/// are those of EnqueueOptions.
struct TypeDefaults {
  /// The queue; "default" when left out.
  std::optional<std::string> queue{};
  /// How often a failed task is retried before it is archived; 0 or more, where 0 means never. 25
  /// when left out.
  std::optional<int> max_retry{};
  /// How long one attempt may take: above 0, rounded up to whole seconds. When left out, 30 min
  /// unless the task has a deadline.
  std::optional<Duration> timeout{};
  /// How long the task is kept, with its result, after it succeeded: 0 or more, rounded up to whole
  /// seconds. With 0, or when left out, it is deleted at once.
  std::optional<Duration> retention{};
};

/// A task as a broker stores it and a worker receives it. An unset instant is the epoch, `Time{}`,
/// as in asynq's wire format. A plain value: the broker and the engine share it as const once it
/// has been accepted.
struct TaskMessage {
  std::string id{};
  std::string queue{};
  Task task{};
  int max_retry = 25;
  int retried = 0;                    ///< Failures counted so far.
  std::chrono::seconds timeout{0};    ///< Of one attempt; 0: none.
  std::chrono::seconds retention{0};  ///< How long it is kept after success; 0: it is deleted.
  Time deadline{};                    ///< Whole seconds.
  Time last_failed_at{};              ///< Whole seconds on Redis.
  Time completed_at{};                ///< Whole seconds on Redis.
  Time enqueued_at{};                 ///< Set by the broker; unset if a Go client wrote it.
  Time expires_at{};                  ///< It is not started after this instant.
  std::string last_error{};           ///< The error of the last failure; UTF-8.
  std::string unique_key{};  ///< The lock that it holds, in the broker's own form; empty: none.
};

/// A snapshot of a stored task. It does not follow later changes.
struct TaskInfo {
  std::string id{};
  std::string queue{};
  Task task{};
  TaskState state = TaskState::pending;
  int max_retry = 0;
  int retried = 0;
  int crashes = 0;                    ///< Workers lost in a row while they ran it.
  std::chrono::seconds timeout{0};    ///< 0: none.
  std::chrono::seconds retention{0};  ///< 0: none.
  std::optional<Time> deadline{};
  std::optional<Time> enqueued_at{};      ///< Unset for a task that a Go client enqueued.
  std::optional<Time> next_process_at{};  ///< Scheduled and retry: when it is due.
  std::optional<Time> started_at{};       ///< Active: when this run was taken.
  std::optional<Time> completed_at{};     ///< Completed: when it succeeded.
  std::optional<Time> last_failed_at{};
  std::optional<Time> archived_at{};  ///< Archived: when it was archived.
  std::optional<Time> expires_at{};
  std::string last_error{};  ///< The error of the last failure; empty if it never failed.
  std::string result{};      ///< The result that the handler set; empty if it set none.
  std::string group{};       ///< The group in asynq's aggregation; empty: none.
  bool orphaned = false;     ///< Active, but its lease has expired: its worker is lost.
};

}  // namespace v0
}  // namespace taskmux
