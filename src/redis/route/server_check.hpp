#pragma once

#include <atomic>
#include <string>

#include "redis/net/connection.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// Returns the login settings of `options`.
Login login_of(const RedisOptions& options);

/// Throws Error{errc}, whose text says that the server at `endpoint` can't be used, and why.
[[noreturn]] void refuse(Errc errc, const Endpoint& endpoint, const std::string& cause);

/// Throws Error{invalid_argument} if the server is of another kind than `expected`: otherwise it
/// would fail later, with a less clear error.
void check_mode(const Connection& connection, RedisMode expected);

/// Warns, once, about a server whose settings may lose tasks. Thread-safe.
class SettingsCheck {
 public:
  /// `logger` must outlive it.
  explicit SettingsCheck(const Logger& logger) : logger_{logger} {}

  void run_once(Connection& connection, SteadyTime deadline);

 private:
  void run(Connection& connection, SteadyTime deadline);

  const Logger& logger_;
  std::atomic<bool> done_{false};
};

}  // namespace taskmux::redis
