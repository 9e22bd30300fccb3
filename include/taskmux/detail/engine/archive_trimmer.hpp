#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Keeps the dead-letter queues of a server within their limits: checks them periodically (if there
/// are many, some of them in turn), and deletes the oldest tasks in chunks, first from the queue
/// that exceeds its limits most. The application's hook is called before each task is deleted.
/// Deletions are counted and logged. Not thread-safe except evicted().
class ArchiveTrimmer {
 public:
  struct Parts {
    Broker& broker;
    const Logger& logger;
    std::shared_ptr<Clock> clock;
    std::function<void(const TaskInfo&)> before_evict{};
    std::function<bool()> stopping{};  ///< Called before each task; true ends the trimming.
  };

  ArchiveTrimmer(Parts parts, std::span<const std::string> queues, ArchiveLimits limits)
      : parts_{std::move(parts)},
        limits_{limits},
        names_{queues.begin(), queues.end()},
        queues_(names_.size()) {}

  /// Performs one bounded step, if it is due: a check of some queues, or one chunk. Returns when
  /// the next step is due. Failures are logged.
  std::optional<SteadyTime> run_once() {
    if (unsupported_ || stopping()) return std::nullopt;
    const SteadyTime now = parts_.clock->steady_now();
    if (now >= next_step_) step(now);
    SteadyTime next = next_step_;
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      if (queues_[i].untold == 0) continue;
      if (now >= queues_[i].next_line) tell(i, now);
      if (queues_[i].untold > 0) next = std::min(next, queues_[i].next_line);
    }
    return next;
  }

  /// Logs the deletions that have not been logged yet.
  void tell_rest() {
    for (std::size_t i = 0; i < queues_.size(); ++i) {
      if (queues_[i].untold > 0) tell(i, parts_.clock->steady_now());
    }
  }

  /// Returns the number of tasks deleted so far. Thread-safe.
  std::uint64_t evicted() const noexcept { return evicted_.load(std::memory_order_relaxed); }

 private:
  static constexpr std::size_t chunk = 500;
  static constexpr std::size_t chunk_for_hook = 100;  // These are read with their payloads.
  static constexpr std::size_t most_in_a_look = 128;
  static constexpr Duration look_interval = std::chrono::seconds{10};
  static constexpr Duration line_interval = std::chrono::minutes{1};

  struct Queue {
    std::size_t excess = 0;  ///< Tasks beyond the limits, found by the last check.
    std::string cursor{};    ///< Follows the tasks that the hook has seen since then.
    std::uint64_t untold = 0;
    SteadyTime next_line{SteadyTime::min()};
  };

  void step(SteadyTime now) {
    try {
      const std::size_t fullest = find_fullest();
      if (queues_[fullest].excess > 0) {
        trim(fullest);
      } else if (now >= next_look_) {
        next_look_ = now + look_interval;
        look();
      }
    } catch (const Error& e) {
      // Other roles report an outage, and a queue may be deleted at any time.
      if (e.errc() == Errc::unsupported) {
        unsupported_ = true;
      } else if (e.errc() != Errc::unavailable && e.errc() != Errc::queue_not_found) {
        log_failure(e, now);
      }
      for (Queue& queue : queues_) queue.excess = 0;
      next_look_ = now + look_interval;
    }
    // Pauses for as long as the step took, so that the broker has time for others.
    const SteadyTime end = parts_.clock->steady_now();
    next_step_ = queues_[find_fullest()].excess > 0 ? end + (end - now) : next_look_;
  }

  bool stopping() const { return parts_.stopping && parts_.stopping(); }

  std::size_t find_fullest() const {
    const auto fullest =
        std::max_element(queues_.begin(), queues_.end(),
                         [](const Queue& a, const Queue& b) { return a.excess < b.excess; });
    return static_cast<std::size_t>(fullest - queues_.begin());
  }

  std::vector<TrimReply> ask(std::span<const std::string> queues, std::size_t limit) {
    return parts_.broker.queue_view().trim_archives(
        queues, {.max_tasks = limits_.max_tasks, .max_age = limits_.max_age, .limit = limit});
  }

  void look() {
    const std::size_t first = next_queue_;
    const std::size_t count = std::min(most_in_a_look, names_.size() - first);
    next_queue_ = (first + count) % names_.size();
    const std::vector<TrimReply> replies = ask(std::span{names_}.subspan(first, count), 0);
    for (std::size_t i = 0; i < count; ++i) {
      queues_[first + i].excess = replies.at(i).excess;
      queues_[first + i].cursor.clear();
      if (replies[i].error) log_failure(*replies[i].error, parts_.clock->steady_now());
    }
  }

  void trim(std::size_t i) {
    if (parts_.before_evict) return trim_with_hook(i);
    const TrimReply reply = ask(std::span{&names_[i], 1}, chunk).at(0);
    if (reply.error) throw *reply.error;
    queues_[i].excess = reply.excess;
    count(i, reply.deleted);
  }

  void trim_with_hook(std::size_t i) {
    Queue& queue = queues_[i];
    QueueView& view = parts_.broker.queue_view();
    const std::size_t most = std::min(chunk_for_hook, queue.excess);
    TaskPage page = view.list(
        {.queue = names_[i], .state = TaskState::archived, .cursor = queue.cursor, .limit = most});
    queue.excess = page.next.empty() ? 0 : queue.excess - page.tasks.size();
    queue.cursor = std::move(page.next);
    std::vector<std::string> victims;
    for (const TaskInfo& task : page.tasks) {
      if (stopping()) break;
      if (may_go(task)) victims.push_back(task.id);
    }
    // Only tasks that are still archived are deleted: a task may have been requeued in the
    // meantime.
    std::size_t deleted = 0;
    for (const ActReply& reply : view.act({.queue = names_[i],
                                           .action = TaskAction::remove,
                                           .ids = victims,
                                           .only = TaskState::archived})) {
      if (!reply.error) ++deleted;
    }
    count(i, deleted);
  }

  bool may_go(const TaskInfo& task) const {
    try {
      parts_.before_evict(task);
      return true;
    } catch (const std::exception& e) {
      log_kept(task, text_of_exception(e));
    } catch (...) {
      log_kept(task, text_of_exception());
    }
    return false;
  }

  void log_kept(const TaskInfo& task, const std::string& why) const {
    parts_.logger({.level = LogLevel::warning,
                   .text = "stays in the archive: the hook threw: " + why,
                   .task_id = task.id,
                   .task_type = task.task.type,
                   .queue = task.queue});
  }

  void count(std::size_t i, std::size_t deleted) {
    queues_[i].untold += deleted;
    evicted_.fetch_add(deleted, std::memory_order_relaxed);
  }

  void tell(std::size_t i, SteadyTime now) {
    Queue& queue = queues_[i];
    const auto age = std::chrono::duration_cast<std::chrono::hours>(limits_.max_age);
    const std::string text = "the " + std::to_string(queue.untold) +
                             " oldest archived tasks were deleted to keep the limits of " +
                             std::to_string(limits_.max_tasks) + " tasks and " +
                             std::to_string(age.count()) + " h";
    parts_.logger({.level = LogLevel::warning, .text = text, .queue = names_[i]});
    queue.untold = 0;
    queue.next_line = now + line_interval;
  }

  void log_failure(const Error& error, SteadyTime now) {
    if (now < next_failure_line_) return;
    next_failure_line_ = now + line_interval;
    parts_.logger(LogLevel::error,
                  std::string{"archives are not kept within their limits: "} + error.what());
  }

  const Parts parts_;
  const ArchiveLimits limits_;
  const std::vector<std::string> names_;
  std::vector<Queue> queues_;   // in the order of names_
  std::size_t next_queue_ = 0;  // to check
  SteadyTime next_look_{SteadyTime::min()};
  SteadyTime next_step_{SteadyTime::min()};  ///< No step is made before it.
  SteadyTime next_failure_line_{SteadyTime::min()};
  bool unsupported_ = false;  // A broker without a queue view has no archive to trim.
  std::atomic<std::uint64_t> evicted_{0};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
