#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/run/run_registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Keeps the ownership of this server's runs: extends every lease each quarter of its length, and
/// stops runs that were lost or cancelled. Has its own thread, since a late extension causes a
/// second run of every task.
class LeaseKeeper {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Parts {
    Broker& broker;
    RunRegistry& registry;
    Settler& settler;
    HealthMonitor& health;
    const Logger& logger;
    std::shared_ptr<Clock> clock;
    EngineEvents& events;
  };

  LeaseKeeper(Parts parts, Duration lease) : parts_{std::move(parts)}, lease_{lease} {}

  /// Records a request to cancel the run of this task (in any queue if `queue` is empty). Wake the
  /// keeper afterwards. Thread-safe.
  void cancel(std::string task_id, std::string queue = {}) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    cancels_.emplace(std::move(task_id), std::move(queue));
  }

  /// Processes cancellations at once, and extends all leases if a quarter has passed; returns when
  /// the next extension is due.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = parts_.clock->steady_now();
    if (std::set<Cancel> cancels = take_cancels(); !cancels.empty()) {
      try {
        put_back(extend_and_stop(now, cancels));
      } catch (...) {  // Out of memory.
        put_back(std::move(cancels));
        throw;
      }
    }
    if (now >= next_) {
      // A younger run has most of its lease left.
      const SteadyTime taken_before = now - lease_ / 4;
      // It is repeated soon after a failure, since other servers may take over runs whose leases
      // have expired.
      const Duration soon = std::min<Duration>(lease_ / 16, std::chrono::milliseconds{400});
      next_ = now + (extend(now, taken_before).empty() ? lease_ / 4 : soon);
    }
    return next_;
  }

 private:
  using Cancel = std::pair<std::string, std::string>;  ///< Id, and queue or empty.

  static constexpr std::size_t most_at_once = 500;

  std::set<Cancel> take_cancels() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    return std::exchange(cancels_, {});
  }

  void put_back(const std::vector<RunPtr>& runs) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    for (const RunPtr& run : runs) cancels_.emplace(run->message().id, run->message().queue);
  }

  void put_back(std::set<Cancel>&& cancels) TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    cancels_.merge(cancels);  // Allocates nothing.
  }

  std::vector<RunPtr> extend(SteadyTime now, SteadyTime taken_before) {
    return extend_all(now, parts_.registry.select([&](const RunState& run) {
      return run.taken_at() <= taken_before;
    }),
                      false);
  }

  std::vector<RunPtr> extend_and_stop(SteadyTime now, const std::set<Cancel>& ids) {
    return extend_all(now, parts_.registry.select([&](const RunState& run) {
      const TaskMessage& message = run.message();
      return ids.contains({message.id, {}}) || ids.contains({message.id, message.queue});
    }),
                      true);
  }

  /// Returns the runs for which the broker did not answer. `asked`: each of them was named by a
  /// hint, so a missing mode means a cancellation as in asynq.
  std::vector<RunPtr> extend_all(SteadyTime now, const std::vector<RunPtr>& runs, bool asked) {
    std::vector<RunPtr> unanswered;
    for (std::size_t at = 0; at < runs.size(); at += most_at_once) {
      const auto part = std::span{runs}.subspan(at, std::min(most_at_once, runs.size() - at));
      std::vector<ExtendRequest> named;
      named.reserve(part.size());
      for (const RunPtr& run : part) named.push_back({run->run(), run->has_begun()});
      std::vector<ExtendReply> replies;
      const SteadyTime sent_at = parts_.clock->steady_now();
      try {
        replies = parts_.broker.extend(named, lease_);
      } catch (const std::exception& e) {
        parts_.health.broker_failed(HealthMonitor::Role::extend, e.what());
        unanswered.insert(unanswered.end(), runs.begin() + static_cast<std::ptrdiff_t>(at),
                          runs.end());
        return unanswered;
      }
      for (std::size_t i = 0; i < part.size() && i < replies.size(); ++i) {
        const ExtendReply& reply = replies[i];
        if (reply.status == LeaseStatus::unknown) {
          unanswered.push_back(part[i]);
          continue;
        }
        if (reply.status == LeaseStatus::lost) {
          lose(part[i], now);
          continue;
        }
        part[i]->hold_until(sent_at + lease_);
        if (reply.cancel || asked) stop(part[i], now, reply.cancel.value_or(CancelMode::retry));
      }
    }
    tell_health(unanswered);
    return unanswered;
  }

  void tell_health(const std::vector<RunPtr>& unanswered) {
    if (!unanswered.empty()) {
      parts_.health.broker_failed(HealthMonitor::Role::extend,
                                  "it does not say whether it extended the lease of task " +
                                      unanswered.front()->message().id);
    } else {
      // Without runs, there is nothing left that could fail.
      parts_.health.broker_answered(HealthMonitor::Role::extend);
    }
  }

  void lose(const RunPtr& run, SteadyTime now) {
    if (run->phase() == RunState::Phase::ended) return;  // The reply to its settlement decides.
    run->request_stop(StopReason::lease_lost, now);
    if (run->withdraw()) {
      parts_.registry.remove(std::span{&run, 1});
    }
    parts_.logger(about(run->message(), LogLevel::warning, "its lease was lost"));
    parts_.events.watch_due();
  }

  void stop(const RunPtr& run, SteadyTime now, CancelMode mode) {
    parts_.settler.cancel(run, mode, now);
    parts_.events.watch_due();
  }

  const Parts parts_;
  const Duration lease_;
  SteadyTime next_{SteadyTime::min()};
  Mutex mutex_;
  std::set<Cancel> cancels_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
