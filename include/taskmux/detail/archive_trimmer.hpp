#pragma once

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Keeps a dead-letter queue within its limits: deletes the oldest tasks, in chunks, each after the
/// host's hook has seen it.
class ArchiveTrimmer {
 public:
  /// `stopping` is asked before each task: true ends a trim.
  ArchiveTrimmer(Broker& broker, ArchiveLimits limits,
                 std::function<void(const TaskInfo&)> before_evict, const Logger& logger,
                 std::function<bool()> stopping = {})
      : broker_{broker},
        limits_{limits},
        before_evict_{std::move(before_evict)},
        logger_{logger},
        stopping_{std::move(stopping)} {}

  /// Trims the next few of `queues`, so that many cost a broker no more than few do. What fails is
  /// logged.
  void trim_next(std::span<const std::string> queues) {
    for (std::size_t n = 0; n < std::min(queues_at_once, queues.size()); ++n) {
      const std::string& queue = queues[next_++ % queues.size()];
      try {
        trim(queue);
      } catch (const Error& e) {
        // A broker without a queue view has no archive to trim; an outage is the other roles' to
        // tell.
        if (e.errc() == Errc::unsupported || e.errc() == Errc::unavailable) return;
        logger_(LogLevel::error, "trim the archive of \"" + queue + "\": " + e.what());
      }
    }
  }

  /// Looks through the archive of `queue` once; returns how many tasks were deleted. Throws Error.
  std::size_t trim(const std::string& queue) {
    QueueView& view = broker_.queue_view();
    std::size_t left = 0;
    try {
      left = view.queue_info(queue).archived;
    } catch (const Error& e) {
      if (e.errc() == Errc::queue_not_found) return 0;
      throw;
    }
    if (left == 0) return 0;
    const Time oldest_allowed = view.now() - limits_.max_age;
    std::size_t deleted = 0;
    std::size_t kept = 0;  // By the hook; they stay at the front of the listing.
    // While there are not too many, the oldest alone tells whether any is too old.
    std::size_t most = left > limits_.max_tasks ? chunk : 1;
    while (true) {
      const std::size_t before = deleted + kept;
      std::vector<std::string> victims;
      const std::vector<TaskInfo> page = view.list(queue, TaskState::archived, {kept, most});
      std::size_t looked_at = 0;
      for (const TaskInfo& task : page) {
        const bool too_old = task.archived_at && *task.archived_at < oldest_allowed;
        if ((!too_old && left <= limits_.max_tasks) || (stopping_ && stopping_())) break;
        ++looked_at;
        if (left > 0) --left;
        if (may_go(task)) {
          victims.push_back(task.id);
        } else {
          ++kept;
        }
      }
      // Only while archived: one that an operator runs again meanwhile is not touched.
      for (const auto& error : view.act(queue, TaskAction::remove, victims, TaskState::archived))
        deleted += error ? 0U : 1U;
      if (looked_at < most || deleted + kept == before) return deleted;
      most = chunk;
    }
  }

 private:
  static constexpr std::size_t chunk = 100;
  static constexpr std::size_t queues_at_once = 4;

  bool may_go(const TaskInfo& task) const {
    if (!before_evict_) return true;
    try {
      before_evict_(task);
      return true;
    } catch (const std::exception& e) {
      logger_(LogLevel::warning,
              "task " + task.id + " stays in the archive: the hook threw: " + text_of_exception(e));
    } catch (...) {
      logger_(LogLevel::warning,
              "task " + task.id + " stays in the archive: the hook threw " + text_of_exception());
    }
    return false;
  }

  Broker& broker_;
  const ArchiveLimits limits_;
  const std::function<void(const TaskInfo&)> before_evict_;
  const Logger& logger_;
  const std::function<bool()> stopping_;
  std::size_t next_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
