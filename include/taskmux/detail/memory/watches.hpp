#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Whom a watch calls. Its own lock is held during a call, so that end() waits for one that runs.
/// Thread-safe but for `armed` and `told`, which the broker's lock guards.
class MemoryWatcher {
 public:
  MemoryWatcher(std::vector<std::string> queues, std::function<void(const Hint&)> callback)
      : queues_{std::move(queues)}, callback_{std::move(callback)} {}

  const std::vector<std::string>& queues() const noexcept { return queues_; }

  /// Drops what the callback throws, which it must not.
  void call(const Hint& hint) noexcept TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    try {
      if (callback_) callback_(hint);
    } catch (...) {
      // The hint is lost on whom it was meant for alone; the operation that it tells of has been done.
    }
  }

  void end() TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    callback_ = nullptr;
  }

  /// Notes that the state of the queues is reported anew, and returns the number of the report: hints
  /// of what happened before are obsolete. Called under the broker's lock.
  std::uint64_t note_report() noexcept {
    return reports_.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  std::uint64_t reports() const noexcept { return reports_.load(std::memory_order_relaxed); }

  bool armed = false;
  std::optional<Time> told{};  ///< The due time that arm() gave, by the steady clock.

 private:
  const std::vector<std::string> queues_;
  std::atomic<std::uint64_t> reports_{0};
  Mutex calling_;
  std::function<void(const Hint&)> callback_ TASKMUX_GUARDED_BY(calling_);
};

/// Hints that are collected under the broker's lock, and given at the end of their scope: the lock must be
/// free by then. That is so even if an exception ends the scope, since a watch that is told is no longer
/// armed.
class MemoryHints {
 public:
  MemoryHints() = default;
  MemoryHints(const MemoryHints&) = delete;
  MemoryHints& operator=(const MemoryHints&) = delete;
  /// Skips hints whose news the watcher has since learnt from arm(): they would be spurious. arm() may
  /// come between this check and the call; therefore each hint carries the number of its report.
  ~MemoryHints() {
    for (const Entry& entry : hints_) {
      const Hint& hint = entry.hint;
      if (hint.kind == Hint::Kind::ready && hint.report != entry.watcher->reports()) continue;
      entry.watcher->call(hint);
    }
  }

  void add(std::shared_ptr<MemoryWatcher> watcher, Hint hint) {
    if (hint.kind == Hint::Kind::ready) hint.report = watcher->reports();
    hints_.push_back({std::move(watcher), std::move(hint)});
  }

 private:
  struct Entry {
    std::shared_ptr<MemoryWatcher> watcher;
    Hint hint;
  };

  std::vector<Entry> hints_;
};

/// The watches of a broker, found by queue: what happens in one queue costs the same however many others
/// are watched. Not thread-safe.
class MemoryWatches {
 public:
  /// If it throws, remove() is due as if it had not.
  void add(const std::shared_ptr<MemoryWatcher>& watcher) {
    watchers_.push_back(watcher);
    for (const std::string& queue : watcher->queues()) by_queue_[queue].push_back(watcher);
  }

  void remove(const MemoryWatcher& watcher) noexcept {
    const auto is_it = [&](const auto& other) { return other.get() == &watcher; };
    for (const std::string& queue : watcher.queues()) {
      const auto found = by_queue_.find(queue);
      if (found == by_queue_.end()) continue;
      std::erase_if(found->second, is_it);
      if (found->second.empty()) by_queue_.erase(found);
    }
    std::erase_if(watchers_, is_it);
  }

  bool any_armed() const noexcept {
    for (const auto& watcher : watchers_) {
      if (watcher->armed) return true;
    }
    return false;
  }

  /// Something in `queue` may be ready at `instant` of the steady clock: collects hints for the watches
  /// that are armed, and do not know of an earlier time.
  void ready(std::string_view queue, Time instant, MemoryHints& hints) {
    const auto found = by_queue_.find(queue);
    if (found == by_queue_.end()) return;
    for (const auto& watcher : found->second) {
      if (!watcher->armed) continue;
      if (watcher->told && *watcher->told <= instant) continue;
      hints.add(watcher, {.kind = Hint::Kind::ready, .queue = std::string{queue}});
      watcher->armed = false;
    }
  }

  void cancel(std::string_view queue, std::string_view task_id, MemoryHints& hints) {
    for (const auto& watcher : watchers_) {
      hints.add(watcher, {.kind = Hint::Kind::cancel,
                          .task_id = std::string{task_id},
                          .queue = std::string{queue}});
    }
  }

 private:
  using Watchers = std::vector<std::shared_ptr<MemoryWatcher>>;

  Watchers watchers_;
  std::map<std::string, Watchers, std::less<>> by_queue_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
