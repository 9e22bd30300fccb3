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

/// Something that happened to a task on this server, once the broker has recorded it.
struct TaskEvent {
  enum class Change {
    started,     ///< A worker has it now.
    succeeded,   ///< Deleted, or completed if it has a retention.
    revoked,     ///< Deleted because its handler or an operator asked for it.
    retried,     ///< Failed, and will be tried again after `delay`.
    archived,    ///< Failed for good: in the dead-letter queue.
    given_back,  ///< Unfinished: first in line in its queue again.
    snoozed,     ///< Scheduled again after `delay`.
  };
  Change change = Change::started;
  /// As it was when this attempt began; never null.
  std::shared_ptr<const TaskMessage> task{};
  /// The pattern in the server's mux that the type of the task matched, as a name of bounded variety
  /// for metrics; in nested muxes the innermost one. Empty if none matched.
  std::string pattern{};
  /// Counts from 1.
  int attempt = 1;
  /// How long this attempt waited to be started, from when the task was ready to run: enqueued, due
  /// (with a delay, and at each retry and snooze), or given back. 0 if not known.
  Duration waited{};
  /// How long the handler ran; 0 for `started` and for a task that was not run.
  Duration ran{};
  /// `retried` and `snoozed`: how long until the task is due again; 0 means at once. 0 for all
  /// others.
  Duration delay{};
  /// `retried` and `archived`: why. Empty for all others.
  std::string error{};
  /// `task` lacks its payload, because too many events wait for a slow hook (see Hooks).
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

/// Whether a server can do its work.
struct Health {
  bool healthy = true;
  std::string reason{};  ///< Why not.
};

/// Callbacks into the application. Called one at a time on a thread of their own, from a queue of
/// 10,000 events. Events beyond that are dropped and counted (ServerStats::hooks_dropped), so a
/// slow hook stops nothing. Queued events keep the messages of their tasks alive: once they keep 64
/// MiB, further events come without the payload (TaskEvent::payload_dropped); once they keep 128
/// MiB, further events are dropped. Exceptions from hooks are logged.
struct Hooks {
  /// An attempt failed: retried or archived.
  std::function<void(const TaskEvent&)> on_failure{};
  /// A task was archived by this server.
  std::function<void(const TaskEvent&)> on_dead_letter{};
  /// Every TaskEvent. Costs an event for each start and end.
  std::function<void(const TaskEvent&)> on_state_change{};
  /// The server became healthy or unhealthy.
  std::function<void(const Health&)> on_health_change{};
  /// Called before a task is deleted because of ArchiveLimits. If it throws, the task is kept until
  /// the next check, ten seconds later. Makes deletion slower, since the tasks must be read.
  std::function<void(const TaskInfo&)> before_evict{};
};

/// How much the dead-letter queue of a queue may hold. The oldest tasks beyond it are deleted by
/// the servers of the queue, which look every ten seconds, log a warning (once a minute a queue,
/// with the number) and count them (ServerStats::evicted).
struct ArchiveLimits {
  /// Number of archived tasks of one queue that stay; 0: none stays.
  std::size_t max_tasks = 10'000;
  /// How long an archived task stays, from when it was archived: 0 to Limits::longest; 0: none
  /// stays.
  Duration max_age = std::chrono::hours{24 * 90};
};

/// As many as the machine runs threads at once; 1 if that is not known.
inline std::size_t hardware_concurrency() noexcept {
  const unsigned threads = std::thread::hardware_concurrency();
  return threads > 0 ? threads : 1;
}

/// What a Server works on, and how. Each field has a default that suits a service.
struct ServerConfig {
  /// How many handlers may run at once; from 1 to 32,768. Each has a thread.
  std::size_t concurrency = hardware_concurrency();
  /// The queues to work on, and no others, with their priorities (at least 1).
  std::map<std::string, int> queues{{"default", 1}};
  /// False: each queue is asked first in proportion to its priority, so every queue gets its share.
  /// True: a queue is served only while all queues with a higher priority are empty.
  bool strict_priority = false;

  /// How long a failed task waits for its next attempt, unless its route or its handler says so.
  /// What it returns is brought into 0 to Limits::longest; 0: retried at once. Empty: as
  /// AsynqRetryDelay.
  RetryPolicy retry_policy{AsynqRetryDelay{}};
  /// Whether a failed attempt counts: if not, it is tried again without using a retry. Everything
  /// counts when empty.
  std::function<bool(const FailedAttempt&)> is_failure{};

  /// Context::set_result() refuses more. A result travels with other tasks' ends, so keep it well
  /// below what the broker takes at all (Redis: 512 MiB a string).
  std::size_t max_result_bytes = Limits::result_bytes;

  /// How long shutdown() lets running handlers go on before it asks them to stop. See there for how
  /// long the whole takes; a service manager should wait longer before it kills.
  Duration shutdown_timeout = std::chrono::seconds{8};
  /// How long a handler may go on after it was asked to stop. Then its thread is given up: the run
  /// is settled without it, a new thread takes its place, and what it does later is discarded.
  Duration abandon_after = std::chrono::seconds{5};
  /// While this many given-up threads hang, the server takes no more tasks and is unhealthy. At
  /// least 1; `concurrency` when not given.
  std::optional<std::size_t> max_abandoned{};

  /// How long a run stays this server's unless it is extended; the server extends it every quarter
  /// of this time. At least Broker::shortest_lease(). A run of another server counts as lost only
  /// after this server and the broker have been at work for a whole lease without a gap. A gap is
  /// more than half a lease without an answered call, or an interruption of the connections to the
  /// broker for more than a third of a lease (on a Redis Cluster: any interruption).
  Duration lease = std::chrono::seconds{10};
  /// A task is archived once this many workers in a row were lost after they had begun it; at least
  /// 1. For its last attempt it waits until no other task runs in the process, and runs alone, so
  /// that no other task's crash counts against it; meanwhile this server takes nothing. This wait
  /// ends after one lease. If other handlers still run then, among them given-up ones that hang,
  /// the server goes on, and the task is put off for about as long as it waited; each further try
  /// waits twice as long. So a server stands still for about half of the time at most. Each wait is
  /// logged as a warning. With 1, any crash archives every task that had begun. Use more than 3 for
  /// a service whose long tasks are often killed, by deployments that do not wait for shutdown() or
  /// for lack of memory.
  int max_crashes = 3;
  /// How often the server tells the broker what it is running, for Inspectors to show; 1 ms to
  /// Limits::longest. An Inspector lists a dead server for up to twice as long. Leases do not
  /// depend on it.
  Duration heartbeat_interval = std::chrono::seconds{5};
  /// How often the server looks for due tasks that nobody has forwarded, lost runs, and completed
  /// tasks whose retention is over; 1 ms to Limits::longest. A lost run is found up to this much
  /// later.
  Duration upkeep_interval = std::chrono::seconds{2};
  /// What the dead-letter queues of this server's queues may hold.
  ArchiveLimits archive{};

  Hooks hooks{};
  /// Logs what becomes of tasks that failed (warning; info if `is_failure` says that it does not
  /// count), queues that hold tasks and that no server works on (warning), problems with the broker
  /// (error), the start and end of the server (info), and the start and end of each run (debug).
  /// Called on the server's own threads, which wait for it: it must be quick. When left out, the
  /// broker's logger is used, so that one setting serves both; if that was left out too, warnings
  /// and errors go to standard error (see Logger).
  Logger logger{};
  /// Runs first on every thread that the server starts. What it throws is ignored.
  std::function<void()> on_thread_start{};
  /// The machine's when null. Must tell the broker's time if that has a clock of its own (a
  /// ManualClock in tests).
  std::shared_ptr<Clock> clock{};
};

/// The first group is the present state; all others are counts since the server was made. The
/// numbers are read one by one, not at one instant. An outcome is counted once the broker has
/// recorded it.
struct ServerStats {
  std::size_t running = 0;    ///< Handlers at work.
  std::size_t ready = 0;      ///< Taken and waiting for a worker.
  std::size_t unsettled = 0;  ///< Ended, and not yet recorded by the broker.
  std::size_t abandoned = 0;  ///< Given-up threads that still hang.
  /// A task on its last attempt waits to run alone, or is running alone (see
  /// ServerConfig::max_crashes). Meanwhile the server takes no other task.
  bool alone = false;

  /// Runs that this server took from its queues; a task counts once for each attempt.
  std::uint64_t taken = 0;
  /// Runs whose handler succeeded.
  std::uint64_t succeeded = 0;
  /// Tasks deleted because a handler or an operator revoked them.
  std::uint64_t revoked = 0;
  /// Runs that failed and whose task will be tried again.
  std::uint64_t retried = 0;
  /// Tasks that failed for good and went to the dead-letter queue.
  std::uint64_t archived = 0;
  /// Runs given back to their queue unfinished, at a shutdown for example.
  std::uint64_t given_back = 0;
  /// Runs whose handler asked for the task to be scheduled again.
  std::uint64_t snoozed = 0;
  /// Outcomes that were not recorded because this server no longer owned the run.
  std::uint64_t stale = 0;
  /// Outcomes that the broker could not record however often they were tried; each is logged.
  std::uint64_t rejected = 0;
  /// Lost runs of any server that this one took over and settled.
  std::uint64_t recovered = 0;
  /// Calls of Broker::exchange() that were answered; each settles and takes a batch.
  std::uint64_t exchanges = 0;
  /// Attempts at tasks whose type no handler is registered for.
  std::uint64_t unknown_types = 0;
  /// Calls to the broker that failed, repeats included.
  std::uint64_t broker_errors = 0;
  /// Events that were dropped because hooks are too slow, see Hooks.
  std::uint64_t hooks_dropped = 0;
  /// Archived tasks that this server deleted, see ArchiveLimits.
  std::uint64_t evicted = 0;
};

}  // namespace v0
}  // namespace taskmux
