#pragma once

#include <algorithm>
#include <chrono>
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

/// How many dead letters, with their payloads, a search keeps in memory at once.
inline constexpr std::size_t dead_letter_chunk = 50;

/// A DeadLetterFilter whose ages are instants: `archived_at` lies in (`after`, `until`].
class DeadLetterMatch {
 public:
  DeadLetterMatch(const DeadLetterFilter& filter, Time now) : filter_{filter} {
    if (filter.older_than) until_ = now - checked(*filter.older_than);
    if (filter.younger_than) after_ = now - checked(*filter.younger_than);
  }

  /// The archive is in the order of time, so what matches lies between what is too old and what is
  /// too young.
  bool too_old(const TaskInfo& task) const { return after_ && archived(task) <= *after_; }
  bool too_young(const TaskInfo& task) const { return until_ && archived(task) > *until_; }

  bool operator()(const TaskInfo& task) const {
    const std::string& type = task.task.type;
    return (filter_.type.empty() || type == filter_.type) &&
           type.starts_with(filter_.type_prefix) &&
           task.last_error.find(filter_.error_contains) != std::string::npos && !too_old(task) &&
           !too_young(task);
  }

 private:
  static Duration checked(Duration age) {
    if (age < Duration{0}) throw Error{Errc::invalid_argument, "the age is negative"};
    if (age > Limits::longest)
      throw Error{Errc::invalid_argument, "the age is longer than 100 years"};
    return age;
  }
  static Time archived(const TaskInfo& task) { return task.archived_at.value_or(Time{}); }

  const DeadLetterFilter& filter_;
  std::optional<Time> after_;
  std::optional<Time> until_;
};

/// Where the first dead letter stands for which `past` holds, as it then does for all after it; the
/// number of dead letters if there is none. Too high, at worst, if some are removed meanwhile.
template <typename Past>
std::size_t dead_letters_before(QueueView& view, const std::string& queue, Past past) {
  std::size_t low = 0;
  std::size_t high = view.queue_info(queue).archived;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    const auto found = view.list(queue, TaskState::archived, {.offset = middle, .limit = 1});
    if (found.empty() || past(found.front())) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

inline std::vector<TaskInfo> list_matching(QueueView& view, const std::string& queue,
                                           const DeadLetterFilter& filter, Page page) {
  const DeadLetterMatch match{filter, view.now()};
  const auto young_enough = [&](const TaskInfo& task) { return !match.too_old(task); };
  std::size_t offset = filter.younger_than ? dead_letters_before(view, queue, young_enough) : 0;
  std::vector<TaskInfo> matching;
  while (matching.size() < page.limit) {
    std::vector<TaskInfo> chunk =
        view.list(queue, TaskState::archived, {.offset = offset, .limit = dead_letter_chunk});
    if (chunk.empty()) break;
    offset += dead_letter_chunk;
    for (TaskInfo& task : chunk) {
      if (match.too_young(task) || matching.size() == page.limit) return matching;
      if (!match(task)) continue;
      if (page.offset > 0) {
        --page.offset;
      } else {
        matching.push_back(std::move(task));
      }
    }
  }
  return matching;
}

/// The ids of those that match among a part of the archive, and whether older ones may match too.
struct DeadLetterChunk {
  std::vector<std::string> ids{};
  bool older = true;
};

inline DeadLetterChunk matching_ids(QueueView& view, const std::string& queue,
                                    const DeadLetterMatch& match, Page page) {
  DeadLetterChunk chunk;
  for (TaskInfo& task : view.list(queue, TaskState::archived, page)) {
    if (match.too_old(task)) chunk.older = false;
    if (match(task)) chunk.ids.push_back(std::move(task.id));
  }
  return chunk;
}

/// Acts on those of `ids` that are still archived; returns on how many.
inline std::size_t act_on_archived(QueueView& view, const std::string& queue,
                                   const std::vector<std::string>& ids, Operation operation) {
  if (ids.empty()) return 0;
  const auto errors = view.act(queue, operation.action, ids, TaskState::archived);
  return static_cast<std::size_t>(std::count(errors.begin(), errors.end(), std::nullopt));
}

/// Acts on all dead letters that match; returns on how many. Goes from the newest to the oldest:
/// what leaves the archive meanwhile, by whomever, then moves those that have not been looked at
/// towards the front, where this is going, and what comes is put behind.
inline std::size_t act_on_matching(QueueView& view, const std::string& queue,
                                   const DeadLetterFilter& filter, Operation operation) {
  const std::string name =
      std::string{operation.name} + " matching dead letters of queue " + in_quotes(queue);
  return counting(name, [&](std::size_t& done) {
    const DeadLetterMatch match{filter, view.now()};
    const auto too_young = [&](const TaskInfo& task) { return match.too_young(task); };
    std::size_t end = filter.older_than ? dead_letters_before(view, queue, too_young)
                                        : view.queue_info(queue).archived;
    for (bool older = true; older && end > 0;) {
      const std::size_t begin = end - std::min(end, dead_letter_chunk);
      const DeadLetterChunk chunk =
          matching_ids(view, queue, match, {.offset = begin, .limit = end - begin});
      done += act_on_archived(view, queue, chunk.ids, operation);
      older = chunk.older;
      end = begin;
    }
  });
}

}  // namespace detail

TASKMUX_INLINE DeadLetterQueue::DeadLetterQueue(Broker& broker, std::string queue)
    : view_{broker.queue_view()}, registry_{broker.registry()}, queue_{std::move(queue)} {}

TASKMUX_INLINE std::size_t DeadLetterQueue::count() const {
  return detail::during("count dead letters", [&] { return detail::unless_fresh(registry_, queue_, [&] { return view_.queue_info(queue_).archived; }, {}); });
}

TASKMUX_INLINE std::vector<TaskInfo> DeadLetterQueue::list(Page page) const {
  return detail::during("list dead letters",
                        [&] { return detail::unless_fresh(registry_, queue_, [&] { return view_.list(queue_, TaskState::archived, page); }, {}); });
}

TASKMUX_INLINE std::vector<TaskInfo> DeadLetterQueue::list(const DeadLetterFilter& filter,
                                                   Page page) const {
  return detail::during("list dead letters of queue " + detail::in_quotes(queue_),
                        [&] { return detail::unless_fresh(registry_, queue_, [&] { return detail::list_matching(view_, queue_, filter, page); }, {}); });
}

TASKMUX_INLINE std::optional<TaskInfo> DeadLetterQueue::find(std::string_view id) const {
  std::optional<TaskInfo> task =
      detail::during("find dead letter", [&] { return detail::unless_fresh(registry_, queue_, [&] { return view_.find(queue_, id); }, {}); });
  if (task && task->state != TaskState::archived) task.reset();
  return task;
}

TASKMUX_INLINE void DeadLetterQueue::requeue(std::string_view id) {
  detail::act_on(view_, queue_, id, detail::requeue_operation, TaskState::archived);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::requeue_matching(const DeadLetterFilter& filter) {
  return detail::unless_fresh(registry_, queue_, [&] { return detail::act_on_matching(view_, queue_, filter, detail::requeue_operation); }, {});
}

TASKMUX_INLINE std::size_t DeadLetterQueue::requeue_all() {
  return detail::unless_fresh(registry_, queue_, [&] { return detail::act_on_all(view_, queue_, TaskState::archived, detail::requeue_operation); }, {});
}

TASKMUX_INLINE void DeadLetterQueue::remove(std::string_view id) {
  detail::act_on(view_, queue_, id, detail::remove_operation, TaskState::archived);
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_matching(const DeadLetterFilter& filter) {
  return detail::unless_fresh(registry_, queue_, [&] { return detail::act_on_matching(view_, queue_, filter, detail::remove_operation); }, {});
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_all() {
  return detail::unless_fresh(registry_, queue_, [&] { return detail::act_on_all(view_, queue_, TaskState::archived, detail::remove_operation); }, {});
}

TASKMUX_INLINE std::size_t DeadLetterQueue::remove_older_than(Duration age) {
  return remove_matching({.older_than = age});
}

}  // namespace v0
}  // namespace taskmux
