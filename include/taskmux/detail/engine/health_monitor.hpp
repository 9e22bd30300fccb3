#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Tracks whether the broker answers and whether handlers hang. Logs and reports only changes, so
/// that an outage causes two log lines, however long it lasts. Thread-safe.
class HealthMonitor {
 public:
  /// `changed` is called at each change under a lock: it must be quick and must not call this
  /// object.
  HealthMonitor(const Logger& logger, std::function<void(const Health&)> changed)
      : logger_{logger}, changed_{std::move(changed)} {}

  /// The callers of the broker. Each fails and recovers independently.
  enum class Role { exchange, extend, upkeep, heartbeat };

  void broker_answered(Role role) {
    if (!failing_[index(role)].load(std::memory_order_acquire)) return;  // Fast path.
    update([&]() TASKMUX_REQUIRES(mutex_) {
      errors_[index(role)].clear();
      failing_[index(role)].store(false, std::memory_order_release);
    });
  }

  void broker_failed(Role role, const std::string& error) {
    broker_errors_.fetch_add(1, std::memory_order_relaxed);
    if (failing_[index(role)].load(std::memory_order_acquire)) return;
    update([&]() TASKMUX_REQUIRES(mutex_) {
      errors_[index(role)] = error.empty() ? "unknown" : error;
      failing_[index(role)].store(true, std::memory_order_release);
    });
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
      health = current();
      if (health.healthy == before.healthy) return;
      if (changed_) changed_(health);  // Under the lock, so that changes are reported in order.
    }
    logger_(health.healthy ? LogLevel::info : LogLevel::error,
            health.healthy ? "the server is healthy again"
                           : "the server is unhealthy: " + health.reason);
  }

  static constexpr std::size_t index(Role role) noexcept { return static_cast<std::size_t>(role); }

  Health current() const TASKMUX_REQUIRES(mutex_) {
    for (const std::string& error : errors_) {
      if (!error.empty()) return {false, "broker: " + error};
    }
    if (hung_) return {false, "too many handlers are hung; not taking any more tasks"};
    return {};
  }

  const Logger& logger_;
  const std::function<void(const Health&)> changed_;
  std::array<std::atomic<bool>, 4> failing_{};  ///< By Role.
  std::atomic<bool> hung_now_{false};
  std::atomic<std::uint64_t> broker_errors_{0};
  mutable Mutex mutex_;
  std::array<std::string, 4> errors_ TASKMUX_GUARDED_BY(mutex_);
  bool hung_ TASKMUX_GUARDED_BY(mutex_) = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
