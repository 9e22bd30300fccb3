#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/config.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// The kind of Redis deployment.
enum class RedisMode {
  standalone,   ///< One server, at `host` and `port`.
  unix_socket,  ///< One server, at `socket_path`.
  sentinel,     ///< The master that the Sentinels at `addresses` name, also after a failover.
  cluster,      ///< A Redis Cluster, found through any of `addresses`; only database 0.
};

/// A host (name, IPv4, or IPv6 without brackets) and a port.
struct RedisAddress {
  std::string host{};
  std::uint16_t port = 6379;

  bool operator==(const RedisAddress&) const = default;
};

/// The location of Redis, and the settings of connections to it. Every field may be left out;
/// intended for designated initialisers. Passwords are sent only to servers: they never appear in
/// errors or log lines.
struct RedisOptions {
  RedisMode mode = RedisMode::standalone;
  std::string host = "127.0.0.1";         ///< Standalone.
  std::uint16_t port = 6379;              ///< Standalone.
  std::string socket_path{};              ///< Unix socket: an absolute path.
  std::vector<RedisAddress> addresses{};  ///< Sentinel: the Sentinels. Cluster: at least one node.
  std::string master_name = "mymaster";   ///< Sentinel.
  std::string sentinel_user{};            ///< Sentinel; empty: the default user.
  std::string sentinel_password{};        ///< Sentinel; empty: the Sentinels need none.

  std::string user{};      ///< Of an ACL; empty: the default user.
  std::string password{};  ///< Empty: the server needs none.
  /// The number of the logical database (SELECT): 0 or more; must be 0 in a cluster. If the server
  /// does not have it, the first call throws Error{invalid_argument}.
  int database = 0;

  /// How long resolving the host, connecting and logging in may take together.
  Duration connect_timeout = std::chrono::seconds{2};
  /// How long a call waits while no byte is transferred in either direction, including redirections
  /// and repeats. A call that transfers bytes continues, but for at most `connect_timeout` plus
  /// four times this. The amount of data per call adapts to the connection, so that a call takes
  /// about a quarter of this on a slow connection. An item that is too large even by itself (a
  /// task's result) is refused; see RedisBroker. A server's lease must be at least three times as
  /// long (see ServerConfig::lease).
  Duration command_timeout = std::chrono::seconds{3};
  /// After a failed attempt to connect, calls fail at once until the next attempt is due. The delay
  /// is `reconnect_min` at first, and doubles with each failure up to `reconnect_max`; each delay
  /// is shortened by up to half at random.
  Duration reconnect_min = std::chrono::milliseconds{50};
  Duration reconnect_max = std::chrono::milliseconds{500};
  /// The number of idle connections to one server that are kept for later calls. More connections
  /// are made while more threads call at once.
  std::size_t max_idle_connections = 8;

  std::string client_name = "taskmux";  ///< Shown by CLIENT LIST; printable, without spaces.
  std::string key_prefix = "asynq";     ///< Go's asynq always uses the default.

  /// Number of replicas that must confirm an enqueued task (WAIT); 0 or more. If fewer replicas
  /// have confirmed an item within `wait_timeout`, it is accepted but marked as not replicated. 0:
  /// an enqueue does not wait for replicas.
  int wait_replicas = 0;
  /// The maximum time that an enqueue waits for replicas: above 0, up to 1 h; rounded up to whole
  /// milliseconds. Ignored if `wait_replicas` is 0.
  Duration wait_timeout = std::chrono::seconds{1};

  /// The wall clock of scripts. Null: the time of the Redis server, so that clock differences
  /// between machines do no harm. A test passes a ManualClock. Network timeouts always use the
  /// machine's steady clock.
  std::shared_ptr<Clock> clock{};
  /// Receives lost and restored connections, and problems with a Redis server or with keys. Servers
  /// that have no logger of their own use it, too.
  Logger logger{};
};

/// Returns the options that a URL describes; options that it does not mention have their defaults.
///
///     redis://[user:password@]host[:port][/database]
///     redis-socket://[user:password@]/path/to/socket[?db=database]
///     redis-sentinel://[user:password@]host[:port],host[:port]...[/database][?master=name]
///     redis-cluster://[user:password@]host[:port],host[:port]...
///
/// An IPv6 address must be in brackets. User, password, host, path and name may be percent-encoded.
/// The password of redis-sentinel:// is the password of the Sentinels, as in asynq; set the
/// password of the Redis servers in the options. Throws Error{unsupported} for rediss:// (TLS) and
/// std::invalid_argument for any other URL that does not have one of these forms; the text names
/// the invalid part, and does not contain the URL.
TASKMUX_API RedisOptions parse_redis_url(std::string_view url);

}  // namespace v0
}  // namespace taskmux
