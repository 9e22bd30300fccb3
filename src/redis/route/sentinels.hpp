#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/net/resolver.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// Asks Sentinels for the master, the Sentinel that answered last first. Thread-safe.
class Sentinels {
 public:
  /// `options` must outlive it.
  explicit Sentinels(const RedisOptions& options)
      : options_{options}, addresses_{options.addresses} {}

  /// Returns whether the Sentinels name another master than the one connected to last: an old
  /// master that still runs accepts writes for seconds, and they will be lost. Asks at most once a
  /// second, on one caller's time; if a Sentinel does not answer, asks the next one, and asks less
  /// often while none answers.
  bool name_another_master();

  /// Returns a connection to the master, which has itself confirmed its role. Throws Error.
  std::unique_ptr<Connection> connect(SteadyTime deadline);

 private:
  Endpoint find(SteadyTime deadline);
  std::unique_ptr<Connection> open(const RedisAddress& address, SteadyTime deadline) const;
  std::optional<Endpoint> ask(Connection& sentinel, SteadyTime deadline) const;
  std::optional<Endpoint> known_master();
  std::vector<RedisAddress> candidates();
  void move_to_the_end(const RedisAddress& address);
  void prefer(const RedisAddress& address);

  static constexpr auto look_interval = std::chrono::seconds{1};
  static constexpr auto look_timeout = std::chrono::milliseconds{200};

  const RedisOptions& options_;
  mutable Resolver resolver_;
  std::atomic<SteadyTime> next_look_{SteadyTime{}};
  std::atomic<bool> looking_{false};
  std::unique_ptr<Connection> observer_;  ///< Of the thread that set `looking_`, as the next.
  std::size_t silent_ = 0;                ///< Sentinels that did not answer, in a row.
  detail::Mutex mutex_;
  std::vector<RedisAddress> addresses_ TASKMUX_GUARDED_BY(mutex_);
  std::optional<Endpoint> last_master_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace taskmux::redis
