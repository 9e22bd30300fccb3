#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/net/pool.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// The way from a key to the pool of the server that serves it. Thread-safe.
class Router {
 public:
  Router() = default;
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;
  virtual ~Router() = default;

  /// The pool for `slot_key`; any that answers if that is empty. Null if no server serves it. May
  /// ask servers; throws Error if none tells.
  virtual std::shared_ptr<Pool> pool_for(std::string_view slot_key, SteadyTime deadline) = 0;

  /// The pool for an address that a redirection named (`host:port`) in a reply of `sender`; null if
  /// there are no redirections here.
  virtual std::shared_ptr<Pool> pool_at(std::string_view address, const Pool& sender) = 0;

  /// The pool of that name; null if there is none any more.
  virtual std::shared_ptr<Pool> pool_named(std::string_view name) = 0;

  /// The pool that `connection` was made by; null if it is no longer known.
  virtual std::shared_ptr<Pool> pool_of(const Connection& connection) = 0;

  /// Whether `connection` is to a server that pool_for() leads to, in unbroken contact since it was
  /// made. May ask Sentinels.
  virtual bool holds(const Connection& connection) {
    const auto pool = pool_of(connection);
    return pool && pool->holds(connection);
  }

  /// What pool_for() knows may be out of date.
  virtual void doubt() noexcept {}
};

/// The router that `options` ask for. `options` and `epoch` must outlive it.
std::unique_ptr<Router> make_router(const RedisOptions& options, std::atomic<std::uint64_t>& epoch);

}  // namespace taskmux::redis
