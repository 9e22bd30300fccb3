#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/engine/slots.hpp"
#include "taskmux/detail/run/judge.hpp"
#include "taskmux/detail/run/run_registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Decides when a suspect runs: a task whose last workers were lost, perhaps because of it. The
/// start of each is recorded at the broker before its handler is called, so that a crash counts
/// only against the tasks that had begun. A suspect that the next crash would archive runs alone in
/// its process, so that no other task's crash can archive it: the server takes nothing else until
/// the other handlers, including abandoned ones, have ended. That wait is bounded, since they may
/// run for long: it lasts a lease at first, and twice as long at each further try of the task.
/// After a wait in vain, the task is postponed for about as long as it waited, and the server
/// resumes normal work.
class Suspects {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Parts {
    Broker& broker;
    Settler& settler;
    RunRegistry& registry;
    Slots& slots;
    std::shared_ptr<RunEnvironment> environment;
  };

  Suspects(Parts parts, Duration lease, int max_crashes)
      : parts_{std::move(parts)}, lease_{lease}, max_crashes_{max_crashes} {}

  // For the exchanging thread only.

  /// Removes the suspects from runs that were taken and are registered. Returns, held, those that
  /// may begin once that is recorded; see begin(). Keeps the first of those that have to run alone,
  /// and gives back the others of that kind.
  std::vector<RunPtr> take_out(std::vector<RunPtr>& runs) {
    const auto is_suspect = [](const RunPtr& run) { return run->run().crashes > 0; };
    if (std::none_of(runs.begin(), runs.end(), is_suspect)) return {};
    std::vector<RunPtr> others;
    std::vector<RunPtr> suspects;
    std::vector<RunPtr> back;
    for (const RunPtr& run : runs) {
      if (!is_suspect(run)) {
        others.push_back(run);
      } else if (!must_run_alone(run->run(), max_crashes_)) {
        if (run->hold()) suspects.push_back(run);
      } else if (now() < rest_until_) {
        put_off(run, std::chrono::duration_cast<Duration>(rest_until_ - now()),
                "another task has just waited in vain");
      } else if (!keep(run)) {
        back.push_back(run);
      }
    }
    parts_.settler.give_back_unstarted(back);
    runs.swap(others);
    return suspects;
  }

  /// Records the start of the runs that take_out() returned. Returns those for which it is
  /// recorded; gives back those for which that is unknown.
  std::vector<RunPtr> begin(const std::vector<RunPtr>& runs) {
    const std::vector<LeaseStatus> statuses = record_begin(runs);
    std::vector<RunPtr> begun;
    std::vector<RunPtr> back;
    for (std::size_t i = 0; i < runs.size(); ++i) {
      if (statuses[i] == LeaseStatus::lost) {
        lose(runs[i]);
      } else if (runs[i]->release(now())) {
        (statuses[i] == LeaseStatus::ok ? begun : back).push_back(runs[i]);
      }
    }
    parts_.settler.give_back_unstarted(back);
    return begun;
  }

  /// Starts the kept run once no handler is running, or postpones it. Returns whether nothing may
  /// be taken now: while there is such a run, and for a moment after the broker did not record a
  /// start.
  bool step() TASKMUX_EXCLUDES(mutex_) {
    if (now() < not_before_) return true;
    const RunPtr run = kept();
    if (!run) return false;
    switch (run->phase()) {
      case RunState::Phase::held: break;
      case RunState::Phase::ended:
      case RunState::Phase::abandoned:
        forget();
        forget_wait(run->message());
        return false;
      default: return true;
    }
    const ReadyQueue::Load load = parts_.slots.load();
    if (const std::size_t others = load.busy + load.ready + parts_.slots.hung(); others > 0) {
      if (now() < wait_until_) return true;
      end_wait(run, others);
      return false;
    }
    switch (record_begin(std::span{&run, 1})[0]) {
      case LeaseStatus::unknown: break;
      case LeaseStatus::lost: lose(run); break;
      case LeaseStatus::ok:
        if (run->release(now())) start(run);
    }
    return true;
  }

  /// Returns when step() is due again while it returns true; usually another run ends before.
  SteadyTime next_step() const {
    const SteadyTime soon = now() + std::chrono::seconds{1};
    return now() < wait_until_ ? std::min(soon, wait_until_) : soon;
  }

  // From any thread.

  /// Returns whether a run is kept: it waits to run alone, or is running alone.
  bool keeps_one() const { return kept() != nullptr; }

  /// Gives back the kept run, and keeps no other.
  void close() TASKMUX_EXCLUDES(mutex_) {
    RunPtr run;
    {
      MutexLock lock{mutex_};
      closed_ = true;
      run = kept_;
    }
    if (run && run->advance(RunState::Phase::held, RunState::Phase::ended))
      parts_.settler.give_back(run);
  }

 private:
  RunPtr kept() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return kept_;
  }

  void forget() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    kept_.reset();
  }

  /// Passes the released run to a worker. If memory runs out, the run is held again, and the next
  /// step repeats this.
  void start(const RunPtr& run) {
    RunPtr ready = run;
    try {
      if (!parts_.slots.ready().push(std::span{&ready, 1}))
        parts_.settler.give_back_unstarted(std::span{&run, 1});
    } catch (...) {
      run->hold();
      throw;
    }
  }

  /// Keeps `run` if no other is kept.
  bool keep(const RunPtr& run) TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      if (closed_ || kept_ || !run->hold()) return false;
      kept_ = run;
    }
    const Duration wait = wait_of(run->message());
    wait_until_ = now() + wait;
    log_kept(run->message(), wait);
    return true;
  }

  /// If memory runs out, the line is dropped; the run is kept in any case.
  void log_kept(const TaskMessage& message, Duration wait) const noexcept {
    try {
      parts_.environment->log.log(
          about(message, LogLevel::warning,
                "its last workers crashed while running it; it will run alone once all workers are "
                "idle; until then this server takes no other task, for up to " +
                    in_words(wait)));
    } catch (const std::bad_alloc&) {
      // There is no memory for another text either.
    }
  }

  /// Handlers were still running at the end of the wait: the server continues without the kept run,
  /// and for the same time without any other of that kind.
  void end_wait(const RunPtr& run, std::size_t others) {
    const Duration wait = wait_of(run->message());
    remember_wait(run->message(), std::min<Duration>(2 * wait, longest_wait));
    const auto spread = 0.75 + random_.unit() / 2;
    const Duration delay = std::chrono::duration_cast<Duration>(wait * spread);
    rest_until_ = now() + delay;
    forget();
    put_off(run, delay, std::to_string(others) + " others still ran after " + in_words(wait));
  }

  /// Does nothing if the run was already withdrawn.
  void put_off(const RunPtr& run, Duration delay, const std::string& why) {
    if (!run->withdraw()) return;
    try {
      parts_.environment->log.log(
          about(run->message(), LogLevel::warning,
                "could not run alone, " + why + "; tried again in " +
                    in_words(std::chrono::ceil<std::chrono::milliseconds>(delay))));
      parts_.settler.put_off(run, delay);
    } catch (...) {
      parts_.registry.remove(std::span{&run, 1});  // Out of memory: its lease ends.
      throw;
    }
  }

  /// How long a task waits to run alone.
  struct Wait {
    std::string queue;
    std::string id;
    Duration length;
  };

  std::vector<Wait>::iterator find_wait(const TaskMessage& message) {
    return std::find_if(waits_.begin(), waits_.end(), [&](const Wait& wait) {
      return wait.id == message.id && wait.queue == message.queue;
    });
  }

  Duration wait_of(const TaskMessage& message) {
    const auto known = find_wait(message);
    return known != waits_.end() ? known->length : lease_;
  }

  void remember_wait(const TaskMessage& message, Duration length) {
    if (const auto known = find_wait(message); known != waits_.end()) {
      known->length = length;
      return;
    }
    if (waits_.size() == most_waits) waits_.erase(waits_.begin());
    waits_.push_back({std::string{message.queue}, std::string{message.id}, length});
  }

  void forget_wait(const TaskMessage& message) {
    if (const auto known = find_wait(message); known != waits_.end()) waits_.erase(known);
  }

  /// Makes one call for all runs; returns the status of each. Logs a failure.
  std::vector<LeaseStatus> record_begin(std::span<const RunPtr> runs) {
    std::vector<LeaseStatus> statuses;
    std::string fault = "the broker did not answer";
    try {
      std::vector<ExtendRequest> requests;
      for (const RunPtr& run : runs) requests.push_back({.run = run->run(), .begun = true});
      const SteadyTime sent_at = now();
      for (const ExtendReply& reply : parts_.broker.extend(requests, lease_))
        statuses.push_back(reply.status);
      for (std::size_t i = 0; i < std::min(runs.size(), statuses.size()); ++i) {
        if (statuses[i] == LeaseStatus::ok) runs[i]->hold_until(sent_at + lease_);
      }
    } catch (const std::exception& e) {
      fault = e.what();
    }
    statuses.resize(runs.size(), LeaseStatus::unknown);
    const auto unknown = std::find(statuses.begin(), statuses.end(), LeaseStatus::unknown);
    if (unknown != statuses.end()) {
      not_before_ = now() + pause_after_failure;
      const RunPtr& run = runs[static_cast<std::size_t>(unknown - statuses.begin())];
      parts_.environment->log.log(
          about(run->message(), LogLevel::warning,
                "could not record that it is about to start: " + std::string{fault}));
    }
    return statuses;
  }

  void lose(const RunPtr& run) {
    if (run->advance(RunState::Phase::held, RunState::Phase::ended))
      parts_.registry.remove(std::span{&run, 1});
  }

  SteadyTime now() const { return parts_.environment->clock->steady_now(); }

  static constexpr Duration pause_after_failure = std::chrono::milliseconds{500};
  static constexpr Duration longest_wait = std::chrono::hours{12};
  static constexpr std::size_t most_waits = 64;

  const Parts parts_;
  const Duration lease_;
  const int max_crashes_;
  // Used only by the exchanging thread.
  SteadyTime not_before_{SteadyTime::min()};
  SteadyTime wait_until_{SteadyTime::min()};  ///< The end of the kept run's wait.
  SteadyTime rest_until_{SteadyTime::min()};  ///< No run is kept before this.
  std::vector<Wait> waits_;                   ///< Tasks that waited in vain, oldest first.
  Random random_;
  mutable Mutex mutex_;
  RunPtr kept_ TASKMUX_GUARDED_BY(mutex_);  ///< The run that has to run alone, until it has ended.
  bool closed_ TASKMUX_GUARDED_BY(mutex_) = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
