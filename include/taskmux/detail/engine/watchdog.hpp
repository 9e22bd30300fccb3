#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/engine/slots.hpp"
#include "taskmux/detail/engine/thread_runner.hpp"
#include "taskmux/detail/run/run_registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Watches the clock over all runs, and never waits for anything else: fires the stop token of a
/// run whose time is over, gives up a handler that does not stop, and sends back a run that no
/// worker came for.
class Watchdog {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  /// A run that was taken ahead and not started by then goes back, first in line, so that another
  /// server can have it.
  static constexpr Duration unstarted_limit = std::chrono::milliseconds{20};

  struct Parts {
    RunRegistry& registry;
    Slots& slots;
    ThreadRunner& runner;
    Settler& settler;
    HealthMonitor& health;
    const Logger& logger;
    std::shared_ptr<Clock> clock;
    EngineEvents& events;  ///< Told that an exchange is due once there is room for tasks again.
  };

  Watchdog(Parts parts, Duration abandon_after)
      : parts_{std::move(parts)}, abandon_after_{abandon_after} {}

  /// Whether a run that is taken now needs an earlier look than is planned; then the watchdog must
  /// be woken. Thread-safe.
  bool concerns(SteadyTime taken_at) const noexcept {
    return taken_at + unstarted_limit <
           SteadyTime{SteadyTime::duration{planned_.load(std::memory_order_acquire)}};
  }

  /// One look at all runs; returns when the next one is due.
  std::optional<SteadyTime> run_once() {
    // Until the plan is made, every arrival asks for another look.
    plan(SteadyTime::max());
    const SteadyTime now = parts_.clock->steady_now();
    send_back_unstarted(now);
    SteadyTime next = SteadyTime::max();
    const std::vector<RunPtr> late = parts_.registry.select([&](const RunState& run) {
      const SteadyTime due = due_of(run, now);
      if (due > now) next = std::min(next, due);
      return due <= now;
    });
    for (const RunPtr& run : late) next = std::min(next, deal_with(run, now));
    const std::size_t missing = parts_.slots.missing();
    const bool whole = parts_.runner.replace_missing();
    if (parts_.slots.missing() < missing) parts_.events.exchange_due();
    if (parts_.slots.hung() > 0 || !whole) next = std::min(next, now + hung_interval());
    const bool full = parts_.slots.is_full_of_hung();
    parts_.health.too_many_hung(full);
    if (std::exchange(full_, full) && !full) parts_.events.exchange_due();
    plan(next);
    if (next == SteadyTime::max()) return std::nullopt;
    return next;
  }

  /// Gives up the handler of `run` if it is still at work, and settles the run without it.
  void give_up(const RunPtr& run, bool replace) {
    if (!parts_.runner.give_up(*run, replace)) return;
    parts_.logger(about(run->message(), LogLevel::error,
                        "its handler did not stop when it was asked to, and was given up"));
    if (parts_.slots.is_full_of_hung()) {
      // Even if this has passed by the next step, which must then report that it is over.
      full_ = true;
      parts_.health.too_many_hung(true);
    }
    parts_.settler.finish(
        run, Outcome::fail(why_stopped(*run) + ": the handler did not stop and was given up"),
        random_.unit());
  }

 private:
  static std::string why_stopped(const RunState& run) {
    switch (run.stop_reason()) {
      case StopReason::timeout:
        return "timed out after " + in_words(std::chrono::duration_cast<Duration>(
                                        run.deadline() - run.started_at()));
      case StopReason::cancelled: return "cancelled";
      case StopReason::lease_lost: return "the lease was lost";
      case StopReason::shutdown:
      case StopReason::ended:
      case StopReason::none: break;
    }
    return "the server shut down";
  }

  /// How often to check whether given-up threads have returned; they can't report it.
  Duration hung_interval() const noexcept {
    return std::clamp<Duration>(abandon_after_, std::chrono::milliseconds{100},
                                std::chrono::seconds{5});
  }

  void plan(SteadyTime next) noexcept {
    planned_.store(next.time_since_epoch().count(), std::memory_order_release);
  }

  SteadyTime due_of(const RunState& run, SteadyTime now) const noexcept {
    switch (run.phase()) {
      case RunState::Phase::ready:
      case RunState::Phase::starting: {
        const SteadyTime limit = run.arrived_at() + unstarted_limit;
        if (limit > now) return limit + Duration{1};
        return now + unstarted_limit;  // In no queue, or it would have gone back: about to begin.
      }
      case RunState::Phase::running: break;
      default: return SteadyTime::max();
    }
    if (run.stop_reason() == StopReason::none) return run.deadline();
    const SteadyTime asked = run.stop_asked_at();
    return asked == SteadyTime::max() ? now + unstarted_limit : asked + abandon_after_;
  }

  /// Stops a run, or gives it up; returns when it is to be looked at again.
  SteadyTime deal_with(const RunPtr& run, SteadyTime now) {
    if (run->phase() != RunState::Phase::running) return SteadyTime::max();
    if (run->request_stop(StopReason::timeout, now)) return now + abandon_after_;
    const SteadyTime asked = run->stop_asked_at();
    if (asked == SteadyTime::max())
      return now + unstarted_limit;  // Someone else is asking it just now.
    if (asked + abandon_after_ > now) return asked + abandon_after_;
    give_up(run, true);
    return SteadyTime::max();
  }

  /// All of them once the oldest has waited for too long: those that came later would otherwise end
  /// up behind it, or be begun before it.
  void send_back_unstarted(SteadyTime now) {
    const std::size_t count = parts_.settler.give_back_from([&] {
      return parts_.slots.ready().take_all_if_first(
          [&](const RunState& run) { return run.arrived_at() + unstarted_limit <= now; });
    });
    if (count > 0) parts_.slots.gave_back();
  }

  const Parts parts_;
  const Duration abandon_after_;
  bool full_ = false;  ///< At the last look.
  std::atomic<SteadyTime::rep> planned_{SteadyTime::max().time_since_epoch().count()};
  Random random_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
