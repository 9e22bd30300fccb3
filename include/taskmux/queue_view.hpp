#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// The state of a queue at one instant: how many tasks it holds in each state, and its counters.
struct QueueInfo {
  std::string queue{};
  bool paused = false;
  std::size_t pending = 0;
  std::size_t active = 0;
  std::size_t scheduled = 0;
  std::size_t retry = 0;
  std::size_t archived = 0;
  std::size_t completed = 0;
  std::size_t aggregating = 0;
  /// How long the task that is next in line could have been run: since it was enqueued, was due, or
  /// went back to pending. 0 if none is pending, or if it is not known since when.
  Duration latency{};
  /// Attempts that ended since midnight UTC, failed ones included.
  std::uint64_t processed_today = 0;
  /// Attempts that failed since midnight UTC.
  std::uint64_t failed_today = 0;
  /// Attempts that ended since the queue was created, failed ones included.
  std::uint64_t processed_total = 0;
  /// Attempts that failed since the queue was created.
  std::uint64_t failed_total = 0;

  /// All tasks of the queue.
  std::size_t size() const noexcept {
    return pending + active + scheduled + retry + archived + completed + aggregating;
  }
};

/// The attempts that ended on one day, UTC.
struct DailyStats {
  std::chrono::sys_days day{};
  std::uint64_t processed = 0;  ///< Failed ones included.
  std::uint64_t failed = 0;
};

/// A part of a listing.
struct Page {
  /// How many tasks to skip.
  std::size_t offset = 0;
  /// How many tasks to return at most; 0 returns none.
  std::size_t limit = 30;
};

/// What an operator does to a task that is not running.
enum class TaskAction {
  run,  ///< Makes it pending now, last in line. From scheduled, retry, archived or completed.
  /// From pending, scheduled, retry or completed. Counts nothing; the message stays as it is.
  archive,
  remove,  ///< Deletes it for good and frees its lock. From any state but active.
};

/// Whether `action` is possible for a task in `state`.
constexpr bool allows(TaskAction action, TaskState state) noexcept {
  if (state == TaskState::active) return false;
  if (action == TaskAction::remove) return true;
  if (state == TaskState::aggregating) return false;
  return state != (action == TaskAction::run ? TaskState::pending : TaskState::archived);
}

/// How much the archive of a queue may hold, and how many tasks a step may delete.
struct TrimRequest {
  /// How many archived tasks of a queue stay at most; 0: none stays.
  std::size_t max_tasks = 0;
  /// How long an archived task stays at most; never negative.
  Duration max_age{};
  /// How many tasks of each queue to delete at most; a broker may delete fewer in a step. 0: only
  /// look.
  std::size_t limit = 0;
};

/// How the archive of a queue stands after a step.
struct TrimReply {
  /// Tasks deleted in this step.
  std::size_t deleted = 0;
  /// Tasks that are still beyond the limits. May be fewer than there are, but not 0 if there is
  /// any.
  std::size_t excess = 0;
  std::optional<Error> error{};  ///< Why nothing was done in this queue.
};

/// The port to inspection and repair, in addition to Broker. Used by Inspector and DeadLetterQueue.
///
/// An operation that names a queue throws Error{queue_not_found} if nothing was ever enqueued to it
/// (or if it was deleted), and any operation throws Error{unavailable} when the broker can't be
/// reached. Thread-safe.
class TASKMUX_API QueueView {
 public:
  QueueView() = default;
  QueueView(const QueueView&) = delete;
  QueueView& operator=(const QueueView&) = delete;
  virtual ~QueueView() = default;

  /// The broker's clock.
  virtual Time now() = 0;

  /// All queues that anything was ever enqueued to, sorted by name.
  virtual std::vector<std::string> queues() = 0;

  virtual QueueInfo queue_info(std::string_view queue) = 0;

  /// The last `days` days (1 to 90, else Error{invalid_argument}), today first.
  virtual std::vector<DailyStats> history(std::string_view queue, int days) = 0;

  /// The tasks of a state. Pending: next to run first. Active: longest running first. Scheduled and
  /// retry: by due time. Archived: oldest first. Completed: by the end of retention. With
  /// payloads and results. Beyond the end: empty. Other writers may shift what a page holds.
  virtual std::vector<TaskInfo> list(std::string_view queue, TaskState state, Page page) = 0;

  /// One task, with its result; nullopt if there is none.
  virtual std::optional<TaskInfo> find(std::string_view queue, std::string_view id) = 0;

  /// Acts on each of `ids`, if it exists and (when `only` is given) is in that state at that
  /// moment. For each, in order: unset if it was done, else task_not_found or wrong_state.
  virtual std::vector<std::optional<Errc>> act(std::string_view queue, TaskAction action,
                                               std::span<const std::string> ids,
                                               std::optional<TaskState> only) = 0;

  /// Acts on up to `limit` tasks of `state`, in the order of list(), in one atomic step; returns on
  /// how many. Throws Error{wrong_state} where `action` is not possible from `state` (run from
  /// pending, archive from archived, anything from active).
  virtual std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                              std::size_t limit) = 0;

  /// Deletes archived tasks, the oldest first, that are more than a queue's archive may hold or
  /// have been there too long; frees their locks. One atomic step for each queue. A queue that does
  /// not exist has no archive. One reply for each of `queues`, in order.
  virtual std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                               const TrimRequest& request) = 0;

  /// Replaces the payload of a task that is pending, scheduled, in retry or archived. A unique lock
  /// that it holds stays the one of its first payload. Throws Error{task_not_found} or
  /// {wrong_state}.
  virtual void update_payload(std::string_view queue, std::string_view id, std::string payload) = 0;

  /// Stops servers from taking tasks of the queue. Running tasks go on, and enqueue works. Throws
  /// Error{wrong_state} if already paused.
  virtual void pause(std::string_view queue) = 0;

  /// Throws Error{wrong_state} if not paused.
  virtual void unpause(std::string_view queue) = 0;

  /// Asks the worker that runs a task to stop it. Does not wait for that. Throws
  /// Error{task_not_found}, or {wrong_state} if it is not active; {unauthorized}, and changes
  /// nothing, if the broker does not allow this process to notify the worker.
  virtual void cancel(std::string_view queue, std::string_view id, CancelMode mode) = 0;

  /// Deletes a queue with all that belongs to it. Throws Error{queue_not_empty} if it holds tasks
  /// and `force` is not set, and Error{wrong_state} if tasks of it are active, forced or not.
  virtual void delete_queue(std::string_view queue, bool force) = 0;
};

}  // namespace v0
}  // namespace taskmux
