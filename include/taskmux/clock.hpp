#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <optional>
#include <stop_token>
#include <vector>

#include "taskmux/detail/base/config.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// An instant of a clock that is never set back; only for measuring durations.
using SteadyTime = std::chrono::steady_clock::time_point;

/// Lets a thread sleep until it is notified. A notification that comes while nobody waits is kept
/// for the next wait; several of them count as one. Thread-safe; intended for one waiting thread.
class Waker {
 public:
  /// Ends the present wait, or the next one immediately. Cheap if it is already notified.
  void notify() {
    if (notified_.exchange(true, std::memory_order_acq_rel)) return;
    // A thread that has just found it unset holds the mutex until it waits.
    { detail::MutexLock lock{mutex_}; }
    condition_.notify_one();
  }

  /// Waits until notified, and consumes the notification.
  void wait() {
    detail::MutexLock lock{mutex_};
    while (!notified_.load(std::memory_order_acquire)) lock.wait(condition_);
    notified_.exchange(false, std::memory_order_acq_rel);
  }

  /// Waits until notified, or until the machine's steady clock reaches `deadline`.
  void wait_until(SteadyTime deadline) {
    detail::MutexLock lock{mutex_};
    while (!notified_.load(std::memory_order_acquire) &&
           std::chrono::steady_clock::now() < deadline) {
      lock.wait_until(condition_, deadline);
    }
    notified_.exchange(false, std::memory_order_acq_rel);
  }

 private:
  detail::Mutex mutex_;
  std::condition_variable condition_;
  std::atomic<bool> notified_{false};
};

/// The only source of time: the library reads the time and sleeps only through this interface.
/// Thread-safe.
class TASKMUX_API Clock {
 public:
  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;

  /// Returns the time of the wall clock.
  virtual Time now() const = 0;

  /// Returns the time of the clock for timeouts and leases.
  virtual SteadyTime steady_now() const = 0;

  /// Sleeps until `waker` is notified, or `steady_now()` is at or past `deadline` (unset: until a
  /// notification). May return early.
  virtual void wait(Waker& waker, std::optional<SteadyTime> deadline) = 0;

  /// For TestServer, whose handlers must not sleep. If this is a clock that a test controls,
  /// advances it by `step` and returns true; else returns false.
  virtual bool move_on(Duration step) {
    static_cast<void>(step);
    return false;
  }
};

/// The machine's clocks.
class TASKMUX_API SystemClock final : public Clock {
 public:
  Time now() const override {
    return std::chrono::time_point_cast<std::chrono::microseconds>(
        std::chrono::system_clock::now());
  }
  SteadyTime steady_now() const override { return std::chrono::steady_clock::now(); }
  void wait(Waker& waker, std::optional<SteadyTime> deadline) override {
    if (deadline) {
      waker.wait_until(*deadline);
    } else {
      waker.wait();
    }
  }
};

/// A clock that stands still until a test moves it: advance() moves both its times, step_wall()
/// only the wall clock. Wakes sleepers whose deadline is reached. Thread-safe.
class TASKMUX_API ManualClock final : public Clock {
 public:
  /// Starts at `start`; 2026-01-01 00:00 UTC by default.
  explicit ManualClock(Time start = Time{std::chrono::seconds{1767225600}}) : now_{start} {}

  Time now() const override {
    detail::MutexLock lock{mutex_};
    return now_;
  }

  SteadyTime steady_now() const override {
    detail::MutexLock lock{mutex_};
    return steady_now_;
  }

  void wait(Waker& waker, std::optional<SteadyTime> deadline) override {
    {
      detail::MutexLock lock{mutex_};
      if (deadline && *deadline <= steady_now_) return;
      sleepers_.push_back({&waker, deadline});
    }
    waker.wait();
    detail::MutexLock lock{mutex_};
    std::erase_if(sleepers_, [&waker](const Sleeper& sleeper) { return sleeper.waker == &waker; });
  }

  /// Advances both clocks by `step`, which must not be negative.
  void advance(Duration step) {
    detail::MutexLock lock{mutex_};
    now_ += step;
    steady_now_ += step;
    std::erase_if(sleepers_, [this](const Sleeper& sleeper) TASKMUX_REQUIRES(mutex_) {
      const bool due = sleeper.deadline && *sleeper.deadline <= steady_now_;
      if (due) sleeper.waker->notify();
      return due;
    });
  }

  bool move_on(Duration step) override {
    advance(step);
    return true;
  }

  /// Advances to `instant`; does nothing if it has passed.
  void advance_to(Time instant) {
    const Time at = now();
    if (instant > at) advance(instant - at);
  }

  /// Sets the wall clock forward by `step`, or back if `step` is negative, as an operator, a time
  /// server or a resumed machine does. The steady clock does not change, and no sleeper wakes.
  void step_wall(Duration step) {
    detail::MutexLock lock{mutex_};
    now_ += step;
  }

  /// Returns how many threads sleep on this clock and have not been woken by it. A test can wait
  /// for other threads to become idle before it advances the clock.
  std::size_t sleepers() const {
    detail::MutexLock lock{mutex_};
    return sleepers_.size();
  }

 private:
  struct Sleeper {
    Waker* waker;
    std::optional<SteadyTime> deadline;
  };

  mutable detail::Mutex mutex_;
  Time now_ TASKMUX_GUARDED_BY(mutex_);
  SteadyTime steady_now_ TASKMUX_GUARDED_BY(mutex_){std::chrono::hours{1}};
  std::vector<Sleeper> sleepers_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace v0
}  // namespace taskmux
