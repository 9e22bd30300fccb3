#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// What a watch knows of its queues, so that it need not look at all of them to know how they stand: which
/// of them it has to look at again, and when something is due in the others. Queues go by their number
/// in the watch. Not thread-safe.
class MemoryKnowledge {
 public:
  /// How a queue stands.
  struct Look {
    bool ready = false;
    std::optional<Time> due{};  ///< By the steady clock.
  };

  explicit MemoryKnowledge(std::size_t queues) : queues_(queues) {
    unknown_.reserve(queues);
    forget_all();
  }

  /// The queue may have become ready, or due earlier.
  void forget(std::size_t queue) noexcept {
    if (std::exchange(queues_[queue].unknown, true)) return;
    unknown_.push_back(queue);
  }

  void forget_all() noexcept {
    for (std::size_t n = 0; n < queues_.size(); ++n) forget(n);
  }

  /// Forgets the queues that have come due at `now` of the steady clock.
  void forget_due(Time now) {
    while (!dues_.empty() && dues_.begin()->first <= now) {
      const std::size_t queue = dues_.begin()->second;
      set_due(queue, std::nullopt);
      forget(queue);
    }
  }

  /// The queues to look at: those that were forgotten, and those that were ready when they were looked at.
  std::span<const std::size_t> unknown() const noexcept { return unknown_; }

  /// Notes how unknown()[i] stands. Unless it is ready, another queue takes its place there.
  void note(std::size_t i, const Look& look) {
    const std::size_t queue = unknown_[i];
    set_due(queue, look.due);
    if (look.ready) return;
    queues_[queue].unknown = false;
    unknown_[i] = unknown_.back();
    unknown_.pop_back();
  }

  /// Of all queues, by the steady clock.
  std::optional<Time> next_due() const noexcept {
    if (dues_.empty()) return std::nullopt;
    return dues_.begin()->first;
  }

 private:
  struct Queue {
    bool unknown = false;  ///< It is among those.
    std::optional<Time> due{};
  };

  void set_due(std::size_t queue, std::optional<Time> due) {
    std::optional<Time>& known = queues_[queue].due;
    if (known == due) return;
    if (due) dues_.emplace(*due, queue);
    if (known) dues_.erase({*known, queue});
    known = due;
  }

  std::vector<Queue> queues_;
  std::vector<std::size_t> unknown_;
  std::set<std::pair<Time, std::size_t>> dues_;
};

/// Whom a watch calls. Its own lock is held during a call, so that end() waits for one that runs.
/// Thread-safe but for `armed`, `told` and `knowledge`, which the broker's lock guards.
class MemoryWatcher {
 public:
  MemoryWatcher(std::vector<std::string> queues, std::function<void(const Hint&)> callback)
      : knowledge{queues.size()}, queues_{std::move(queues)}, callback_{std::move(callback)} {}

  const std::vector<std::string>& queues() const noexcept { return queues_; }

  /// Calls the callback. Ignores exceptions, which the callback must not throw.
  void call(const Hint& hint) noexcept TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    try {
      if (callback_) callback_(hint);
    } catch (...) {
      // Only this receiver loses the hint; the operation itself has succeeded.
    }
  }

  void end() TASKMUX_EXCLUDES(calling_) {
    MutexLock lock{calling_};
    callback_ = nullptr;
  }

  /// Records a new report of the queues' state, and returns its number: hints about earlier changes
  /// are obsolete. Called under the broker's lock.
  std::uint64_t note_report() noexcept {
    return reports_.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  std::uint64_t reports() const noexcept { return reports_.load(std::memory_order_relaxed); }

  bool armed = false;
  std::optional<Time> told{};  ///< The due time that arm() gave, by the steady clock.
  MemoryKnowledge knowledge;

 private:
  const std::vector<std::string> queues_;
  std::atomic<std::uint64_t> reports_{0};
  Mutex calling_;
  std::function<void(const Hint&)> callback_ TASKMUX_GUARDED_BY(calling_);
};

/// Hints that are collected under the broker's lock and delivered by the destructor, when the lock
/// must be free. They are delivered even if an exception ends the scope, since their watches are no
/// longer armed.
class MemoryHints {
 public:
  MemoryHints() = default;
  MemoryHints(const MemoryHints&) = delete;
  MemoryHints& operator=(const MemoryHints&) = delete;
  /// Skips hints that the receiver already knows from a newer report of arm(): they would be
  /// spurious. arm() may be called between this check and the call; therefore each hint carries the
  /// number of its report.
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

/// The watches of a broker, found by queue: the cost of a change in one queue does not depend on
/// the number of other queues. Not thread-safe.
class MemoryWatches {
 public:
  /// Even if this throws, remove() must be called.
  void add(const std::shared_ptr<MemoryWatcher>& watcher) {
    watchers_.push_back(watcher);
    for (std::size_t n = 0; n < watcher->queues().size(); ++n)
      by_queue_[watcher->queues()[n]].push_back({watcher, n});
  }

  void remove(const MemoryWatcher& watcher) noexcept {
    const auto is_it = [&](const Watcher& other) { return other.get() == &watcher; };
    for (const std::string& queue : watcher.queues()) {
      const auto found = by_queue_.find(queue);
      if (found == by_queue_.end()) continue;
      std::erase_if(found->second, [&](const Place& place) { return is_it(place.watcher); });
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

  /// Something in `queue` may be ready at `instant` of the steady clock: its watches are to look at it
  /// again. Collects hints for those that are armed, and do not know of an earlier time.
  void ready(std::string_view queue, Time instant, MemoryHints& hints) {
    const auto found = by_queue_.find(queue);
    if (found == by_queue_.end()) return;
    for (const auto& [watcher, number] : found->second) {
      watcher->knowledge.forget(number);
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
  using Watcher = std::shared_ptr<MemoryWatcher>;
  /// A queue of a watch.
  struct Place {
    Watcher watcher;
    std::size_t number;
  };

  std::vector<Watcher> watchers_;
  std::map<std::string, std::vector<Place>, std::less<>> by_queue_;
};

/// The watches on tasks of one queue, found by the task. Not thread-safe.
class MemoryTaskWatches {
 public:
  void add(const std::string& id, const std::shared_ptr<MemoryWatcher>& watcher) {
    const auto entry = watched_.try_emplace(id).first;
    entry->second.id = &entry->first;
    entry->second.watchers.push_back(watcher);
  }

  /// Returns whether nobody watches the task any more.
  bool remove(const std::string& id, const MemoryWatcher& watcher) noexcept {
    const auto found = watched_.find(id);
    if (found == watched_.end()) return true;
    Watched& task = found->second;
    std::erase_if(task.watchers, [&](const auto& other) { return other.get() == &watcher; });
    if (!task.watchers.empty()) return false;
    if (!task.changed) watched_.erase(found);
    return true;
  }

  void note_change(const std::string& id) noexcept {
    const auto found = watched_.find(id);
    if (found != watched_.end()) note_change(found->second);
  }
  void note_change_of_all() noexcept {
    for (auto& [id, task] : watched_) note_change(task);
  }

  /// Collects hints for the watches on tasks that have changed, which nobody watches from then on.
  void tell(MemoryHints& hints) {
    while (changed_) {
      for (const auto& watcher : changed_->watchers) {
        if (!watcher->armed) continue;
        hints.add(watcher, {.kind = Hint::Kind::ready});
        watcher->armed = false;
      }
      const auto told = watched_.find(*changed_->id);
      changed_ = changed_->next_changed;
      watched_.erase(told);
    }
  }

 private:
  struct Watched {
    const std::string* id = nullptr;
    std::vector<std::shared_ptr<MemoryWatcher>> watchers{};
    Watched* next_changed = nullptr;
    bool changed = false;  ///< It is in the list that begins at `changed_`.
  };

  void note_change(Watched& task) noexcept {
    if (std::exchange(task.changed, true)) return;
    task.next_changed = std::exchange(changed_, &task);
  }

  std::unordered_map<std::string, Watched> watched_;  // Its entries stay where they are.
  Watched* changed_ = nullptr;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
