#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/net/line_rate.hpp"
#include "redis/net/reply.hpp"
#include "redis/route/batch.hpp"
#include "redis/route/call.hpp"
#include "taskmux/error.hpp"
#include "taskmux/redis/redis_options.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

class Router;

/// The way to a Redis server, to the master behind Sentinels, or to a Cluster: pooled connections,
/// one a call at a time, made when they are needed.
///
/// *What a failure means.* A request that was written and whose reply is lost is never repeated:
/// the caller alone knows whether it may be. What is repeated, as it cannot have been executed: a
/// whole request on a pooled connection that was closed while idle (seen before the write, or by a
/// write that passed on not a single byte); a call answered with NOSCRIPT, MOVED or ASK. A repeated
/// call runs after those that follow it in the same run: the order of calls in a run is kept only
/// among those that are not repeated.
///
/// *While the server is away* one caller at a time tries to connect, at growing intervals with
/// jitter (RedisOptions::reconnect_min); all others fail at once.
///
/// *How long a call takes.* It is given up when for command_timeout (+ the time of a WAIT) no byte has
/// moved in either direction, and in any case connect_timeout + `longest_call` times command_timeout
/// (+ the time of a WAIT) after it began. Before a byte has moved, all its attempts together have
/// connect_timeout + command_timeout. line() tells how much a call should carry to need a fraction of
/// that. It ends before where Broker::limit_calls_of_this_thread() says so.
///
/// Thread-safe. After fork(), calls in the child throw Error{forked}; destroying it there is
/// allowed.
class Transport {
 public:
  /// Connects to nothing yet. Throws std::invalid_argument for options that can't work.
  explicit Transport(RedisOptions options);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  /// Runs `calls`: all in one pipeline on one connection, or, in a cluster, in one pipeline a node.
  /// One reply for each, in their order. Error replies are replies, for errc_of() to judge; where
  /// some replies had come before the connection was lost, or other nodes answered, the calls whose
  /// fate is not known get an error reply of code `lost_code` or `slow_code`. Throws Error (unavailable,
  /// unauthorized, protocol, unsupported) only if no reply came at all; TimedOut if that was for the
  /// time that it took. No calls: no replies.
  std::vector<Reply> run(std::span<const Call> calls);

  /// As run(), then waits on the same connections until `replicas` replicas have acknowledged what
  /// the calls wrote, for `timeout` at most.
  WaitedReplies run_and_wait(std::span<const Call> calls, int replicas,
                             std::chrono::milliseconds timeout);

  /// One call; throws error_of(`operation`, reply) if its reply is an error.
  Reply run_one(std::string_view operation, const Call& call);

  /// Names the server that serves `slot_key`, as far as known; any if that is empty. The same name
  /// for all keys unless in a cluster. In a cluster it may ask for the slot map, and then throws as
  /// run() does; Error{unavailable} also where no node serves the slot.
  std::string node_of(std::string_view slot_key);

  /// A connection of the caller's own, for subscriptions and tracking, to the server that node_of()
  /// named `node`: outside the pool, logged in, with the same backoff. Throws as run() does, and
  /// Error{unavailable} if the cluster has no such node any more. A failure on it is the caller's to
  /// notice; report_lost() tells the transport.
  std::unique_ptr<Connection> dedicate(std::string_view node);

  /// Whether a connection from dedicate() is still to where calls go. If not, contact was lost since
  /// it was made (even if the connection itself has not noticed), or the server is another one now:
  /// what it tells may be out of date.
  bool holds(const Connection& connection);

  /// Tells that a connection from dedicate() has failed, and how: counts in epoch(), and lets the
  /// next call look for a new master; unless the connection was out of date, see holds(). Does not
  /// throw but for memory.
  void report_lost(const Connection& connection, std::string_view cause);

  /// Grows whenever contact with the server was interrupted: a connection failed, a call was not
  /// answered in time, the server refused work (LOADING, READONLY, CLUSTERDOWN, ...), and again
  /// when contact was made anew; also when a server turns out to be another one than before
  /// (restart, failover). An idle connection that the server closed and that could be replaced at
  /// once does not count. Equal values before and after a span of successful calls mean
  /// uninterrupted contact with the same master, see also server_of(). In a cluster: over all nodes.
  std::uint64_t epoch() const noexcept { return epoch_.load(std::memory_order_acquire); }

  const RedisOptions& options() const noexcept { return options_; }

  /// What calls learn about the line.
  const LineRate& line() const noexcept { return line_; }

  /// A deadline for one command from now: for use with dedicate().
  SteadyTime command_deadline() const;

 private:
  void require_same_process() const;
  void require_time() const;

  const RedisOptions options_;
  const int process_;
  std::atomic<std::uint64_t> epoch_{1};
  LineRate line_{options_.command_timeout};
  std::unique_ptr<Router> router_;
};

}  // namespace taskmux::redis
