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

/// Finds the pool of the server that serves a key. Thread-safe.
class Router {
 public:
  Router() = default;
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;
  virtual ~Router() = default;

  /// Returns the pool for `slot_key`; any pool that answers if that is empty. Null if no server
  /// serves it. May ask servers; throws Error if none answers.
  virtual std::shared_ptr<Pool> pool_for(std::string_view slot_key, SteadyTime deadline) = 0;

  /// Returns the pool for an address (`host:port`) that a redirection in a reply of `sender` named;
  /// null if this kind of deployment has no redirections.
  virtual std::shared_ptr<Pool> pool_at(std::string_view address, const Pool& sender) = 0;

  /// Returns the pool of that name; null if there is none any more.
  virtual std::shared_ptr<Pool> pool_named(std::string_view name) = 0;

  /// Returns the pool that made `connection`; null if it is no longer known.
  virtual std::shared_ptr<Pool> pool_of(const Connection& connection) = 0;

  /// Returns whether `connection` leads to a server that pool_for() returns, in unbroken contact
  /// since it was made. May ask Sentinels.
  virtual bool holds(const Connection& connection) {
    const auto pool = pool_of(connection);
    return pool && pool->holds(connection);
  }

  /// The knowledge of pool_for() may be out of date.
  virtual void doubt() noexcept {}
};

/// Returns the router for `options`. `options` and `epoch` must outlive it.
std::unique_ptr<Router> make_router(const RedisOptions& options, std::atomic<std::uint64_t>& epoch);

}  // namespace taskmux::redis
