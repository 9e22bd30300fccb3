#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/run/run_state.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// All runs that this server owns at the broker, from the exchange that took them to the one that
/// settled them: their leases are to be extended, and they may have to be stopped. Runs are added
/// and removed in batches, under one lock. Thread-safe.
class RunRegistry {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  RunRegistry() = default;
  RunRegistry(const RunRegistry&) = delete;
  RunRegistry& operator=(const RunRegistry&) = delete;
  ~RunRegistry() {
    for (RunState* run = first_; run != nullptr;) {
      RunState* const next = run->next;
      run->self.reset();
      run = next;
    }
  }

  void add(std::span<const RunPtr> runs) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    for (const RunPtr& run : runs) {
      run->self = run;
      run->previous = last_;
      run->next = nullptr;
      (last_ != nullptr ? last_->next : first_) = run.get();
      last_ = run.get();
    }
    size_ += runs.size();
  }

  /// Removes the runs that are in it; null pointers are skipped.
  void remove(std::span<const RunPtr> runs) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    for (const RunPtr& run : runs) {
      if (!run || !run->self) continue;
      (run->previous != nullptr ? run->previous->next : first_) = run->next;
      (run->next != nullptr ? run->next->previous : last_) = run->previous;
      run->self.reset();  // The caller holds it too, so nothing is freed here.
      --size_;
    }
  }

  /// Returns the runs for which `wanted` returns true, oldest first. `wanted` runs under the lock:
  /// it must be quick and must not call the library.
  template <typename Predicate>
  std::vector<RunPtr> select(Predicate wanted) const TASKMUX_EXCLUDES(mutex_) {
    std::vector<RunPtr> chosen;
    MutexLock lock{mutex_};
    for (RunState* run = first_; run != nullptr; run = run->next) {
      if (wanted(static_cast<const RunState&>(*run))) chosen.push_back(run->self);
    }
    return chosen;
  }

  std::size_t size() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return size_;
  }

 private:
  mutable Mutex mutex_;
  RunState* first_ TASKMUX_GUARDED_BY(mutex_) = nullptr;
  RunState* last_ TASKMUX_GUARDED_BY(mutex_) = nullptr;
  std::size_t size_ TASKMUX_GUARDED_BY(mutex_) = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
