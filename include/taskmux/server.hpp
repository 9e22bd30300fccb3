#pragma once

#include <stop_token>
#include <string>

#include "taskmux/broker.hpp"
#include "taskmux/serve_mux.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {

namespace detail {
class ServerEngine;
}  // namespace detail

/// Runs the tasks of some queues with a pool of threads. The broker must outlive it. Thread-safe. A
/// server can be started only once. It belongs to the process that made it: after fork(), its calls
/// throw Error{forked} in the child, except stop(), which does nothing, and health(), which reports
/// it.
///
/// The threads that run handlers and hooks block the same signals as the caller of start(), and so
/// do the processes that they spawn. All other threads block every signal that can be blocked
/// safely.
class Server {
 public:
  /// Takes ownership of the mux and freezes it. Throws std::invalid_argument for: a concurrency of
  /// 0 or over 32,768; no queue, a blank queue name, or a priority below 1; a mux without handlers;
  /// `max_abandoned` of 0; `max_crashes` below 1; a `shutdown_timeout`, `abandon_after` or
  /// `archive.max_age` that is negative; a `heartbeat_interval` or `upkeep_interval` below 1 ms; a
  /// lease below Broker::shortest_lease(); any of these durations over Limits::longest.
  Server(Broker& broker, ServeMux mux, ServerConfig config = {});

  /// Calls shutdown() if the server was started and not yet shut down. In a child process, which
  /// has none of the server's threads, it does nothing. On a thread of this server (a handler calls
  /// std::exit() while the server has static storage duration), it waits for no handler and records
  /// nothing more, so that the process ends with its exit code.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Starts the threads. Throws Error: wrong_state if it was started, stopped or shut down before;
  /// the broker's error if the broker can't be reached or refuses access (unavailable,
  /// unauthorized, invalid_argument for a database that it does not have), after which start() may
  /// be called again; forked in a child process. Throws std::system_error if a thread can't be
  /// started.
  void start();

  /// Stops taking tasks. Tasks that are running or were already taken are still run. Does not wait.
  /// May be called from any thread, also from a handler, and more than once.
  void stop() noexcept;

  /// Calls stop(), then waits for up to `shutdown_timeout` until all handlers have returned. Then
  /// asks the remaining handlers to stop, waits for up to `abandon_after`, and returns the tasks
  /// that still run to their queues. Records all outcomes that the broker accepts within the lease,
  /// and ends all threads except those that hang. Waits for up to `abandon_after` for queued hooks;
  /// drops and counts the rest. So it takes at most
  ///
  ///     shutdown_timeout + abandon_after + lease + abandon_after
  ///
  /// (28 s with the defaults; about 8 s if the broker answers and handlers obey their stop tokens),
  /// whatever the broker does: a call in progress is abandoned at most 100 ms after its time has
  /// elapsed (see Broker::limit_calls_of_this_thread()). That also holds for calls that hooks make
  /// to any broker of this kind. Only a hook that never returns is waited for beyond this bound.
  /// May be called again, and from several threads: all calls return when the shutdown is complete.
  /// Throws Error{wrong_state} when called from a handler or hook of this server, and Error{forked}
  /// in a child process. Any other failure, such as a lack of memory, is logged, and the shutdown
  /// goes on.
  void shutdown();

  /// Calls start(), waits until `stop` is requested, then calls shutdown().
  void run(std::stop_token stop);

  /// Returns a snapshot of the statistics. Cheap enough to be called every second. May be called
  /// after shutdown().
  ServerStats stats() const;
  /// Returns whether the server takes tasks and can process them. Unhealthy before start() and
  /// after stop(). Cheap.
  Health health() const;

  /// Returns the id under which an Inspector lists the server: a UUID.
  const std::string& id() const noexcept;

 private:
  detail::ServerEngine* const engine_;  ///< Owned, except in a child process; see ~Server().
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/server.hpp"
#endif
