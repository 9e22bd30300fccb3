#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <iterator>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/run/run_state.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The buffer of runs that wait for a worker, shared by all workers. Thread-safe.
class ReadyQueue {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  /// The state at one instant.
  struct Load {
    std::size_t ready = 0;  ///< Waiting runs.
    std::size_t busy = 0;   ///< Workers that are working on a run.
  };

  /// Adds runs at the back, or returns false once sealed. Wakes one worker; each worker that leaves
  /// runs behind wakes the next. Moves from `runs` only what it adds; if it throws std::bad_alloc,
  /// it has added none.
  bool push(std::span<RunPtr> runs) TASKMUX_EXCLUDES(mutex_) { return insert(runs, false); }

  /// The same at the front, for runs that count as begun.
  bool push_first(std::span<RunPtr> runs) TASKMUX_EXCLUDES(mutex_) { return insert(runs, true); }

  /// Removes and returns the waiting runs, oldest first. No worker gets a run after this.
  std::vector<RunPtr> seal() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    sealed_ = true;
    return take_all();
  }

  /// Waits for a run and takes it; then the caller is busy. Returns null once closed.
  RunPtr pop() TASKMUX_EXCLUDES(mutex_) {
    RunPtr run;
    bool wake = false;
    {
      MutexLock lock{mutex_};
      ++idle_;
      while (runs_.empty() && !closed_) lock.wait(available_);
      --idle_;
      if (closed_) return nullptr;
      run = take_first();
      ++busy_;
      wake = idle_ > 0 && !runs_.empty();
    }
    if (wake) available_.notify_one();
    return run;
  }

  /// Ends the work on the run that was popped, and takes the next, so that the caller stays busy.
  /// If none waits, or if the queue is closed, returns null, and the caller is no longer busy.
  RunPtr done_and_pop() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (!runs_.empty() && !closed_) return take_first();
    --busy_;
    return nullptr;
  }

  /// Ends the work on the run that was popped; its worker takes no more.
  void done() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    --busy_;
  }

  /// If the oldest waiting run is `overdue`, removes and returns all waiting runs, oldest first.
  template <typename Predicate>
  std::vector<RunPtr> take_all_if_first(Predicate overdue) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (runs_.empty() || !overdue(static_cast<const RunState&>(*runs_.front()))) return {};
    return take_all();
  }

  Load load() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return {runs_.size(), busy_};
  }

  /// Ends all workers. Runs that still wait are left without an owner.
  void close() TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      closed_ = true;
    }
    available_.notify_all();
  }

 private:
  bool insert(std::span<RunPtr> runs, bool first) TASKMUX_EXCLUDES(mutex_) {
    bool wake = false;
    {
      MutexLock lock{mutex_};
      if (sealed_) return false;
      runs_.insert(first ? runs_.begin() : runs_.end(), std::make_move_iterator(runs.begin()),
                   std::make_move_iterator(runs.end()));
      wake = idle_ > 0;
    }
    if (wake) available_.notify_one();
    return true;
  }

  RunPtr take_first() TASKMUX_REQUIRES(mutex_) {
    RunPtr run = std::move(runs_.front());
    runs_.pop_front();
    return run;
  }

  std::vector<RunPtr> take_all() TASKMUX_REQUIRES(mutex_) {
    std::vector<RunPtr> all{std::make_move_iterator(runs_.begin()),
                            std::make_move_iterator(runs_.end())};
    runs_.clear();
    return all;
  }

  mutable Mutex mutex_;
  std::condition_variable available_;
  std::deque<RunPtr> runs_ TASKMUX_GUARDED_BY(mutex_);
  std::size_t idle_ TASKMUX_GUARDED_BY(mutex_) = 0;
  std::size_t busy_ TASKMUX_GUARDED_BY(mutex_) = 0;
  bool sealed_ TASKMUX_GUARDED_BY(mutex_) = false;
  bool closed_ TASKMUX_GUARDED_BY(mutex_) = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
