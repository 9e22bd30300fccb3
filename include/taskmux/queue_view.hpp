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
  /// At least so many: if `groups` is over 1000, those of 1000 groups.
  std::size_t aggregating = 0;
  std::size_t groups = 0;  ///< Groups of asynq's aggregation that hold tasks.
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

/// A group of asynq's aggregation, and how many tasks it holds.
struct GroupInfo {
  std::string group{};
  std::size_t size = 0;
};

/// What became of one queue in QueueView::queue_infos().
struct QueueInfoReply {
  QueueInfo info{};
  std::optional<Error> error{};  ///< Why there is no info; queue_not_found among others.
};

/// Selects tasks: those that meet all conditions that are given. An empty filter selects all.
struct TaskFilter {
  /// The whole type, in which `*` stands for any characters, also none: `email:*`. A backslash makes
  /// the next character stand for itself.
  std::string type_pattern{};
  /// What the id begins with.
  std::string id_prefix{};
  /// A part of the last error, byte for byte.
  std::string error_contains{};
  /// The instant of since() lies after `after`, and not after `until`. Whoever knows an age subtracts
  /// it from QueueView::now(). A task of which since() is not known is not selected if one of the two
  /// is given.
  std::optional<Time> after{};
  std::optional<Time> until{};

  /// The instant that counts for the age of a task, as far as it is known. Active: when its run was
  /// taken. Archived, completed: since when. Retry: when it failed. Others: when it was enqueued.
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

/// Asks for some of the tasks of one state; see QueueView::list().
struct ListRequest {
  std::string queue{};
  TaskState state = TaskState::pending;
  /// Aggregating: the group, which must be given; see QueueView::groups(). Else ignored.
  std::string group{};
  /// Empty for the first tasks, else TaskPage::next of a listing of the same queue, state and group.
  std::string cursor{};
  /// How many tasks to return at most; 0 returns none, and the cursor as it was given.
  std::size_t limit = 30;
  TaskFilter filter{};
  /// Whether to return payloads and results; else they are empty.
  bool with_payload = true;
  bool with_result = true;
};

/// A part of a listing.
struct TaskPage {
  /// May be fewer than ListRequest::limit, even none, although more follow: see `next`.
  std::vector<TaskInfo> tasks{};
  /// The cursor of the tasks that follow; empty at the end. Printable ASCII without spaces, otherwise
  /// opaque.
  std::string next{};
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

/// Asks for an action on tasks that are named; see QueueView::act(). `ids` must stay valid for the call.
struct ActRequest {
  std::string queue{};
  TaskAction action = TaskAction::run;
  std::span<const std::string> ids{};
  /// Acts only on tasks that are in this state, if it is given.
  std::optional<TaskState> only{};
};

/// What became of one id of an ActRequest.
struct ActReply {
  /// Unset if it was done, else task_not_found or wrong_state.
  std::optional<Errc> error{};
};

/// How one task stands; see QueueView::states().
struct TaskStatus {
  /// None: there is no such task.
  std::optional<TaskState> state{};
};

/// A watch on tasks. Destroying it ends it: no callback runs after that, and the destructor waits for one
/// that is running (so it must not be called from the callback).
class TASKMUX_API TaskWatch {
 public:
  struct State {
    /// One for each task, in the order of the ids.
    std::vector<TaskStatus> tasks{};
    /// Set if no callback may come, as nothing can be watched now: arm again after so long.
    std::optional<Duration> poll_after{};
  };

  TaskWatch() = default;
  TaskWatch(const TaskWatch&) = delete;
  TaskWatch& operator=(const TaskWatch&) = delete;
  virtual ~TaskWatch() = default;

  /// Tells the states of the tasks, and promises one callback once the state of one of them that exists
  /// may have changed. One round trip. Throws Error{unavailable}. Not thread-safe.
  virtual State arm() = 0;
};

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
/// A queue to which nothing was ever enqueued, or that was deleted, holds no tasks: it is listed as empty,
/// and none of its tasks is found. Only queue_info(), unpause() and delete_queue() report
/// Error{queue_not_found}. Any operation throws Error{unavailable} when the broker can't be reached.
/// Thread-safe.
class TASKMUX_API QueueView {
 public:
  QueueView() = default;
  QueueView(const QueueView&) = delete;
  QueueView& operator=(const QueueView&) = delete;
  virtual ~QueueView() = default;

  /// The broker's clock.
  virtual Time now() = 0;

  /// All queues that anything was ever enqueued to, or that were paused, sorted by name.
  virtual std::vector<std::string> queues() = 0;

  /// How queues stand, one reply for each of `queues`, in order. One round trip (in a cluster one to each
  /// node). What is wrong with one queue is in its reply and does not affect the others.
  virtual std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues) = 0;

  /// How one queue stands. Throws Error{queue_not_found}.
  QueueInfo queue_info(std::string_view queue) {
    const std::string names[] = {std::string{queue}};
    QueueInfoReply reply = std::move(queue_infos(names).at(0));
    if (reply.error) throw *reply.error;
    return std::move(reply.info);
  }

  /// The last `days` days (1 to 90, else Error{invalid_argument}), today first.
  virtual std::vector<DailyStats> history(std::string_view queue, int days) = 0;

  /// The groups of a queue that hold tasks, at most 1000, sorted by name.
  virtual std::vector<GroupInfo> groups(std::string_view queue) = 0;

  /// The tasks of a state that the filter selects, from the place that the cursor names. Pending: next to
  /// run first. Active: longest running first. Scheduled and retry: by due time. Archived: oldest first.
  /// Completed: by the end of retention. Aggregating: those of one group, by when they joined it.
  ///
  /// A call does a bounded amount of work, so a page may hold fewer tasks than asked for, or none, and
  /// name a cursor nevertheless. The pages of one listing hold each task that stays in its place all the
  /// time exactly once, whatever others come and go. Only where a cursor names a place in the middle of
  /// pending or active tasks, and all tasks that it was made from have left, may a page begin again at the
  /// first task. Throws Error{invalid_argument} for a cursor that is none, or of another state, and for
  /// `aggregating` without a group.
  virtual TaskPage list(const ListRequest& request) = 0;

  /// One task, with its result; nullopt if there is none.
  virtual std::optional<TaskInfo> find(std::string_view queue, std::string_view id) = 0;

  /// The states of tasks, one reply for each of `ids`, in order.
  virtual std::vector<TaskStatus> states(std::string_view queue,
                                         std::span<const std::string> ids) = 0;

  /// Watches tasks of a queue from TaskWatch::arm() on. The callback may be spurious, and come on any
  /// thread; it must not throw. Unless overridden, no callback ever comes, and the states are polled: first
  /// after 1 ms, then ever less often, up to every 250 ms.
  virtual std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue,
                                                 std::vector<std::string> ids,
                                                 std::function<void()> callback);

  /// Acts on each task that is named, if it exists and is in a state that allows it at that moment. One
  /// reply for each id, in order.
  virtual std::vector<ActReply> act(const ActRequest& request) = 0;

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

  /// Stops servers from taking tasks of the queue. Running tasks go on, and enqueue works. Creates
  /// the queue if there is none. Throws Error{wrong_state} if already paused.
  virtual void pause(std::string_view queue) = 0;

  /// Throws Error{wrong_state} if not paused, and {queue_not_found}.
  virtual void unpause(std::string_view queue) = 0;

  /// Asks the worker that runs a task to stop it. Does not wait for that. Throws
  /// Error{task_not_found}, or {wrong_state} if it is not active; {unauthorized}, and changes
  /// nothing, if the broker does not allow this process to notify the worker.
  virtual void cancel(std::string_view queue, std::string_view id, CancelMode mode) = 0;

  /// Deletes a queue with all that belongs to it. Throws Error{queue_not_empty} if it holds tasks
  /// and `force` is not set, and Error{wrong_state} if tasks of it are active, forced or not,
  /// and {queue_not_found}.
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
