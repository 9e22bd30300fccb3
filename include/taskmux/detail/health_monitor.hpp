#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "taskmux/detail/mutex.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Whether the broker answers and the workers come back. Logs and reports changes only, so that an
/// outage is two lines in a log, however long it lasts. Thread-safe.
class HealthMonitor {
 public:
  /// `changed` is called after each change, and must not wait for anything.
  HealthMonitor(const Logger& logger, std::function<void(const Health&)> changed)
      : logger_{logger}, changed_{std::move(changed)} {}

  void broker_answered() {
    if (!broker_down_.load(std::memory_order_acquire))
      return;  // The way of every call in good times.
    update([this]() TASKMUX_REQUIRES(mutex_) { broker_error_.clear(); });
  }

  void broker_failed(const std::string& error) {
    broker_errors_.fetch_add(1, std::memory_order_relaxed);
    if (broker_down_.load(std::memory_order_acquire)) return;
    update([this, &error]()
               TASKMUX_REQUIRES(mutex_) { broker_error_ = error.empty() ? "unknown" : error; });
  }

  void too_many_hung(bool yes) {
    if (hung_now_.exchange(yes, std::memory_order_acq_rel) == yes) return;
    update([this, yes]() TASKMUX_REQUIRES(mutex_) { hung_ = yes; });
  }

  Health health() const {
    MutexLock lock{mutex_};
    return current();
  }

  std::uint64_t broker_errors() const noexcept {
    return broker_errors_.load(std::memory_order_relaxed);
  }

 private:
  template <typename Change>
  void update(Change change) TASKMUX_EXCLUDES(mutex_) {
    Health health;
    {
      MutexLock lock{mutex_};
      const Health before = current();
      change();
      broker_down_.store(!broker_error_.empty(), std::memory_order_release);
      health = current();
      if (health.healthy == before.healthy && health.reason == before.reason) return;
    }
    logger_(health.healthy ? LogLevel::info : LogLevel::error,
            health.healthy ? "the server is healthy again"
                           : "the server is unhealthy: " + health.reason);
    if (changed_) changed_(health);
  }

  Health current() const TASKMUX_REQUIRES(mutex_) {
    if (!broker_error_.empty()) return {false, "broker: " + broker_error_};
    if (hung_) return {false, "too many handlers hang; no more tasks are taken"};
    return {};
  }

  const Logger& logger_;
  const std::function<void(const Health&)> changed_;
  std::atomic<bool> broker_down_{false};
  std::atomic<bool> hung_now_{false};
  std::atomic<std::uint64_t> broker_errors_{0};
  mutable Mutex mutex_;
  std::string broker_error_ TASKMUX_GUARDED_BY(mutex_);
  bool hung_ TASKMUX_GUARDED_BY(mutex_) = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
