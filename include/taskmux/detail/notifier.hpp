#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/detail/error_text.hpp"
#include "taskmux/detail/mutex.hpp"
#include "taskmux/logger.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// A bounded queue of calls to the host's hooks, made one after the other by one thread, so that
/// nothing else waits for a hook. Thread-safe.
class Notifier {
 public:
  static constexpr std::size_t capacity = 10'000;

  /// `called` runs after each call.
  explicit Notifier(const Logger& logger, std::function<void()> called = {})
      : logger_{logger}, called_{std::move(called)} {}

  /// Queues a call; drops it, and counts that, when the queue is full. True if it was the first of
  /// the queue: run_once() is due.
  bool post(std::function<void()> call) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (calls_.size() >= capacity) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    calls_.push_back(std::move(call));
    return calls_.size() == 1;
  }

  /// Makes all calls that are queued now or are queued meanwhile. What they throw is logged.
  std::optional<SteadyTime> run_once() TASKMUX_EXCLUDES(mutex_) {
    while (std::function<void()> call = next()) {
      try {
        call();
      } catch (const std::exception& e) {
        logger_(LogLevel::error, "a hook threw: " + text_of_exception(e));
      } catch (...) {
        logger_(LogLevel::error, "a hook threw " + text_of_exception());
      }
      finish_one();
    }
    return std::nullopt;
  }

  /// Calls that are queued or being made.
  std::size_t pending() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return calls_.size() + (calling_ ? 1 : 0);
  }

  /// Drops what is queued, and counts that.
  void drop_rest() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    dropped_.fetch_add(calls_.size(), std::memory_order_relaxed);
    calls_.clear();
  }

  std::uint64_t dropped() const noexcept { return dropped_.load(std::memory_order_relaxed); }

 private:
  std::function<void()> next() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (calls_.empty()) return {};
    std::function<void()> call = std::move(calls_.front());
    calls_.pop_front();
    calling_ = true;
    return call;
  }

  void finish_one() TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      calling_ = false;
    }
    if (called_) called_();
  }

  const Logger& logger_;
  const std::function<void()> called_;
  mutable Mutex mutex_;
  std::deque<std::function<void()>> calls_ TASKMUX_GUARDED_BY(mutex_);
  bool calling_ TASKMUX_GUARDED_BY(mutex_) = false;
  std::atomic<std::uint64_t> dropped_{0};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
