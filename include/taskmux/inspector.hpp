#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/error.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// The options of an Inspector. Every field may be left out.
struct InspectorConfig {
  /// The clock that wait_for_result() measures its timeout by; the machine's if null.
  std::shared_ptr<Clock> clock{};
  /// The largest payload that update_payload() accepts.
  std::size_t max_payload_bytes = Limits::payload_bytes;
};

/// The result of waiting for one task.
struct WaitReply {
  /// The completed task with its result; none if there is an error.
  std::optional<TaskInfo> task{};
  std::optional<Error> error{};
};

/// Shows the queues of a broker, and repairs their contents. Thread-safe. The broker must outlive
/// it.
///
/// A queue to which nothing was ever enqueued holds no tasks: it is listed as empty, and none of
/// its tasks is found. Only queue_info(), unpause() and delete_queue() report
/// Error{queue_not_found}; queue_info() shows a queue as empty if a live server serves it. Every
/// call throws Error{unavailable} if the broker can't be reached. The text of each Error names the
/// operation, the subject and the cause.
class Inspector {
 public:
  /// Throws Error{unsupported} if the broker has no QueueView.
  explicit Inspector(Broker& broker, InspectorConfig config = {});
  Inspector(const Inspector&) = delete;
  Inspector& operator=(const Inspector&) = delete;

  /// Returns the time of the broker's clock, to which TaskFilter::after and `until` refer.
  Time now();

  /// Returns all queues to which anything was ever enqueued, or that were paused, sorted by name.
  std::vector<std::string> queues();

  /// Returns the state of a queue: the number of tasks in each state, latency, and the processed
  /// and failed attempts, today and in total.
  QueueInfo queue_info(std::string_view queue);
  /// The same for several queues in one call: one reply for each of `queues`, in order. A failure
  /// of one queue is in its reply.
  std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues);

  /// Returns the processed and failed attempts of each of the last `days` days, today first. Throws
  /// Error{invalid_argument} unless `days` is from 1 to 90.
  std::vector<DailyStats> history(std::string_view queue, int days = 7);

  /// Returns the groups of asynq's aggregation that hold tasks, at most 1000, sorted by name.
  std::vector<GroupInfo> groups(std::string_view queue);

  /// Returns the first tasks in a state, at most `limit`, in the order of QueueView::list(). Reads
  /// as many pages as needed. For the state `aggregating`, use the other overload.
  std::vector<TaskInfo> list(std::string_view queue, TaskState state, std::size_t limit = 30);
  /// Returns one page of the tasks that a filter selects, starting at the position of a cursor,
  /// with or without payloads and results. See QueueView::list(): a page may be short although more
  /// tasks follow.
  TaskPage list(const ListRequest& request);

  /// Returns the states of tasks, one reply for each of `ids`, in order.
  std::vector<TaskStatus> states(std::string_view queue, std::span<const std::string> ids);

  /// Returns one task, with its result if it is completed and its handler set one; nullopt if there
  /// is no such task.
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id);

  /// Makes a scheduled, retry, archived or completed task pending, at the back of its queue. Throws
  /// Error{task_not_found} or {wrong_state}, as archive() and remove() do.
  void run(std::string_view queue, std::string_view id);
  /// Moves a pending, scheduled, retry or completed task to the dead-letter queue.
  void archive(std::string_view queue, std::string_view id);
  /// Deletes a task that is not active permanently, and releases its unique lock.
  void remove(std::string_view queue, std::string_view id);

  /// Performs one of these actions on many tasks in one call. Throws nothing for a task that does
  /// not allow it: there is one reply per id, in order.
  std::vector<ActReply> act(const ActRequest& request);

  /// Perform an action on all tasks of a state; return how many. They process as many tasks as
  /// there were when the call began, in the order of list(), so that the call ends even if tasks
  /// are added all the time. They throw Error{wrong_state} if the action is not possible from
  /// `state`. If the call fails halfway, the text of the Error says how many tasks were processed.
  std::size_t run_all(std::string_view queue, TaskState state);
  std::size_t archive_all(std::string_view queue, TaskState state);
  std::size_t remove_all(std::string_view queue, TaskState state);

  /// Replaces the payload of a pending, scheduled, retry or archived task. Its unique lock remains
  /// that of the first payload. Throws Error{payload_too_large}, {task_not_found} or {wrong_state}.
  void update_payload(std::string_view queue, std::string_view id, std::string payload);

  /// Makes servers stop taking tasks from the queue. Running tasks continue, and tasks can still be
  /// enqueued. Creates the queue if there is none. Throws Error{wrong_state} if it is already
  /// paused.
  void pause(std::string_view queue);
  /// Ends a pause. Throws Error{wrong_state} if the queue is not paused.
  void unpause(std::string_view queue);

  /// Asks the worker that runs a task to stop it. `mode` decides what happens to the task then,
  /// unless its handler still succeeds. Does not wait for that. Throws Error{task_not_found}, or
  /// {wrong_state} if the task is not active; to cancel a waiting task, call remove().
  void cancel(std::string_view queue, std::string_view id, CancelMode mode = CancelMode::retry);

  /// Deletes a queue and all its data. Throws Error{queue_not_empty} if it holds tasks and `force`
  /// is not set, and {wrong_state} if tasks of it are active, even with `force`.
  void delete_queue(std::string_view queue, bool force = false);

  /// Returns the live servers, with the tasks that they are running.
  std::vector<ServerInfo> servers();

  /// Waits until a task is completed, and returns it with its result. The broker notifies the waiting
  /// thread; see QueueView::watch_tasks(). Throws Error, with the task's id:
  /// timed_out after `timeout` (0: looks once); invalid_argument if `timeout` is negative or over
  /// 100 years, or if the task has no retention, since its end could not be distinguished from its
  /// removal; wrong_state, with the task's last error, if it was archived; task_not_found if there is no
  /// such task, or no longer.
  TaskInfo wait_for_result(std::string_view queue, std::string_view id, Duration timeout);
  /// The same for several tasks of a queue, until all have ended or the time is over. One reply for each of
  /// `ids`, in order: what the other form returns, or the Error that it throws.
  std::vector<WaitReply> wait_for_results(std::string_view queue, std::span<const std::string> ids,
                                          Duration timeout);

 private:
  QueueView& view_;
  Registry& registry_;
  const InspectorConfig config_;
  const std::shared_ptr<Clock> clock_;
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/inspector.hpp"
#endif
