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

/// An instant of the wall clock, UTC, to the microsecond. A finer one, such as
/// std::chrono::system_clock::now() in libstdc++, does not convert to it by itself: see to_time(),
/// and Instant.
using Time = std::chrono::sys_time<std::chrono::microseconds>;

/// `instant` as a Time, rounded up.
template <typename Unit>
constexpr Time to_time(std::chrono::sys_time<Unit> instant) {
  return std::chrono::ceil<Time::duration>(instant);
}

/// A Time that any instant of std::chrono::system_clock converts to, rounded up:
///
///     {.process_at = std::chrono::system_clock::now() + 10s}
struct Instant : Time {
  constexpr Instant() = default;
  template <typename Unit>
  constexpr Instant(std::chrono::sys_time<Unit> instant) : Time{to_time(instant)} {}
};

/// A length of time, to the microsecond. Any coarser std::chrono duration converts to it: `10min`,
/// `1h`; for a finer one take std::chrono::ceil<Duration>().
using Duration = std::chrono::microseconds;

/// Metadata that travels with a task; keys and values are UTF-8 without a NUL.
using Headers = std::map<std::string, std::string, std::less<>>;

/// A piece of work: what kind it is, and the bytes its handler needs. A plain value.
struct Task {
  std::string type{};     ///< Chooses the handler, such as "email:welcome". UTF-8, not blank.
  std::string payload{};  ///< Any bytes; taskmux never looks inside.
  Headers headers{};      ///< Such as a trace id. Kept over retries.
};

/// Where a task stands.
enum class TaskState {
  pending,      ///< Ready to run.
  active,       ///< Being run by a worker, under a lease.
  scheduled,    ///< Waiting for its time.
  retry,        ///< Failed, and waiting for its next attempt.
  archived,     ///< Set aside: the dead-letter queue.
  completed,    ///< Succeeded, and kept while its retention lasts.
  aggregating,  ///< In a group of Go's asynq. taskmux shows such tasks and does not make them yet.
};

/// The state's name as asynq spells it, such as "pending".
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

/// The limits that Client binds itself to. A worker also runs tasks of peers that exceed them.
struct Limits {
  /// Task type, queue name, task id, header key.
  static constexpr std::size_t name_bytes = 512;
  /// All header keys and values of one task together.
  static constexpr std::size_t header_bytes = 64 * 1024;
  /// Default of ClientConfig::max_payload_bytes.
  static constexpr std::size_t payload_bytes = 16u << 20;
  /// Default of ServerConfig::max_result_bytes.
  static constexpr std::size_t result_bytes = 16u << 20;
  /// An error text is cut to this, at a character's edge.
  static constexpr std::size_t error_text_bytes = 8 * 1024;
  /// No duration may be longer.
  static constexpr Duration longest = std::chrono::hours{24 * 365 * 100};
};

/// How one task is to be treated. Every field may be left out; the client's table of defaults for
/// the type, and then the defaults named here, take its place. Made for designated initialisers:
///
///     client.enqueue({.type = "email:welcome", .payload = "42"},
///                    {.queue = "critical", .process_in = 10min});
struct EnqueueOptions {
  /// The queue; "default" when left out.
  std::optional<std::string> queue{};
  /// The id, unique in its queue over all states. A random UUID when left out.
  std::optional<std::string> task_id{};
  /// How often a failed task is tried again before it is archived; 0 or more, 25 when left out.
  std::optional<int> max_retry{};
  /// How long one attempt may take, rounded up to whole seconds. 30 min when neither this nor
  /// `deadline` is given.
  std::optional<Duration> timeout{};
  /// The instant at which every attempt ends, rounded up to a whole second; must lie in the future,
  /// and after `process_at` or `process_in`. A task that could not be started before is archived.
  /// An attempt works out when it starts how much time is left, so a later step of the wall clock
  /// does not move its end.
  std::optional<Instant> deadline{};
  /// Not to be run before this instant; at once if it has passed. Not together with `process_in`.
  std::optional<Instant> process_at{};
  /// Not to be run before this much time has passed, by the broker's clock: in the memory broker by
  /// a steady one, with Redis by the server's. Not together with `process_at`.
  std::optional<Duration> process_in{};
  /// While this lasts, and until the task succeeds or is deleted, no other task of the same queue,
  /// type and payload is accepted. At least 1 s; rounded up to whole seconds. Counted from the time
  /// at which the task may run.
  std::optional<Duration> unique_for{};
  /// How long the task is kept, with its result, after it succeeded; rounded up to whole seconds.
  /// It is deleted when left out.
  std::optional<Duration> retention{};
  /// A task that no worker has started by then is archived instead of run. Later than the task may
  /// run at all. Go workers do not honour it. Not together with `expires_in`.
  std::optional<Instant> expires_at{};
  /// As `expires_at`, counted from now by the broker's clock.
  std::optional<Duration> expires_in{};
  /// Makes it safe to repeat the call with the same `task_id` and `idempotent_for` after an error
  /// that leaves open what happened (Errc::unavailable): for this long after it accepted a task,
  /// the broker remembers the id, and answers a repeat with EnqueueResult::accepted_before instead
  /// of accepting a second task, whether the first still exists or has ended, expired or been
  /// deleted. At least 1 s; rounded up to whole seconds. The repeat does not prolong it. Deleting
  /// the queue ends it. Off when left out, since each remembered id costs memory: about 90 bytes
  /// with a MemoryBroker, about 150 on Redis for an id of 36 characters.
  std::optional<Duration> idempotent_for{};
  /// An empty payload counts as one that is present in the unique lock, as in asynq's CLI; else as
  /// none, as in most Go code.
  bool unique_empty_payload = false;
};

/// What holds for every task of a type whose EnqueueOptions do not say otherwise.
/// The bounds are those of EnqueueOptions.
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
  /// seconds. 0, or left out: it is deleted at once.
  std::optional<Duration> retention{};
};

/// A task as a broker keeps it and a worker gets it. An unset instant is the epoch, `Time{}`, as on
/// asynq's wire. A plain value: the broker and the engine share it as const once it has been
/// accepted.
struct TaskMessage {
  std::string id{};
  std::string queue{};
  Task task{};
  int max_retry = 25;
  int retried = 0;                    ///< Failures counted so far.
  std::chrono::seconds timeout{0};    ///< Of one attempt; 0 = none.
  std::chrono::seconds retention{0};  ///< To be kept after success; 0 = deleted.
  Time deadline{};                    ///< Whole seconds.
  Time last_failed_at{};              ///< Whole seconds on Redis.
  Time completed_at{};                ///< Whole seconds on Redis.
  Time enqueued_at{};                 ///< Set by the broker; unset if a Go client wrote it.
  Time expires_at{};                  ///< Not to be started after this.
  std::string last_error{};           ///< Of the last failure; UTF-8.
  std::string unique_key{};  ///< The lock it holds, in the broker's own form; empty = none.
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
  std::chrono::seconds timeout{0};    ///< 0 = none.
  std::chrono::seconds retention{0};  ///< 0 = none.
  std::optional<Time> deadline{};
  std::optional<Time> enqueued_at{};      ///< None for a task that a Go client enqueued.
  std::optional<Time> next_process_at{};  ///< Scheduled and retry: when it is due.
  std::optional<Time> started_at{};       ///< Active: when this run was taken.
  std::optional<Time> completed_at{};     ///< Completed: when it succeeded.
  std::optional<Time> last_failed_at{};
  std::optional<Time> archived_at{};  ///< Archived: since when.
  std::optional<Time> expires_at{};
  std::string last_error{};  ///< Of the last failure; empty if it never failed.
  std::string result{};      ///< What the handler set; empty if nothing.
  std::string group{};       ///< Of asynq's aggregation; empty = none.
  bool orphaned = false;     ///< Active, but its lease is over: its worker is lost.
};

}  // namespace v0
}  // namespace taskmux
