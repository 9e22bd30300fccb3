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

/// How an Inspector waits, and what it accepts.
struct InspectorConfig {
  /// For wait_for_result() to measure its timeout by; the machine's when null.
  std::shared_ptr<Clock> clock{};
  /// update_payload() refuses a larger one.
  std::size_t max_payload_bytes = Limits::payload_bytes;
};

/// What came of waiting for one task.
struct WaitReply {
  /// The completed task with its result; none if there is an error.
  std::optional<TaskInfo> task{};
  std::optional<Error> error{};
};

/// Looks into the queues of a broker, and repairs what is in them. Thread-safe. The broker must
/// outlive it.
///
/// A queue to which nothing was ever enqueued holds no tasks: it is listed as empty, and none of its tasks
/// is found. Only queue_info(), unpause() and delete_queue() report Error{queue_not_found}; queue_info()
/// shows it as empty if a live server works on it. Every call throws Error{unavailable} when the broker
/// can't be reached. The text of each Error names the operation, the subject and the cause.
class Inspector {
 public:
  /// Throws Error{unsupported} if the broker has no QueueView.
  explicit Inspector(Broker& broker, InspectorConfig config = {});
  Inspector(const Inspector&) = delete;
  Inspector& operator=(const Inspector&) = delete;

  /// The broker's clock, by which TaskFilter::after and `until` are judged.
  Time now();

  /// All queues that anything was ever enqueued to, or that were paused, sorted by name.
  std::vector<std::string> queues();

  /// How a queue stands: tasks in each state, latency, processed and failed today and in all.
  QueueInfo queue_info(std::string_view queue);
  /// The same of several queues in one call, one reply for each of `queues`, in order. What is wrong with
  /// one queue is in its reply.
  std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues);

  /// Processed and failed on each of the last `days` days, today first. Throws Error{invalid_argument}
  /// unless `days` is from 1 to 90.
  std::vector<DailyStats> history(std::string_view queue, int days = 7);

  /// The groups of asynq's aggregation that hold tasks, at most 1000, sorted by name.
  std::vector<GroupInfo> groups(std::string_view queue);

  /// The first tasks in a state, in the order of QueueView::list(); `limit` of them at most. Reads as many
  /// pages as that takes. For a state of `aggregating`, use the other form.
  std::vector<TaskInfo> list(std::string_view queue, TaskState state, std::size_t limit = 30);
  /// One page of the tasks that a filter selects, from the place that a cursor names; with or without
  /// payloads and results. See QueueView::list(): a page may be short although more tasks follow.
  TaskPage list(const ListRequest& request);

  /// The states of tasks, one reply for each of `ids`, in order.
  std::vector<TaskStatus> states(std::string_view queue, std::span<const std::string> ids);

  /// One task, with its result if it is completed and its handler set one; nullopt if there is no
  /// such task.
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id);

  /// Makes a scheduled, retry, archived or completed task pending now, last in line. Throws
  /// Error{task_not_found} or {wrong_state}, as archive() and remove() do.
  void run(std::string_view queue, std::string_view id);
  /// Puts a pending, scheduled, retry or completed task into the dead-letter queue.
  void archive(std::string_view queue, std::string_view id);
  /// Deletes a task that is not active for good, and frees its unique lock.
  void remove(std::string_view queue, std::string_view id);

  /// The same for many ids in one call. Throws nothing for a task that does not allow it: there is one
  /// reply for each id, in order.
  std::vector<ActReply> act(const ActRequest& request);

  /// The same for all tasks of a state; returns how many. As many as there were when the call came
  /// are taken, in the order of list(), so that it ends even while others keep coming. Throws
  /// Error{wrong_state} if that can't be done from `state`. An Error on the way says in its text
  /// how many had been done.
  std::size_t run_all(std::string_view queue, TaskState state);
  std::size_t archive_all(std::string_view queue, TaskState state);
  std::size_t remove_all(std::string_view queue, TaskState state);

  /// Replaces the payload of a task that is pending, scheduled, in retry or archived. Its unique
  /// lock stays the one of its first payload. Throws Error{payload_too_large}, {task_not_found} or
  /// {wrong_state}.
  void update_payload(std::string_view queue, std::string_view id, std::string payload);

  /// Stops servers from taking tasks of the queue. Running tasks go on, and enqueue works. Creates
  /// the queue if there is none. Throws Error{wrong_state} if already paused.
  void pause(std::string_view queue);
  /// Throws Error{wrong_state} if not paused.
  void unpause(std::string_view queue);

  /// Asks the worker that runs a task to stop it, and says what becomes of the task then, unless
  /// its handler succeeds all the same. Does not wait for that. Throws Error{task_not_found}, or
  /// {wrong_state} if it is not active: one that waits is taken away by remove().
  void cancel(std::string_view queue, std::string_view id, CancelMode mode = CancelMode::retry);

  /// Deletes a queue with all that belongs to it. Throws Error{queue_not_empty} if it holds tasks
  /// and `force` is not set, and Error{wrong_state} if tasks of it are active, forced or not.
  void delete_queue(std::string_view queue, bool force = false);

  /// The live servers, with the tasks that their workers run.
  std::vector<ServerInfo> servers();

  /// Waits until a task is completed, and returns it with its result. The broker notifies the waiting
  /// thread; see QueueView::watch_tasks(). Throws Error, with the task's id:
  /// timed_out after `timeout` (0: looks once); invalid_argument if `timeout` is negative or over
  /// 100 years, or if the task has no retention, since its end could not be told from its removal;
  /// wrong_state, with the task's last error, if it was archived; task_not_found if there is no
  /// such task, or no more.
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
