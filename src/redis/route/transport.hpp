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

/// The transport to a Redis server, to the master behind Sentinels, or to a Cluster. It uses pooled
/// connections, which are made on demand; each call has one to itself.
///
/// *What a failure means.* A request that was written and whose reply is lost is never repeated:
/// only the caller knows whether it may be. Requests that can't have been executed are repeated: a
/// whole request on a pooled connection that was closed while idle (detected before the write, or
/// by a write that transferred no byte), and a call answered with NOSCRIPT, MOVED or ASK. A
/// repeated call runs after the calls that follow it in the same run: order is preserved only among
/// calls that are not repeated.
///
/// *While the server is unavailable*, one caller at a time tries to connect, at growing intervals
/// with jitter (RedisOptions::reconnect_min); all others fail at once.
///
/// *How long a call takes.* It is abandoned if no byte was transferred in either direction for
/// command_timeout (plus the time of a WAIT), and in any case connect_timeout plus `longest_call`
/// times command_timeout (plus the time of a WAIT) after it began. Before a byte was transferred,
/// all its attempts together have connect_timeout plus command_timeout. line() tells how much a
/// call should carry to need only a fraction of that. Broker::limit_calls_of_this_thread() can end
/// it earlier.
///
/// Thread-safe. After fork(), calls in the child throw Error{forked}; destroying it there is
/// allowed.
class Transport {
 public:
  /// Does not connect yet. Throws std::invalid_argument for invalid options.
  explicit Transport(RedisOptions options);
  ~Transport();
  Transport(const Transport&) = delete;
  Transport& operator=(const Transport&) = delete;

  /// Runs `calls`: all in one pipeline on one connection, or, in a cluster, in one pipeline per
  /// node. Returns one reply per call, in order. Error replies are returned, too; see errc_of(). If
  /// some replies had arrived before the connection was lost, or other nodes answered, each call
  /// whose outcome is unknown gets an error reply with the code `lost_code` or `slow_code`. Throws
  /// Error (unavailable, unauthorized, protocol, unsupported) only if no reply arrived at all, and
  /// TimedOut if the reason was a timeout. No calls: no replies.
  std::vector<Reply> run(std::span<const Call> calls);

  /// As run(), then waits on the same connections until `replicas` replicas have acknowledged the
  /// writes of the calls, for at most `timeout`.
  WaitedReplies run_and_wait(std::span<const Call> calls, int replicas,
                             std::chrono::milliseconds timeout);

  /// Runs one call. Throws error_of(`operation`, reply) if the reply is an error.
  Reply run_one(std::string_view operation, const Call& call);

  /// Returns the name of the server that serves `slot_key`, as far as known; of any server if that
  /// is empty. Unless in a cluster, the name is the same for all keys. In a cluster it may request
  /// the slot map, and then throws as run() does; it also throws Error{unavailable} if no node
  /// serves the slot.
  std::string node_of(std::string_view slot_key);

  /// Makes a connection for the caller only, for subscriptions and tracking, to the server that
  /// node_of() named `node`: outside the pool, logged in, with the same backoff. Throws as run()
  /// does, and Error{unavailable} if the cluster has no such node any more. The caller has to
  /// notice a failure on it, and reports it by report_lost().
  std::unique_ptr<Connection> dedicate(std::string_view node);

  /// Returns whether a connection from dedicate() still leads to the server that calls go to. If
  /// not, contact was lost since it was made (even if the connection itself has not noticed), or
  /// the server is a different one now: its messages may be out of date.
  bool holds(const Connection& connection);

  /// Reports that a connection from dedicate() has failed, and why. This counts in epoch(), and
  /// makes the next call look for a new master, unless the connection was out of date; see holds().
  /// Throws only std::bad_alloc.
  void report_lost(const Connection& connection, std::string_view cause);

  /// Grows whenever contact with the server was interrupted (a connection failed, a call was not
  /// answered in time, or the server refused to work: LOADING, READONLY, CLUSTERDOWN, ...), and
  /// again when contact was restored; also when a server turns out to be a different one (restart,
  /// failover). An idle connection that the server closed and that could be replaced at once does
  /// not count. Equal values before and after a series of successful calls mean uninterrupted
  /// contact with the same master; see also server_of(). In a cluster, it covers all nodes.
  std::uint64_t epoch() const noexcept { return epoch_.load(std::memory_order_acquire); }

  const RedisOptions& options() const noexcept { return options_; }

  /// What calls have learnt about the speed of the connection.
  const LineRate& line() const noexcept { return line_; }

  /// Returns a deadline for one command from now, for use with dedicate().
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
