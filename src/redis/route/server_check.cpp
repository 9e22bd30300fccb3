#include "redis/route/server_check.hpp"

#include <optional>
#include <string_view>

#include "redis/net/reply.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {
namespace {

/// Returns nullopt if an ACL or a hosting service refuses CONFIG.
std::optional<std::string_view> value_of(const Reply& reply) {
  if (!reply.is_array() || reply.size() < 2 || !reply[1].is_string()) return std::nullopt;
  return reply[1].as_string();
}

}  // namespace

Login login_of(const RedisOptions& options) {
  return {.user = options.user,
          .password = options.password,
          .database = options.database,
          .client_name = options.client_name};
}

void refuse(Errc errc, const Endpoint& endpoint, const std::string& cause) {
  throw Error{errc, "connect to Redis at " + endpoint.to_string() + ": " + cause};
}

void check_mode(const Connection& connection, RedisMode expected) {
  const auto& mode = connection.server().mode;
  if (mode == "sentinel")
    refuse(Errc::invalid_argument, connection.endpoint(),
           "this is a Sentinel, not the server it guards (use redis-sentinel://)");
  if (mode == "cluster" && expected != RedisMode::cluster)
    refuse(Errc::invalid_argument, connection.endpoint(),
           "this is a node of a Redis Cluster (use redis-cluster://)");
  if (mode == "standalone" && expected == RedisMode::cluster)
    refuse(Errc::invalid_argument, connection.endpoint(), "this is not a node of a Redis Cluster");
}

void SettingsCheck::run_once(Connection& connection, SteadyTime deadline) {
  if (done_.exchange(true)) return;
  try {
    run(connection, deadline);
  } catch (...) {
    done_ = false;
    throw;
  }
}

void SettingsCheck::run(Connection& connection, SteadyTime deadline) {
  Commands commands;
  commands.add({"CONFIG", "GET", "maxmemory-policy"});
  commands.add({"CONFIG", "GET", "save"});
  commands.add({"CONFIG", "GET", "appendonly"});
  const auto replies = connection.pipeline(commands, deadline);
  const auto policy = value_of(replies[0]);
  const auto save = value_of(replies[1]);
  const auto append_only = value_of(replies[2]);
  const auto where = "Redis at " + connection.endpoint().to_string();
  if (policy && *policy != "noeviction")
    logger_(LogLevel::warning, where +
                                   " may evict tasks when its memory is full: its "
                                   "maxmemory-policy is " +
                                   printable(*policy) + ", and should be noeviction");
  if (save && save->empty() && append_only && *append_only == "no")
    logger_(LogLevel::warning,
            where +
                " loses all tasks when it stops: neither snapshots (save) nor appendonly "
                "are on");
}

}  // namespace taskmux::redis
