#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/retry.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// A change of a task's state on this server, reported once the broker has recorded it.
struct TaskEvent {
  enum class Change {
    started,     ///< A worker has started it.
    succeeded,   ///< Deleted, or completed if it has a retention.
    revoked,     ///< Deleted because its handler or an operator asked for it.
    retried,     ///< Failed, and will be retried after `delay`.
    archived,    ///< Failed for good, and moved to the dead-letter queue.
    given_back,  ///< Returned unfinished to the front of its queue.
    snoozed,     ///< Scheduled again after `delay`.
  };
  Change change = Change::started;
  /// The task as it was when this attempt began; never null.
  std::shared_ptr<const TaskMessage> task{};
  /// The pattern in the server's mux that the type of the task matched, as a name of bounded
  /// variety for metrics; in nested muxes the innermost one. Empty if none matched.
  std::string pattern{};
  /// Counts from 1.
  int attempt = 1;
  /// How long this attempt waited to be started, counted from when the task was ready to run: when
  /// it was enqueued, became due (after a delay, retry or snooze), or was given back. 0 if not
  /// known.
  Duration waited{};
  /// How long the handler ran; 0 for `started` and for a task that was not run.
  Duration ran{};
  /// `retried` and `snoozed`: how long until the task is due again; 0 means at once. Else 0.
  Duration delay{};
  /// `retried` and `archived`: the error. Else empty.
  std::string error{};
  /// The payload was removed from `task`, because too many events wait for a slow hook (see Hooks).
  bool payload_dropped = false;
};

constexpr std::string_view to_string(TaskEvent::Change change) noexcept {
  using Change = TaskEvent::Change;
  switch (change) {
    case Change::started: return "started";
    case Change::succeeded: return "succeeded";
    case Change::revoked: return "revoked";
    case Change::retried: return "retried";
    case Change::archived: return "archived";
    case Change::given_back: return "given_back";
    case Change::snoozed: return "snoozed";
  }
  return "unknown";
}

/// Whether a server can process tasks.
struct Health {
  bool healthy = true;
  std::string reason{};  ///< Why it is unhealthy.
};

/// Callbacks into the application. They are called one at a time on a separate thread, from a queue
/// of up to 10,000 events. Further events are dropped and counted (ServerStats::hooks_dropped), so
/// a slow hook delays nothing else. Queued events keep the messages of their tasks in memory:
/// beyond 64 MiB, further events have no payload (TaskEvent::payload_dropped); beyond 128 MiB,
/// further events are dropped. Exceptions from hooks are logged.
struct Hooks {
  /// An attempt failed; the task was retried or archived.
  std::function<void(const TaskEvent&)> on_failure{};
  /// A task was archived by this server.
  std::function<void(const TaskEvent&)> on_dead_letter{};
  /// Called for every TaskEvent. Costs one event for each start and each end of a run.
  std::function<void(const TaskEvent&)> on_state_change{};
  /// The server became healthy or unhealthy.
  std::function<void(const Health&)> on_health_change{};
  /// Called before a task is deleted because of ArchiveLimits. If it throws, the task is kept until
  /// the next check, ten seconds later. Slows deletion down, since the tasks must be read.
  std::function<void(const TaskInfo&)> before_evict{};
};

/// Limits of the dead-letter queue of each queue. The servers of a queue check them every ten
/// seconds. They delete the oldest tasks beyond the limits, log a warning with their number (once a
/// minute per queue), and count them (ServerStats::evicted).
struct ArchiveLimits {
  /// How many archived tasks of one queue are kept; 0: none.
  std::size_t max_tasks = 10'000;
  /// How long a task is kept after it was archived: 0 to Limits::longest; 0: not at all.
  Duration max_age = std::chrono::hours{24 * 90};
};

/// Returns the number of hardware threads of the machine; 1 if that is not known.
inline std::size_t hardware_concurrency() noexcept {
  const unsigned threads = std::thread::hardware_concurrency();
  return threads > 0 ? threads : 1;
}

/// The options of a Server. Every field may be left out.
struct ServerConfig {
  /// How many handlers may run at once: 1 to 32,768. Each has its own thread.
  std::size_t concurrency = hardware_concurrency();
  /// The queues that the server serves, with their priorities (at least 1).
  std::map<std::string, int> queues{{"default", 1}};
  /// False: tasks are taken from the queues in proportion to their priorities, so every queue gets
  /// a share. True: a queue is served only while all queues with a higher priority are empty.
  bool strict_priority = false;

  /// How long a failed task waits for its next attempt, unless its route or its handler decides.
  /// The returned delay is clamped to 0 to Limits::longest; 0 means at once. Empty:
  /// AsynqRetryDelay.
  RetryPolicy retry_policy{AsynqRetryDelay{}};
  /// Returns whether a failed attempt counts; if not, the task is retried without using up a retry.
  /// Empty: every failure counts.
  std::function<bool(const FailedAttempt&)> is_failure{};

  /// The largest result that Context::set_result() accepts. A result is sent together with the
  /// outcomes of other tasks, so keep this well below the limit of the broker (Redis: 512 MiB).
  std::size_t max_result_bytes = Limits::result_bytes;

  /// How long shutdown() waits for running handlers before it asks them to stop. Server::shutdown()
  /// documents how long it takes in total; a service manager should wait longer before it kills the
  /// process.
  Duration shutdown_timeout = std::chrono::seconds{8};
  /// How long a handler may continue after it was asked to stop. Then its thread is abandoned: the
  /// run is settled without it, a new thread takes its place, and its later outcome is discarded.
  Duration abandon_after = std::chrono::seconds{5};
  /// While this many abandoned threads hang, the server takes no more tasks and is unhealthy. At
  /// least 1; `concurrency` when unset.
  std::optional<std::size_t> max_abandoned{};

  /// How long this server owns a run unless the lease is extended; the server extends it every
  /// quarter of this time. At least Broker::shortest_lease(). A run of another server counts as
  /// lost only after this server and the broker have worked for a whole lease without a gap. A gap
  /// is a period of more than half a lease without a successful call, or an interruption of the
  /// connections to the broker for more than a third of a lease (on a Redis Cluster: any
  /// interruption).
  Duration lease = std::chrono::seconds{10};
  /// A task is archived once this many workers in a row were lost after they had begun it; at least
  /// 1. Its last attempt runs alone in the process, so that no other task's crash counts against
  /// it: the server takes nothing else until its other handlers have ended. This wait ends after
  /// one lease. If other handlers still run then (or abandoned ones still hang), the server resumes
  /// normal work and postpones the task for about as long as it waited; each further try waits
  /// twice as long. So a server is idle for at most about half of the time. Each wait is logged as
  /// a warning. With 1, any crash archives every task that had begun. Use more than 3 for a service
  /// whose long tasks are often killed, by deployments that do not wait for shutdown() or by a lack
  /// of memory.
  int max_crashes = 3;
  /// How often the server reports what it is running, for display by Inspectors; 1 ms to
  /// Limits::longest. An Inspector lists a dead server for up to twice this time. Leases do not
  /// depend on it.
  Duration heartbeat_interval = std::chrono::seconds{5};
  /// How often the server looks for due tasks that nobody has forwarded, lost runs, and completed
  /// tasks whose retention has ended; 1 ms to Limits::longest. Delays the detection of a lost run
  /// by up to this time.
  Duration upkeep_interval = std::chrono::seconds{2};
  /// Limits of the dead-letter queues of this server's queues.
  ArchiveLimits archive{};

  Hooks hooks{};
  /// Receives failed attempts (warning; info if `is_failure` says that the failure does not count),
  /// queues that hold tasks and that no server serves (warning), problems with the broker (error),
  /// the start and end of the server (info), and the start and end of each run (debug). Called on
  /// the server's own threads, which wait for it, so it must be quick. When left out, the broker's
  /// logger is used; if that was left out too, warnings and errors go to standard error (see
  /// Logger).
  Logger logger{};
  /// Called first on every thread that the server starts. Exceptions from it are ignored.
  std::function<void()> on_thread_start{};
  /// The source of time; the machine's clock when null. If the broker is given a clock (a
  /// ManualClock in tests), pass the same one here.
  std::shared_ptr<Clock> clock{};
};

/// The statistics of a server. The first group is the present state; all others are counts since
/// the server was made. The numbers are read one by one, not at one instant. An outcome is counted
/// once the broker has recorded it.
struct ServerStats {
  std::size_t running = 0;    ///< Handlers that are running.
  std::size_t ready = 0;      ///< Runs taken, and waiting for a worker.
  std::size_t unsettled = 0;  ///< Runs ended, but not yet recorded by the broker.
  std::size_t abandoned = 0;  ///< Abandoned threads that still hang.
  /// A task on its last attempt waits to run alone, or is running alone (see
  /// ServerConfig::max_crashes). Until it ends, the server takes no other task.
  bool alone = false;

  /// Runs that this server took from its queues; a task counts once for each attempt.
  std::uint64_t taken = 0;
  /// Runs whose handler succeeded.
  std::uint64_t succeeded = 0;
  /// Tasks deleted because a handler or an operator revoked them.
  std::uint64_t revoked = 0;
  /// Runs that failed and whose task will be retried.
  std::uint64_t retried = 0;
  /// Tasks that failed for good and were moved to the dead-letter queue.
  std::uint64_t archived = 0;
  /// Runs that were returned unfinished to their queue, for example at a shutdown.
  std::uint64_t given_back = 0;
  /// Runs whose handler snoozed the task.
  std::uint64_t snoozed = 0;
  /// Outcomes that were not recorded because this server no longer owned the run.
  std::uint64_t stale = 0;
  /// Outcomes that the broker rejected for good; each is logged, and its task is archived with the
  /// reason.
  std::uint64_t rejected = 0;
  /// Lost runs, of any server, that this server took over and settled.
  std::uint64_t recovered = 0;
  /// Successful calls of Broker::exchange(); each settles and takes a batch.
  std::uint64_t exchanges = 0;
  /// Attempts at tasks whose type has no handler.
  std::uint64_t unknown_types = 0;
  /// Failed calls to the broker, including repeated calls.
  std::uint64_t broker_errors = 0;
  /// Events that were dropped because hooks are too slow; see Hooks.
  std::uint64_t hooks_dropped = 0;
  /// Archived tasks that this server deleted; see ArchiveLimits.
  std::uint64_t evicted = 0;
};

}  // namespace v0
}  // namespace taskmux
