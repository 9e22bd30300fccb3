#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/dead_letter_queue.hpp"
#include "taskmux/detail/api/inspector.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// How many dead letters, without their payloads, an action with a filter reads at once.
inline constexpr std::size_t dead_letter_chunk = 500;

/// Returns the request that lists the archive of `queue`.
inline ListRequest archive_request(const std::string& queue, const DeadLetterFilter& filter,
                                   Time now) {
  const auto checked = [](Duration age) {
    if (age < Duration{0}) throw Error{Errc::invalid_argument, "the age is negative"};
    if (age > Limits::longest)
      throw Error{Errc::invalid_argument, "the age is longer than 100 years"};
    return age;
  };
  ListRequest request{.queue = queue,
                      .state = TaskState::archived,
                      .filter = {.type_pattern = filter.type_pattern,
                                 .id_prefix = filter.id_prefix,
                                 .error_contains = filter.error_contains}};
  if (filter.younger_than) request.filter.after = now - checked(*filter.younger_than);
  if (filter.older_than) request.filter.until = now - checked(*filter.older_than);
  return request;
}

/// Performs an action on those of `tasks` that are still archived; returns how many.
inline std::size_t act_on_archived(QueueView& view, const std::string& queue,
                                   std::vector<TaskInfo> tasks, Operation operation) {
  if (tasks.empty()) return 0;
  std::vector<std::string> ids;
  ids.reserve(tasks.size());
  for (TaskInfo& task : tasks) ids.push_back(std::move(task.id));
  const auto replies = view.act(
      {.queue = queue, .action = operation.action, .ids = ids, .only = TaskState::archived});
  return static_cast<std::size_t>(std::count_if(
      replies.begin(), replies.end(), [](const ActReply& reply) { return !reply.error; }));
}

/// Performs an action on all dead letters that match and were archived before the call; returns how
/// many.
inline std::size_t act_on_matching(QueueView& view, const std::string& queue,
                                   const DeadLetterFilter& filter, Operation operation) {
  const std::string name =
      std::string{operation.name} + " matching dead letters of queue " + in_quotes(queue);
  return counting(name, [&](std::size_t& done) {
    const Time now = view.now();
    ListRequest request = archive_request(queue, filter, now);
    // So the call ends even if tasks are archived all the time.
    if (!request.filter.until) request.filter.until = now;
    request.limit = dead_letter_chunk;
    request.with_payload = request.with_result = false;
    do {
      TaskPage page = view.list(request);
      done += act_on_archived(view, queue, std::move(page.tasks), operation);
      request.cursor = std::move(page.next);
    } while (!request.cursor.empty());
  });
}

}  // namespace detail

TASKMUX_INLINE DeadLetterQueue::DeadLetterQueue(Broker& broker, std::string queue)
    : view_{broker.queue_view()}, queue_{std::move(queue)} {}

TASKMUX_INLINE std::size_t DeadLetterQueue::count() const {
  return detail::during("count dead letters",
                        [&] { return detail::count_in(view_, queue_, TaskState::archived); });
}

TASKMUX_INLINE std::vector<TaskInfo> DeadLetterQueue::list(const DeadLetterFilter& filter,
                                                           std::size_t limit) const {
  return detail::during("list dead letters of queue " + detail::in_quotes(queue_), [&] {
    ListRequest request = detail::archive_request(queue_, filter, view_.now());
    request.limit = limit;
    return detail::list_pages(view_, std::move(request));
  });
}

TASKMUX_INLINE std::optional<TaskInfo> DeadLetterQueue::find(std::string_view id) const {
  std::optional<TaskInfo> task =
      detail::during("find dead letter", [&] { return view_.find(queue_, id); });
  if (task && task->state != TaskState::archived) task.reset();
  return task;
}

TASKMUX_INLINE void DeadLetterQueue::requeue(std::string_view id) {
  detail::act_on(view_, queue_, id, detail::requeue_operation, TaskState::archived);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::requeue_matching(const DeadLetterFilter& filter) {
  return detail::act_on_matching(view_, queue_, filter, detail::requeue_operation);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::requeue_all() {
  return detail::act_on_all(view_, queue_, TaskState::archived, detail::requeue_operation);
}

TASKMUX_INLINE void DeadLetterQueue::remove(std::string_view id) {
  detail::act_on(view_, queue_, id, detail::remove_operation, TaskState::archived);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_matching(const DeadLetterFilter& filter) {
  return detail::act_on_matching(view_, queue_, filter, detail::remove_operation);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_all() {
  return detail::act_on_all(view_, queue_, TaskState::archived, detail::remove_operation);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_older_than(Duration age) {
  return remove_matching({.older_than = age});
}

}  // namespace v0
}  // namespace taskmux
