#pragma once

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/error.hpp"
#include "taskmux/logger.hpp"

namespace taskmux::redis {

/// The operations on a queue, each of which may fail for as long as the queue's keys are broken.
enum class QueueOperation { list, take, settle, count, extend, upkeep };

/// Keeps track of queues whose keys are broken. They are suspended for a while, so that they do not
/// slow down other queues, and logged once a minute. Thread-safe.
class QueueHealth {
 public:
  /// Uses the machine's clock if `clock` is null. `logger` must outlive this.
  QueueHealth(const Logger& logger, std::shared_ptr<Clock> clock);

  /// Records that `operation` failed for `queue` (empty: for several queues together). Logs it at
  /// most once a minute. A queue whose take failed is suspended for a second. Errc::unavailable is
  /// not the fault of a queue, and is ignored.
  void failed(QueueOperation operation, std::string_view queue, const Error& error);
  /// Suspends `queue` for a second without logging it.
  void rest(std::string_view queue);
  /// Records that `operation` succeeded. Logs the recovery if its failure was logged.
  void worked(QueueOperation operation, std::string_view queue);

  /// Returns whether `queue` is suspended at present.
  bool rests(std::string_view queue) const;
  /// Returns how long until the first of those `queues` that are suspended may be tried again;
  /// unset if none is suspended.
  std::optional<SteadyTime::duration> shortest_rest(std::span<const std::string> queues) const;

 private:
  struct Fault {
    bool lasts = false;
    bool told = false;  // this fault was logged, not only an earlier one
    SteadyTime told_at{};
    SteadyTime asleep_until{};
  };
  using Key = std::pair<QueueOperation, std::string>;

  SteadyTime now() const;
  /// Returns the entry of a fault that persists at `at`; adds or renews it.
  Fault& lasting(QueueOperation operation, std::string_view queue, SteadyTime at) TASKMUX_REQUIRES(mutex_);
  std::optional<SteadyTime::duration> rest_of(std::string_view queue, SteadyTime now) const
      TASKMUX_REQUIRES(mutex_);

  const Logger& logger_;
  const std::shared_ptr<Clock> clock_;
  std::atomic<std::size_t> lasting_{0};  // while it is 0, nothing needs the mutex
  mutable detail::Mutex mutex_;
  std::map<Key, Fault> queue_health_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace taskmux::redis
