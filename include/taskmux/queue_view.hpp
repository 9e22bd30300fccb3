#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/pattern.hpp"
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
  /// If `groups` is over 1000, only the tasks of 1000 groups are counted.
  std::size_t aggregating = 0;
  std::size_t groups = 0;  ///< Groups of asynq's aggregation that hold tasks.
  /// How long the next task has been ready to run: since it was enqueued, became due, or returned
  /// to pending. 0 if no task is pending, or if this is not known.
  Duration latency{};
  /// Attempts that ended since midnight UTC, including failed ones.
  std::uint64_t processed_today = 0;
  /// Attempts that failed since midnight UTC.
  std::uint64_t failed_today = 0;
  /// Attempts that ended since the queue was created, including failed ones.
  std::uint64_t processed_total = 0;
  /// Attempts that failed since the queue was created.
  std::uint64_t failed_total = 0;

  /// Returns the number of all tasks of the queue.
  std::size_t size() const noexcept {
    return pending + active + scheduled + retry + archived + completed + aggregating;
  }
};

/// The attempts that ended on one day, UTC.
struct DailyStats {
  std::chrono::sys_days day{};
  std::uint64_t processed = 0;  ///< Including failed ones.
  std::uint64_t failed = 0;
};

/// A group of asynq's aggregation, and how many tasks it holds.
struct GroupInfo {
  std::string group{};
  std::size_t size = 0;
};

/// The reply for one queue in QueueView::queue_infos().
struct QueueInfoReply {
  QueueInfo info{};
  std::optional<Error> error{};  ///< Why there is no info, such as queue_not_found.
};

/// Selects tasks: those that meet all given conditions. An empty filter selects all tasks.
struct TaskFilter {
  /// A pattern for the whole type, in which `*` matches any characters, including none: `email:*`.
  /// A backslash makes the next character literal.
  std::string type_pattern{};
  /// A prefix of the id.
  std::string id_prefix{};
  /// A substring of the last error; compared byte by byte.
  std::string error_contains{};
  /// since() must return an instant after `after`, and not after `until`. To filter by age,
  /// subtract the age from QueueView::now(). If either is given, a task for which since() returns
  /// nothing is not selected.
  std::optional<Time> after{};
  std::optional<Time> until{};

  /// Returns the instant from which the age of a task counts, if it is known. Active: when its run
  /// was taken. Archived, completed: since when. Retry: when it failed. Other states: when it was
  /// enqueued.
  static std::optional<Time> since(const TaskInfo& task) noexcept {
    switch (task.state) {
      case TaskState::active: return task.started_at;
      case TaskState::retry: return task.last_failed_at;
      case TaskState::archived: return task.archived_at;
      case TaskState::completed: return task.completed_at;
      case TaskState::pending:
      case TaskState::scheduled:
      case TaskState::aggregating: break;
    }
    return task.enqueued_at;
  }

  bool selects(const TaskInfo& task) const noexcept {
    return selects(task.id, task.task.type, task.last_error, since(task));
  }
  bool selects(std::string_view id, std::string_view type, std::string_view last_error,
               std::optional<Time> since) const noexcept {
    return id.starts_with(id_prefix) &&
           (type_pattern.empty() || detail::fits(type_pattern, type)) &&
           last_error.find(error_contains) != std::string_view::npos &&
           (!after || (since && *since > *after)) && (!until || (since && *since <= *until));
  }
};

/// A request for some of the tasks of one state; see QueueView::list().
struct ListRequest {
  std::string queue{};
  TaskState state = TaskState::pending;
  /// Aggregating: the group, which must be given; see QueueView::groups(). Otherwise ignored.
  std::string group{};
  /// Empty for the first tasks; else TaskPage::next of a listing of the same queue, state and
  /// group.
  std::string cursor{};
  /// The maximum number of tasks to return; 0 returns no tasks, and the given cursor.
  std::size_t limit = 30;
  TaskFilter filter{};
  /// Whether to return payloads and results; otherwise they are empty.
  bool with_payload = true;
  bool with_result = true;
};

/// One page of a listing.
struct TaskPage {
  /// May contain fewer tasks than ListRequest::limit, even none, although more follow: see `next`.
  std::vector<TaskInfo> tasks{};
  /// The cursor for the next page; empty at the end. Printable ASCII without spaces, otherwise
  /// opaque.
  std::string next{};
};

/// What an operator does to a task that is not running.
enum class TaskAction {
  run,  ///< Makes it pending, at the back. From scheduled, retry, archived or completed.
  /// From pending, scheduled, retry or completed. Counts nothing; the message does not change.
  archive,
  remove,  ///< Deletes it and releases its lock. From any state except active.
};

/// Returns whether `action` is possible for a task in `state`.
constexpr bool allows(TaskAction action, TaskState state) noexcept {
  if (state == TaskState::active) return false;
  if (action == TaskAction::remove) return true;
  if (state == TaskState::aggregating) return false;
  return state != (action == TaskAction::run ? TaskState::pending : TaskState::archived);
}

/// A request for an action on named tasks; see QueueView::act(). `ids` must stay valid during the
/// call.
struct ActRequest {
  std::string queue{};
  TaskAction action = TaskAction::run;
  std::span<const std::string> ids{};
  /// If given, only tasks in this state are affected.
  std::optional<TaskState> only{};
};

/// The reply for one id of an ActRequest.
struct ActReply {
  /// Unset if the action was performed; else task_not_found or wrong_state.
  std::optional<Errc> error{};
};

/// The state of one task; see QueueView::states().
struct TaskStatus {
  /// Unset if there is no such task.
  std::optional<TaskState> state{};
};

/// A watch on tasks. Destroying it ends it: no callback runs after that, and the destructor waits for one
/// that is running (so it must not be called from the callback).
class TASKMUX_API TaskWatch {
 public:
  struct State {
    /// One for each task, in the order of the ids.
    std::vector<TaskStatus> tasks{};
    /// Set if no callback may come, since nothing can be watched now: call arm() again after this time.
    std::optional<Duration> poll_after{};
  };

  TaskWatch() = default;
  TaskWatch(const TaskWatch&) = delete;
  TaskWatch& operator=(const TaskWatch&) = delete;
  virtual ~TaskWatch() = default;

  /// Returns the states of the tasks, and causes one callback when the state of an existing one may have
  /// changed. One round trip. Throws Error{unavailable}. Not thread-safe.
  virtual State arm() = 0;
};

/// How much the archive of a queue may hold, and how many tasks a step may delete.
struct TrimRequest {
  /// The maximum number of archived tasks of a queue that are kept; 0: none.
  std::size_t max_tasks = 0;
  /// How long an archived task is kept at most; never negative.
  Duration max_age{};
  /// The maximum number of tasks of each queue to delete; a broker may delete fewer in a step. 0:
  /// only check.
  std::size_t limit = 0;
};

/// The state of the archive of a queue after a step.
struct TrimReply {
  /// Number of tasks deleted in this step.
  std::size_t deleted = 0;
  /// Number of tasks that are still beyond the limits. May be lower than the actual number, but is
  /// 0 only if there are none.
  std::size_t excess = 0;
  std::optional<Error> error{};  ///< Why nothing was done in this queue.
};

/// The port for inspection and repair, in addition to Broker. Used by Inspector and
/// DeadLetterQueue.
///
/// A queue to which nothing was ever enqueued, or that was deleted, holds no tasks: it is listed as
/// empty, and none of its tasks is found. Only queue_info(), unpause() and delete_queue() report
/// Error{queue_not_found}. Any operation throws Error{unavailable} if the broker can't be reached.
/// Thread-safe.
class TASKMUX_API QueueView {
 public:
  QueueView() = default;
  QueueView(const QueueView&) = delete;
  QueueView& operator=(const QueueView&) = delete;
  virtual ~QueueView() = default;

  /// Returns the time of the broker's clock.
  virtual Time now() = 0;

  /// Returns all queues to which anything was ever enqueued, or that were paused, sorted by name.
  virtual std::vector<std::string> queues() = 0;

  /// Returns the states of queues, one reply for each of `queues`, in order. One round trip (in a
  /// cluster one per node). A failure of one queue is in its reply and does not affect the others.
  virtual std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues) = 0;

  /// Returns the state of one queue. Throws Error{queue_not_found}.
  QueueInfo queue_info(std::string_view queue) {
    const std::string names[] = {std::string{queue}};
    QueueInfoReply reply = std::move(queue_infos(names).at(0));
    if (reply.error) throw *reply.error;
    return std::move(reply.info);
  }

  /// Returns the statistics of the last `days` days (1 to 90, else throws Error{invalid_argument}),
  /// today first.
  virtual std::vector<DailyStats> history(std::string_view queue, int days) = 0;

  /// Returns the groups of a queue that hold tasks, at most 1000, sorted by name.
  virtual std::vector<GroupInfo> groups(std::string_view queue) = 0;

  /// Returns the tasks of a state that the filter selects, starting at the position of the cursor.
  /// Order: pending: next to run first; active: longest running first; scheduled and retry: by due
  /// time; archived: oldest first; completed: by the end of retention; aggregating: the tasks of
  /// one group, by when they joined it.
  ///
  /// A call does a bounded amount of work, so a page may contain fewer tasks than requested, or
  /// none, and still have a cursor. Each task that stays in its position during a listing is
  /// returned exactly once, whatever other tasks are added or removed. There is one exception: if a
  /// cursor marks a position among pending or active tasks, and all tasks that it was made from
  /// have left, a page may start again at the first task. Throws Error{invalid_argument} for an
  /// invalid cursor, for a cursor of another state, and for `aggregating` without a group.
  virtual TaskPage list(const ListRequest& request) = 0;

  /// Returns one task, with its result; nullopt if there is none.
  virtual std::optional<TaskInfo> find(std::string_view queue, std::string_view id) = 0;

  /// Returns the states of tasks, one reply for each of `ids`, in order.
  virtual std::vector<TaskStatus> states(std::string_view queue,
                                         std::span<const std::string> ids) = 0;

  /// Watches tasks of a queue from TaskWatch::arm() on. The callback may be spurious, and come on any
  /// thread; it must not throw. Unless overridden, no callback ever comes, and the states are polled: first
  /// after 1 ms, then ever less often, up to every 250 ms.
  virtual inline std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue,
                                                        std::vector<std::string> ids,
                                                        std::function<void()> callback);

  /// Acts on each task that is named, if it exists and is in a state that allows it at that moment. One
  /// reply for each id, in order.
  virtual std::vector<ActReply> act(const ActRequest& request) = 0;

  /// Performs an action on up to `limit` tasks of `state`, in the order of list(), in one atomic
  /// step; returns how many. Throws Error{wrong_state} if `action` is not possible from `state`
  /// (run from pending, archive from archived, anything from active).
  virtual std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                              std::size_t limit) = 0;

  /// Deletes archived tasks that exceed the limits, the oldest first, and releases their locks. One
  /// atomic step per queue. A queue that does not exist has no archive. Returns one reply for each
  /// of `queues`, in order.
  virtual std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                               const TrimRequest& request) = 0;

  /// Replaces the payload of a pending, scheduled, retry or archived task. Its unique lock remains
  /// that of the first payload. Throws Error{task_not_found} or {wrong_state}.
  virtual void update_payload(std::string_view queue, std::string_view id, std::string payload) = 0;

  /// Makes servers stop taking tasks from the queue. Running tasks continue, and tasks can still be
  /// enqueued. Creates the queue if there is none. Throws Error{wrong_state} if it is already
  /// paused.
  virtual void pause(std::string_view queue) = 0;

  /// Ends a pause. Throws Error{wrong_state} if the queue is not paused, and {queue_not_found}.
  virtual void unpause(std::string_view queue) = 0;

  /// Asks the worker that runs a task to stop it. Does not wait for that. Throws
  /// Error{task_not_found}, or {wrong_state} if the task is not active. Throws {unauthorized}, and
  /// changes nothing, if the broker does not allow this process to notify the worker.
  virtual void cancel(std::string_view queue, std::string_view id, CancelMode mode) = 0;

  /// Deletes a queue and all its data. Throws Error{queue_not_empty} if it holds tasks and `force`
  /// is not set, {wrong_state} if tasks of it are active, even with `force`, and {queue_not_found}.
  virtual void delete_queue(std::string_view queue, bool force) = 0;
};

namespace detail {

/// Polls the states of tasks.
class PollingTaskWatch final : public TaskWatch {
 public:
  PollingTaskWatch(QueueView& view, std::string_view queue, std::vector<std::string> ids)
      : view_{view}, queue_{queue}, ids_{std::move(ids)} {}

  State arm() override {
    State state{.tasks = view_.states(queue_, ids_), .poll_after = pause_};
    pause_ = std::min<Duration>(pause_ * 2, std::chrono::milliseconds{250});
    return state;
  }

 private:
  QueueView& view_;
  const std::string queue_;
  const std::vector<std::string> ids_;
  Duration pause_ = std::chrono::milliseconds{1};
};

}  // namespace detail

inline std::unique_ptr<TaskWatch> QueueView::watch_tasks(std::string_view queue,
                                                         std::vector<std::string> ids,
                                                         std::function<void()> callback) {
  static_cast<void>(callback);
  return std::make_unique<detail::PollingTaskWatch>(*this, queue, std::move(ids));
}

}  // namespace v0
}  // namespace taskmux
