#pragma once

#include <compare>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "ledger.hpp"
#include "snapshot.hpp"

namespace taskmux::chaos {

/// What must hold once all producers and workers have ended and nothing waits any more.
enum class Rule {
  /// A task that was accepted has succeeded, or is stored.
  nothing_lost,
  /// What ran or is stored was asked for, and was not refused.
  nothing_invented,
  /// A stored task is in one container, the one that its state names; a container holds tasks only.
  one_state,
  /// `processed` - `failed` is the number of tasks that succeeded; `failed` is at least the failures
  /// that workers saw recorded, and at most the runs that did not succeed; the days sum up to them.
  counters,
  /// A task starts again only after an attempt that failed, snoozed or was stopped; or if a fault hit
  /// the process of its last run, Redis or the line, between the two starts. After a success that its
  /// worker saw recorded, it never does; nor because everybody was stopped, which loses no run. One start is excused for each thread of a process that was
  /// stopped, within 50 ms of its going on: it may have been about to begin when it was stopped.
  no_second_run,
  /// Nothing is archived that never started; but a task without retries may be, if it was lost before
  /// it began, as above.
  nothing_archived_unrun,
  /// Only a task that fails for good, kills its worker, or has no retries and lost its worker, is
  /// archived.
  no_innocent_archived,
  /// Nothing starts before its time.
  not_early,
  /// While a task with a unique lock has not started, no other is accepted under the lock.
  locks,
  /// A completed task has the result that its handler set.
  results,
  /// Redis holds no key and no field beyond archived and completed tasks, counters and names of
  /// queues, and the ids that it was to remember: no lease, no lock of an ended task, nothing private.
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
  // For people:
  std::size_t accepted = 0;
  std::size_t succeeded = 0;
  std::size_t archived = 0;
  std::size_t runs = 0;
  std::size_t repeated = 0;  ///< Starts beyond the first that no handler asked for.
  std::size_t faults = 0;
  std::size_t hits = 0;  ///< Faults that hit something in progress.
};

/// Judges a trial by its ledger and by what is left in Redis. `concurrency` is that of each worker.
Verdict judge(const std::vector<Event>& ledger, const Snapshot& left, std::size_t concurrency);

}  // namespace taskmux::chaos
