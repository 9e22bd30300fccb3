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

/// Selects dead letters: those that match all given criteria. The age of a dead letter is the time
/// since it was archived, on the broker's clock. The other fields are those of TaskFilter.
struct DeadLetterFilter {
  std::string type_pattern{};              ///< The task's type, or a pattern such as "email:*".
  std::string id_prefix{};                 ///< A prefix of the id.
  std::string error_contains{};            ///< A substring of the last error.
  std::optional<Duration> older_than{};    ///< Archived at least this long ago.
  std::optional<Duration> younger_than{};  ///< Archived less than this long ago.
};

/// The archived tasks of one queue, which have failed for good. Each has its last error
/// (TaskInfo::last_error) and the time when it was archived (TaskInfo::archived_at). Thread-safe.
/// The broker must outlive it. For a listing by pages, see Inspector::list().
///
/// Every action affects only tasks that are still archived at that moment, the oldest first. An
/// action with a filter reads the archive in bounded parts, and skips no task, even if others
/// remove or archive tasks concurrently. Tasks that are archived during the call may or may not be
/// included.
///
/// A queue to which nothing was ever enqueued has no dead letters. Every call throws
/// Error{unavailable} if the broker can't be reached, and Error{invalid_argument} for an age that
/// is negative or over 100 years. If an action on many tasks fails halfway, the text of the Error
/// says how many tasks were processed.
class DeadLetterQueue {
 public:
  /// Throws Error{unsupported} if the broker has no QueueView.
  DeadLetterQueue(Broker& broker, std::string queue);
  DeadLetterQueue(const DeadLetterQueue&) = delete;
  DeadLetterQueue& operator=(const DeadLetterQueue&) = delete;

  const std::string& queue() const noexcept { return queue_; }

  /// Returns the number of dead letters.
  std::size_t count() const;

  /// Returns up to `limit` of the dead letters that match, oldest first. Keeps no more in memory.
  std::vector<TaskInfo> list(const DeadLetterFilter& filter = {}, std::size_t limit = 30) const;

  /// Returns one dead letter; nullopt if there is none with this id (the task may be in another
  /// state).
  std::optional<TaskInfo> find(std::string_view id) const;

  /// Makes a dead letter pending again, at the back of its queue, with the retries that it has
  /// left. Throws Error{task_not_found}, or {wrong_state} if the task is not archived.
  void requeue(std::string_view id);
  /// Requeues all that match, or all; returns how many.
  std::size_t requeue_matching(const DeadLetterFilter& filter);
  std::size_t requeue_all();

  /// Deletes a dead letter permanently and releases its unique lock. Throws as requeue() does.
  void remove(std::string_view id);
  /// Deletes all that match, or all; returns how many.
  std::size_t remove_matching(const DeadLetterFilter& filter);
  std::size_t remove_all();

  /// Deletes the dead letters that were archived at least `age` ago; returns how many.
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
