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
/// server starts once; it belongs to the process that made it: after fork() its calls throw
/// Error{forked}, but for stop(), which does nothing, and health(), which says so.
///
/// The threads that run handlers and hooks block the signals that the caller of start() blocks, as
/// do the processes that are spawned there; all others block every signal that can be blocked
/// safely.
class Server {
 public:
  /// Takes the mux in and freezes it. Throws std::invalid_argument for: a concurrency of 0 or over
  /// 32,768; no queue, a blank queue name, or a priority below 1; a mux without handlers;
  /// `max_abandoned` of 0; `max_crashes` below 1; a `shutdown_timeout`, `abandon_after` or
  /// `archive.max_age` that is negative; a `heartbeat_interval` or `upkeep_interval` below 1 ms; a
  /// lease below Broker::shortest_lease(); any of these durations over Limits::longest.
  Server(Broker& broker, ServeMux mux, ServerConfig config = {});

  /// shutdown(), if it was started and not yet shut down. In a child process, which has none of its
  /// threads, it does nothing. On a thread of this server, as where a handler calls std::exit() and
  /// the server has static storage, it waits for no handler and records nothing more: the process
  /// ends with the code that it was given.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Begins to work. Throws Error: wrong_state if it was started, stopped or shut down before; what
  /// the broker said if that can't be reached or refuses to be used (unavailable, unauthorized,
  /// invalid_argument for a database that it does not have), after which it may be called again;
  /// forked. Throws std::system_error if the machine has not that many threads.
  void start();

  /// Takes no more tasks; those that run go on, and those already taken are run. May be called from
  /// anywhere, also from a handler, and again. Does not wait.
  void stop() noexcept;

  /// stop(), then waits until all handlers are done: up to `shutdown_timeout`; then asks them to
  /// stop and waits for up to `abandon_after`; then puts what still runs back into its queue.
  /// Records all outcomes that the broker accepts within the lease, and ends all threads but those
  /// that hang. Waits up to `abandon_after` for queued hooks; drops and counts those that are left.
  /// So it takes at most
  ///
  ///     shutdown_timeout + abandon_after + lease + abandon_after
  ///
  /// (28 s with the defaults; 8 s if the broker answers and handlers heed their stop tokens),
  /// whatever the broker does: a call under way is given up at most 100 ms after its time is over
  /// (see Broker::limit_calls_of_this_thread()). A hook may call a broker until that time; then its
  /// calls to any broker of this kind are given up too. A hook that does not return is waited for
  /// beyond that. May be called again, and from several threads: all return when it is done. Throws
  /// Error{wrong_state} when called from a handler or hook of this server, and Error{forked}. Any
  /// other failure, such as a lack of memory, is logged, and the shutdown goes on.
  void shutdown();

  /// start(), then waits until `stop` is requested, then shutdown().
  void run(std::stop_token stop);

  /// Cheap enough to be called every second; also after shutdown().
  ServerStats stats() const;
  /// Whether it takes tasks and can do its work: not before start(), nor after stop(). Cheap.
  Health health() const;

  /// The id under which an Inspector lists it: a UUID.
  const std::string& id() const noexcept;

 private:
  detail::ServerEngine* const engine_;  ///< Owned, but in a child process; see ~Server().
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/server.hpp"
#endif
