#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/error.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// Which dead letters are meant: those that meet all that is given. Ages count from when a task was
/// archived, by the broker's clock. For the rest see TaskFilter.
struct DeadLetterFilter {
  std::string type_pattern{};              ///< The task's type, or a pattern such as "email:*".
  std::string id_prefix{};                 ///< What the id begins with.
  std::string error_contains{};            ///< A part of the last error, spelt exactly.
  std::optional<Duration> older_than{};    ///< Archived at least this long ago.
  std::optional<Duration> younger_than{};  ///< Archived less than this long ago.
};

/// The archived tasks of one queue, which have failed for good. Each has its last error
/// (TaskInfo::last_error) and the time when it was archived (TaskInfo::archived_at). Thread-safe.
/// The broker must outlive it. For a listing by pages, see Inspector::list().
///
/// Every action is on tasks that are still archived at that moment, the oldest first. One by a filter reads
/// the archive in bounded parts, and skips nothing, whatever is removed or archived meanwhile, here or
/// elsewhere. What is archived while the call runs may be met or not.
///
/// A queue to which nothing was ever enqueued has no dead letters. Throws Error{unavailable} when
/// the broker can't be reached, and Error{invalid_argument} for an age that is negative or over 100
/// years. An Error in the midst of many says in its text how many had been done.
class DeadLetterQueue {
 public:
  /// Throws Error{unsupported} if the broker has no QueueView.
  DeadLetterQueue(Broker& broker, std::string queue);
  DeadLetterQueue(const DeadLetterQueue&) = delete;
  DeadLetterQueue& operator=(const DeadLetterQueue&) = delete;

  const std::string& queue() const noexcept { return queue_; }

  /// How many dead letters there are.
  std::size_t count() const;

  /// The oldest of those that match, `limit` at most, oldest first. Keeps no more in memory.
  std::vector<TaskInfo> list(const DeadLetterFilter& filter = {}, std::size_t limit = 30) const;

  /// One dead letter; nullopt if there is none of this id (the task may be in another state).
  std::optional<TaskInfo> find(std::string_view id) const;

  /// Makes one pending again, last in line, with the retries that it has left. Throws
  /// Error{task_not_found}, or {wrong_state} if the task is not archived.
  void requeue(std::string_view id);
  /// Returns how many were requeued.
  std::size_t requeue_matching(const DeadLetterFilter& filter);
  std::size_t requeue_all();

  /// Deletes one for good and frees its unique lock. Throws as requeue() does.
  void remove(std::string_view id);
  /// Returns how many were deleted.
  std::size_t remove_matching(const DeadLetterFilter& filter);
  std::size_t remove_all();

  /// Deletes those that were archived at least `age` ago; returns how many.
  std::size_t remove_older_than(Duration age);

 private:
  QueueView& view_;
  const std::string queue_;
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/dead_letter_queue.hpp"
#endif
