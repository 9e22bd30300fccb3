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

/// What is tried on a queue, and may fail for as long as its keys are broken.
enum class QueueOperation { list, take, settle, count, extend, upkeep };

/// Queues whose keys are broken: left alone for a while, so that they cost the others nothing, and
/// logged once a minute. Thread-safe.
class QueueHealth {
 public:
  /// Without a clock: the machine's. `logger` must outlive this.
  QueueHealth(const Logger& logger, std::shared_ptr<Clock> clock);

  /// Records that `operation` failed for `queue` (empty: for several together). Logs it at most once a
  /// minute. A queue whose take failed rests for a second. Errc::unavailable is no fault of a queue:
  /// nothing is noted.
  void failed(QueueOperation operation, std::string_view queue, const Error& error);
  /// Has `queue` rest for a second without a word.
  void rest(std::string_view queue);
  /// Records that `operation` succeeded. Logs the recovery if its failure was logged.
  void worked(QueueOperation operation, std::string_view queue);

  /// Whether `queue` is not to be asked at present.
  bool rests(std::string_view queue) const;
  /// How long until the first of those `queues` that rest may be asked again; unset if none rests.
  std::optional<SteadyTime::duration> shortest_rest(std::span<const std::string> queues) const;

 private:
  struct Fault {
    bool lasts = false;
    bool told = false;  // of this fault, not only of an earlier one
    SteadyTime told_at{};
    SteadyTime asleep_until{};
  };
  using Key = std::pair<QueueOperation, std::string>;

  SteadyTime now() const;
  /// The entry of a fault that lasts at `at`, made or woken.
  Fault& lasting(QueueOperation operation, std::string_view queue, SteadyTime at) TASKMUX_REQUIRES(mutex_);
  std::optional<SteadyTime::duration> rest_of(std::string_view queue, SteadyTime now) const
      TASKMUX_REQUIRES(mutex_);

  const Logger& logger_;
  const std::shared_ptr<Clock> clock_;
  std::atomic<std::size_t> lasting_{0};  // as long as it is 0, nothing needs the mutex
  mutable detail::Mutex mutex_;
  std::map<Key, Fault> queue_health_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace taskmux::redis
