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

/// How the Redis server is found.
enum class RedisMode {
  standalone,   ///< One server, at `host` and `port`.
  unix_socket,  ///< One server, at `socket_path`.
  sentinel,     ///< The master that the Sentinels at `addresses` name; followed after a failover.
  cluster,      ///< A Redis Cluster, found through any of `addresses`; database 0 alone.
};

/// A host (name, IPv4, or IPv6 without brackets) and a port.
struct RedisAddress {
  std::string host{};
  std::uint16_t port = 6379;

  bool operator==(const RedisAddress&) const = default;
};

/// Where Redis is, and how to talk to it. Every field may be left out; made for designated
/// initialisers. Passwords are only ever sent to a server: no error and no log line holds one.
struct RedisOptions {
  RedisMode mode = RedisMode::standalone;
  std::string host = "127.0.0.1";         ///< Standalone.
  std::uint16_t port = 6379;              ///< Standalone.
  std::string socket_path{};              ///< Unix socket: an absolute path.
  std::vector<RedisAddress> addresses{};  ///< Sentinel: the Sentinels. Cluster: at least one node.
  std::string master_name = "mymaster";   ///< Sentinel.
  std::string sentinel_user{};            ///< Sentinel; empty: the default user.
  std::string sentinel_password{};        ///< Sentinel; empty: the Sentinels ask for none.

  std::string user{};      ///< Of an ACL; empty: the default user.
  std::string password{};  ///< Empty: the server asks for none.
  /// The number of the logical database (SELECT); 0 or more, and 0 alone in a cluster. One that the
  /// server does not have is reported by the first call (Errc::invalid_argument).
  int database = 0;

  /// What finding the host, connecting and logging in may take together.
  Duration connect_timeout = std::chrono::seconds{2};
  /// How long a call waits while no byte moves in either direction, redirections and repeats
  /// included. A call whose bytes move goes on, but never for longer than `connect_timeout` and
  /// four times this. What is sent and asked for at once adapts, so that a call takes about a
  /// quarter of this on a slow line; what is too large even by itself (a task's result) is refused,
  /// see RedisBroker. A server's lease must be at least three times as long (see
  /// ServerConfig::lease).
  Duration command_timeout = std::chrono::seconds{3};
  /// After a failed attempt to connect, calls fail at once until the next attempt is due: after
  /// `reconnect_min` at first, then twice as long each time up to `reconnect_max`, each with up to
  /// half of it taken off at random.
  Duration reconnect_min = std::chrono::milliseconds{50};
  Duration reconnect_max = std::chrono::milliseconds{500};
  /// Connections to one server that are kept for the next call; more are made when more threads
  /// call at once.
  std::size_t max_idle_connections = 8;

  std::string client_name = "taskmux";  ///< As CLIENT LIST shows it; printable, without spaces.
  std::string key_prefix = "asynq";     ///< What Go's asynq uses, and can't change.

  /// Number of replicas that must confirm an enqueued task (WAIT); 0 or more. An item that fewer
  /// have confirmed within `wait_timeout` is accepted all the same, and marked as not replicated.
  /// 0: an enqueue waits for no replica.
  int wait_replicas = 0;
  /// How long an enqueue waits for replicas at most: above 0, up to 1 h; rounded up to whole
  /// milliseconds. Not used if `wait_replicas` is 0.
  Duration wait_timeout = std::chrono::seconds{1};

  /// The wall clock of scripts. Null: the time of the Redis server, so that clocks which differ
  /// between machines do no harm. A test passes a ManualClock. Timeouts of the network go by the
  /// machine's steady clock in any case.
  std::shared_ptr<Clock> clock{};
  /// Logs lost and restored connections, and problems with a Redis server or with keys. The servers
  /// on this broker use it too, unless they have a logger of their own.
  Logger logger{};
};

/// Returns the options that a URL stands for; what it does not say keeps its default.
///
///     redis://[user:password@]host[:port][/database]
///     redis-socket://[user:password@]/path/to/socket[?db=database]
///     redis-sentinel://[user:password@]host[:port],host[:port]...[/database][?master=name]
///     redis-cluster://[user:password@]host[:port],host[:port]...
///
/// An IPv6 address stands in brackets. User, password, host, path and name may be percent-encoded.
/// The password of redis-sentinel:// is the Sentinels', as in asynq; the one of the servers behind
/// them is set in the options. Throws Error{unsupported} for rediss:// (TLS) and
/// std::invalid_argument for anything else that is not of these forms; its text names the part that
/// is wrong, and repeats nothing of the URL.
TASKMUX_API RedisOptions parse_redis_url(std::string_view url);

}  // namespace v0
}  // namespace taskmux
