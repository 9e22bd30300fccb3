#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Whom a watch calls. Its own lock is held during a call, so that end() waits for one that runs.
/// Thread-safe but for `armed` and `told`, which belong to MemoryWatches.
class MemoryWatcher {
 public:
  MemoryWatcher(std::vector<std::string> queues, std::function<void(const Hint&)> callback)
      : queues_{std::move(queues)}, callback_{std::move(callback)} {}

  const std::vector<std::string>& queues() const noexcept { return queues_; }

  bool watches(std::string_view queue) const noexcept {
    for (const std::string& name : queues_) {
      if (name == queue) return true;
    }
    return false;
  }

  void call(const Hint& hint) TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    if (callback_) callback_(hint);
  }

  void end() TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    callback_ = nullptr;
  }

  bool armed = false;
  std::optional<Time> told{};  ///< The due time that arm() gave, by the steady clock.

 private:
  const std::vector<std::string> queues_;
  Mutex calling_;
  std::function<void(const Hint&)> callback_ TASKMUX_GUARDED_BY(calling_);
};

/// Hints that were collected under the broker's lock, to be given once it is free.
class MemoryHints {
 public:
  void add(std::shared_ptr<MemoryWatcher> watcher, Hint hint) {
    hints_.emplace_back(std::move(watcher), std::move(hint));
  }

  void give() {
    for (const auto& [watcher, hint] : hints_) watcher->call(hint);
  }

 private:
  std::vector<std::pair<std::shared_ptr<MemoryWatcher>, Hint>> hints_;
};

/// The watches of a broker. Not thread-safe.
class MemoryWatches {
 public:
  void add(std::shared_ptr<MemoryWatcher> watcher) { watchers_.push_back(std::move(watcher)); }

  void remove(const MemoryWatcher& watcher) {
    std::erase_if(watchers_, [&](const auto& other) { return other.get() == &watcher; });
  }

  bool any_armed() const noexcept {
    for (const auto& watcher : watchers_) {
      if (watcher->armed) return true;
    }
    return false;
  }

  /// Something in `queue` may be ready at `instant` of the steady clock: for those that are armed,
  /// and were not told of an earlier time.
  void ready(std::string_view queue, Time instant, MemoryHints& hints) {
    for (const auto& watcher : watchers_) {
      if (!watcher->armed || !watcher->watches(queue)) continue;
      if (watcher->told && *watcher->told <= instant) continue;
      watcher->armed = false;
      hints.add(watcher, {.kind = Hint::Kind::ready, .queue = std::string{queue}});
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
  std::vector<std::shared_ptr<MemoryWatcher>> watchers_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
