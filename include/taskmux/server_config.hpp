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
    started,    ///< A worker has it now.
    succeeded,  ///< Deleted, or completed if it has a retention.
    revoked,    ///< Deleted on its handler's or an operator's wish.
    retried,    ///< Failed, and will be tried again after `delay`.
    archived,   ///< Failed for good: in the dead-letter queue.
    requeued,   ///< Back in its queue, unfinished.
    snoozed,    ///< Scheduled again after `delay`.
  };
  Change change = Change::started;
  std::shared_ptr<const TaskMessage> task{};  ///< As it was when this attempt began; never null.
  int attempt = 1;                            ///< Counts from 1.
  /// How late this attempt was begun: since the task was ready to run, that is enqueued, due (with a
  /// delay, and at each retry and snooze), or given back. 0 if not known.
  Duration waited{};
  Duration ran{};     ///< In its handler; 0 for `started` and for a task that was not run.
  Duration delay{};
  std::string error{};  ///< Of retried and archived.
  /// `task` lacks its payload, since too much waits for a slow hook (see Hooks).
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
    case Change::requeued: return "requeued";
    case Change::snoozed: return "snoozed";
  }
  return "unknown";
}

/// Whether a server can do its work.
struct Health {
  bool healthy = true;
  std::string reason{};  ///< Why not.
};

/// The host's ears. They are called one after the other on a thread of their own, from a queue of
/// 10,000 events; what overflows is dropped and counted (ServerStats::hooks_dropped), so that a
/// slow hook stops nothing. An event keeps its task's message alive: while those in the queue keep
/// 64 MiB, further ones come without the payload (TaskEvent::payload_dropped), and none comes while
/// they keep 128 MiB. What they throw is logged.
struct Hooks {
  std::function<void(const TaskEvent&)> on_failure{};  ///< An attempt failed: retried or archived.
  std::function<void(const TaskEvent&)> on_dead_letter{};  ///< A task was archived by this server.
  std::function<void(const TaskEvent&)>
      on_state_change{};  ///< Every TaskEvent. Costs an event for each start and end.
  std::function<void(const Health&)> on_health_change{};
  /// Before a task is deleted that the archive's limits do not let stay; one that throws keeps it
  /// until the next look, ten seconds later. Makes deleting slower: the tasks must be read.
  std::function<void(const TaskInfo&)> before_evict{};
};

/// How much the dead-letter queue of a queue may hold. The oldest tasks beyond it are deleted by the
/// servers of the queue, which look every ten seconds, log a warning (once a minute a queue, with
/// the number) and count them (ServerStats::evicted).
struct ArchiveLimits {
  std::size_t max_tasks = 10'000;
  Duration max_age = std::chrono::hours{24 * 90};
};

/// As many as the machine runs threads at once; 1 if that is not known.
inline std::size_t hardware_concurrency() noexcept {
  const unsigned threads = std::thread::hardware_concurrency();
  return threads > 0 ? threads : 1;
}

struct ServerConfig {
  /// How many handlers may run at once; from 1 to 32,768. Each has a thread.
  std::size_t concurrency = hardware_concurrency();
  /// The queues to work on, and no others, with their priorities (at least 1). A queue is looked at
  /// first in proportion to its priority; with `strict_priority` a queue is served only while all
  /// with a higher priority are empty.
  std::map<std::string, int> queues{{"default", 1}};
  bool strict_priority = false;

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
  /// With so many given-up threads still hanging, the server takes no more tasks and is unhealthy;
  /// `concurrency` when not given.
  std::optional<std::size_t> max_abandoned{};

  /// How long a run stays this server's without a sign of life from it; extended every quarter. At
  /// least Broker::shortest_lease(). A run of another server is taken for lost only after this server
  /// and the broker have been at work for as long without a gap of half of it or more.
  Duration lease = std::chrono::seconds{10};
  /// A task that had begun at this many workers in a row that were lost is archived; at least 1. Before
  /// its last chance it waits until no other task runs in its process, and runs alone, so that no
  /// other task's crash counts; meanwhile this server takes nothing. So with 1, every task that had
  /// begun is archived by any crash; and a service whose long tasks are often killed (by deployments
  /// that do not wait for shutdown(), or for lack of memory) wants more than 3.
  int max_crashes = 3;
  Duration heartbeat_interval = std::chrono::seconds{5};
  Duration upkeep_interval = std::chrono::seconds{2};
  ArchiveLimits archive{};

  Hooks hooks{};
  /// Gets what becomes of tasks that failed (warning; info where `is_failure` says that it does not
  /// count), queues that hold tasks and that no server works on (warning), trouble with the broker
  /// (error), the server's start and end (info), and the start and end of each run (debug). Called on
  /// the server's own threads, which wait for it: it must be quick. Left out, it is the broker's
  /// logger, so that one setting there serves both; and where nobody chose that either, warnings and
  /// errors go to standard error (see Logger).
  Logger logger{};
  /// Runs first on every thread that the server starts. What it throws is ignored.
  std::function<void()> on_thread_start{};
  /// The machine's when null. Must tell the broker's time if that has a clock of its own (a
  /// ManualClock in tests).
  std::shared_ptr<Clock> clock{};
};

/// Counts since the start, but for the first group, which tells the present. Taken one by one, not
/// at one instant.
struct ServerStats {
  std::size_t running = 0;    ///< Handlers at work.
  std::size_t ready = 0;      ///< Taken and waiting for a worker.
  std::size_t unsettled = 0;  ///< Ended, and not yet recorded by the broker.
  std::size_t abandoned = 0;  ///< Given-up threads that still hang.

  std::uint64_t taken = 0;
  std::uint64_t succeeded = 0;
  std::uint64_t revoked = 0;
  std::uint64_t retried = 0;
  std::uint64_t archived = 0;
  std::uint64_t requeued = 0;
  std::uint64_t snoozed = 0;
  std::uint64_t stale = 0;      ///< Settlements refused because the run was not ours any more.
  std::uint64_t recovered = 0;  ///< Lost runs of any server that this one took over and settled.
  std::uint64_t exchanges = 0;
  std::uint64_t unknown_types = 0;  ///< Attempts at tasks whose type no handler is registered for.
  std::uint64_t broker_errors = 0;
  std::uint64_t hooks_dropped = 0;
  std::uint64_t evicted = 0;  ///< Archived tasks that this server deleted, see ArchiveLimits.
};

}  // namespace v0
}  // namespace taskmux
