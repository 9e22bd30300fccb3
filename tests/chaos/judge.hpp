#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "ledger.hpp"
#include "snapshot.hpp"

namespace taskmux::chaos {

/// The rules that must hold once all producers and workers have ended and no task waits any more.
enum class Rule {
  /// An accepted task has succeeded, or is stored.
  nothing_lost,
  /// Every task that ran or is stored was requested, and was not refused.
  nothing_invented,
  /// A stored task is in exactly one container, the one that its state names; a container holds
  /// only tasks.
  one_state,
  /// `processed` - `failed` is the number of tasks that succeeded; `failed` is at least the number
  /// of failures that workers saw recorded, and at most the number of runs that did not succeed;
  /// the daily counters add up to the totals.
  counters,
  /// A task starts again only after an attempt that failed, snoozed or was stopped; or if a fault
  /// hit the process of its last run, Redis or the connection between the two starts. It never
  /// starts again after a success that its worker saw recorded, nor because all processes were
  /// stopped, which must lose no run. One start is excused for each thread of a process that was
  /// stopped, within 50 ms after it continued: it may have been about to begin when it was stopped.
  no_second_run,
  /// No task is archived that never started; except that a task without retries may be, if it was
  /// lost before it began, as above.
  nothing_archived_unrun,
  /// A task is archived only if it fails for good, kills its worker, or has no retries and lost its
  /// worker.
  no_innocent_archived,
  /// No task starts before its time.
  not_early,
  /// While a task with a unique lock has not started, no other task with the lock is accepted.
  locks,
  /// A completed task has the result that its handler set.
  results,
  /// Redis holds no key and no field except archived and completed tasks, counters, names of queues
  /// and remembered ids: no lease, no lock of an ended task, no private data.
  nothing_left,
  /// At least one fault hit a run or an enqueue in progress.
  a_fault_hit,
};

std::string_view to_string(Rule rule) noexcept;

struct Finding {
  Rule rule = Rule::nothing_lost;
  std::string text{};
};

struct Verdict {
  std::vector<Finding> findings{};
  // Informative:
  std::size_t accepted = 0;
  std::size_t succeeded = 0;
  std::size_t archived = 0;
  std::size_t runs = 0;
  std::size_t repeated = 0;  ///< Repeated starts that no handler requested.
  std::size_t faults = 0;
  std::size_t hits = 0;  ///< Faults that hit an operation in progress.
};

/// Judges a trial by its ledger and by what is left in Redis. `concurrency` is that of each worker.
Verdict judge(const std::vector<Event>& ledger, const Snapshot& left, std::size_t concurrency);

}  // namespace taskmux::chaos
