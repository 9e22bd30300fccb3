#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/scripts/script.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// Paces attempts to reach a server: one caller at a time tries; the others fail at once with the
/// error of the last attempt. Thread-safe.
class ReconnectBackoff {
 public:
  ReconnectBackoff(Duration shortest, Duration longest);

  /// Admits the caller, or throws the last failure. An admitted caller must then report success or
  /// failure.
  void enter();
  void succeeded();
  void failed(const Error& error);
  /// The admitted caller ran out of time before the attempt succeeded or failed.
  void given_up();

 private:
  struct Failure {
    Errc errc;
    std::string text;
  };

  SteadyTime::duration pause() TASKMUX_REQUIRES(mutex_);

  const Duration shortest_;
  const Duration longest_;
  detail::Mutex mutex_;
  std::uint64_t random_ TASKMUX_GUARDED_BY(mutex_);
  int failures_ TASKMUX_GUARDED_BY(mutex_) = 0;
  bool trying_ TASKMUX_GUARDED_BY(mutex_) = false;
  SteadyTime next_attempt_ TASKMUX_GUARDED_BY(mutex_){};
  std::optional<Failure> last_ TASKMUX_GUARDED_BY(mutex_);
};

/// A connection that is borrowed from a Pool.
struct PooledConnection {
  std::unique_ptr<Connection> connection{};
  Commands commands{};  ///< Kept so that its memory is reused.
  std::vector<const Script*> loaded{};

  bool has(const Script& script) const {
    return std::find(loaded.begin(), loaded.end(), &script) != loaded.end();
  }
};

/// The connections to one server, or to the present master. Thread-safe.
class Pool {
 public:
  /// Connects to the present address of the server. Throws Error.
  using Connector = std::function<std::unique_ptr<Connection>(SteadyTime deadline)>;

  /// `name` is used in log lines; `endpoint` is the server's address, if it is fixed. `epoch` and
  /// `options` must outlive the pool.
  Pool(std::string name, const RedisOptions& options, std::atomic<std::uint64_t>& epoch,
       Connector connector, Endpoint endpoint = {});

  /// Returns an idle connection that is healthy, else a new one.
  PooledConnection take(SteadyTime connect_deadline);
  /// Returns a new connection that is not returned to the pool.
  std::unique_ptr<Connection> connect(SteadyTime deadline);
  void give_back(PooledConnection connection);

  /// Contact was interrupted: idle and borrowed connections are not used again.
  void lost(std::string_view cause);
  /// The server answers, but refuses to work.
  void refused(std::string_view cause);
  /// The server executed a call.
  void answered();

  /// Returns whether contact by `connection`, which this pool made, is unbroken: it was not lost
  /// since, and the server is still the same.
  bool holds(const Connection& connection);

  /// Returns whether the latest operation succeeded.
  bool in_contact() const noexcept { return !interrupted_.load(std::memory_order_relaxed); }

  const std::string& name() const noexcept { return name_; }
  const Endpoint& endpoint() const noexcept { return endpoint_; }

 private:
  void interrupted(std::string_view cause);
  std::uint64_t contact();
  void note_server(Connection& connection, std::uint64_t contact);

  const std::string name_;
  const Endpoint endpoint_;
  const RedisOptions& options_;
  std::atomic<std::uint64_t>& epoch_;
  const Connector connector_;
  ReconnectBackoff backoff_;
  std::atomic<bool> interrupted_{false};
  detail::Mutex mutex_;
  std::uint64_t contact_ TASKMUX_GUARDED_BY(mutex_) = 0;  // how often contact was lost
  std::string run_id_ TASKMUX_GUARDED_BY(mutex_);
  std::vector<PooledConnection> idle_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace taskmux::redis
