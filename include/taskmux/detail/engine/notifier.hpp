#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/logger.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// A queue of calls to the application's hooks, bounded in their number and in the memory that they
/// keep alive. One thread makes the calls one after the other, so that nothing else waits for a
/// hook. Thread-safe.
class Notifier {
 public:
  static constexpr std::size_t capacity = 10'000;
  /// The limit for payloads that queued events keep alive, in bytes.
  static constexpr std::size_t payload_capacity = 64u << 20;
  /// The limit for all memory that queued events keep alive, in bytes.
  static constexpr std::size_t byte_capacity = 2 * payload_capacity;

  /// `called` runs after each call.
  explicit Notifier(const Logger& logger, std::function<void()> called = {})
      : logger_{logger}, called_{std::move(called)} {}

  /// Queues a call that keeps `bytes` alive; drops and counts it if the queue is full. Returns true
  /// if it is the first call in the queue: then run_once() is due.
  bool post(std::function<void()> call, std::size_t bytes = 0) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (calls_.size() >= capacity || bytes > byte_capacity - bytes_) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    calls_.push_back({std::move(call), bytes});
    bytes_ += bytes;
    return calls_.size() == 1;
  }

  /// Returns whether `bytes` more bytes of payloads may be kept alive.
  bool has_room_for(std::size_t bytes) const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return bytes_ <= payload_capacity && bytes <= payload_capacity - bytes_;
  }

  /// Makes the calls that are queued now. Exceptions are logged. Returns an instant in the past if
  /// more calls were queued in the meantime.
  std::optional<SteadyTime> run_once() TASKMUX_EXCLUDES(mutex_) {
    for (std::size_t left = queued(); left > 0; --left) {
      const Call call = next();
      if (!call.function) break;
      try {
        call.function();
      } catch (...) {
        log_exception(logger_, "a hook threw");
      }
      finish_one(call.bytes);
    }
    return queued() > 0 ? std::optional{SteadyTime::min()} : std::nullopt;
  }

  /// Returns the number of calls that are queued or being made.
  std::size_t pending() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return calls_.size() + (calling_ ? 1 : 0);
  }

  /// Drops and counts the queued calls.
  void drop_rest() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    dropped_.fetch_add(calls_.size(), std::memory_order_relaxed);
    for (const Call& call : calls_) bytes_ -= call.bytes;
    calls_.clear();
  }

  std::uint64_t dropped() const noexcept { return dropped_.load(std::memory_order_relaxed); }

 private:
  struct Call {
    std::function<void()> function{};
    std::size_t bytes = 0;
  };

  std::size_t queued() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return calls_.size();
  }

  Call next() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (calls_.empty()) return {};
    Call call = std::move(calls_.front());
    calls_.pop_front();
    calling_ = true;
    return call;
  }

  void finish_one(std::size_t bytes) TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      calling_ = false;
      bytes_ -= bytes;
    }
    if (called_) called_();
  }

  const Logger& logger_;
  const std::function<void()> called_;
  mutable Mutex mutex_;
  std::deque<Call> calls_ TASKMUX_GUARDED_BY(mutex_);
  std::size_t bytes_ TASKMUX_GUARDED_BY(mutex_) = 0;  // Of these, and of the call being made.
  bool calling_ TASKMUX_GUARDED_BY(mutex_) = false;
  std::atomic<std::uint64_t> dropped_{0};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
