#pragma once

#include <algorithm>
#include <any>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/run/run_environment.hpp"
#include "taskmux/error.hpp"
#include "taskmux/handler.hpp"
#include "taskmux/logger.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// One run and all that its handler can reach of it. Owned together by the worker's thread, which a
/// hung handler may keep for ever, by the copies of its Context, and by the server's tables. Points
/// at no server and no broker. Thread-safe but for the members said to be set once.
class RunState {
 public:
  enum class Phase : unsigned char {
    held,       ///< Taken from the broker, and kept until it may run alone.
    ready,      ///< Taken from the broker, waiting for a worker.
    starting,   ///< A worker has it; when it began and must end is being noted.
    running,    ///< In its handler.
    ended,      ///< Its outcome is known, or it went back unstarted.
    abandoned,  ///< Settled without its handler, which hangs; what that does later is discarded.
  };

  RunState(Run run, std::shared_ptr<RunEnvironment> environment, SteadyTime taken_at,
           Time taken_at_wall, std::optional<SteadyTime> arrived_at = std::nullopt)
      : run_{std::move(run)},
        environment_{std::move(environment)},
        taken_at_{taken_at},
        taken_at_wall_{taken_at_wall},
        arrived_at_{arrived_at.value_or(taken_at).time_since_epoch().count()} {}
  RunState(const RunState&) = delete;
  RunState& operator=(const RunState&) = delete;

  const Run& run() const noexcept { return run_; }
  const TaskMessage& message() const noexcept { return *run_.message; }
  /// When the request that took it was sent, and the broker's time then.
  SteadyTime taken_at() const noexcept { return taken_at_; }
  Time taken_at_wall() const noexcept { return taken_at_wall_; }
  /// When it was there for a worker to begin.
  SteadyTime arrived_at() const noexcept {
    return SteadyTime{SteadyTime::duration{arrived_at_.load(std::memory_order_relaxed)}};
  }

  /// Until when nobody else can have taken the run over: a lease from when the request was sent that
  /// took or last extended it. The end of time if nobody said. The steady clock of Linux stands still
  /// while the machine is suspended: then a broker elsewhere refuses what comes too late.
  SteadyTime lease_until() const noexcept {
    return SteadyTime{SteadyTime::duration{lease_until_.load(std::memory_order_relaxed)}};
  }
  void hold_until(SteadyTime until) noexcept {
    lease_until_.store(until.time_since_epoch().count(), std::memory_order_relaxed);
  }

  Phase phase() const noexcept { return phase_.load(std::memory_order_acquire); }
  /// Whether a worker has it, or had it.
  bool has_begun() const noexcept {
    const Phase present = phase();
    return present == Phase::ended ? started_at_ != SteadyTime{} : present > Phase::ready;
  }
  /// Moves from `from` to `to`. Returns false, and changes nothing, if the phase was not `from`.
  bool advance(Phase from, Phase to) noexcept {
    return phase_.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }

  /// Keeps a run that waits from the workers; false if it has been taken back before.
  bool hold() noexcept { return advance(Phase::ready, Phase::held); }
  /// Ends hold(): the run waits for a worker from now on.
  bool release(SteadyTime now) noexcept {
    arrived_at_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
    return advance(Phase::held, Phase::ready);
  }
  /// Ends a run that no worker has begun; false if one has, or if it has ended.
  bool withdraw() noexcept {
    return advance(Phase::ready, Phase::ended) || advance(Phase::held, Phase::ended);
  }

  /// Begins the attempt on `worker`, which alone calls this; false if the run has been taken back, or
  /// its lease lost, before.
  bool start(SteadyTime now, SteadyTime deadline, Time deadline_wall, std::size_t worker,
             const TaskRoute& route = {}) noexcept {
    if (!advance(Phase::ready, Phase::starting)) return false;
    route_ = route;
    started_at_ = now;
    deadline_wall_ = deadline_wall;
    worker_ = worker;
    deadline_ = deadline;
    phase_.store(Phase::running, std::memory_order_release);
    return true;
  }
  /// Ends the run, since its handler has returned, and wakes threads that wait on a copy of its
  /// Context; returns false if the handler was given up before.
  bool end(SteadyTime now) noexcept {
    Phase running = Phase::running;
    if (!phase_.compare_exchange_strong(running, Phase::ended)) return false;
    ended_at_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
    if (has_token_.load()) present_stop_source().request_stop();
    return true;
  }
  /// Whether the handler has ended or was given up: nothing that it set from now on would count.
  bool is_over() const noexcept { return phase() >= Phase::ended; }
  /// The end of time if the handler has not ended.
  SteadyTime ended_at() const noexcept {
    return SteadyTime{SteadyTime::duration{ended_at_.load(std::memory_order_relaxed)}};
  }
  /// The rest may be read once phase() has been `running`; a run that ended without that has the
  /// values of none.
  SteadyTime started_at() const noexcept { return started_at_; }
  SteadyTime deadline() const noexcept { return deadline_; }
  Time deadline_wall() const noexcept { return deadline_wall_; }
  std::size_t worker() const noexcept { return worker_; }
  /// Where the server's mux sends the task: without a handler in a run that was not routed. Whoever
  /// has withdrawn a run may read and set it too, since nobody starts that any more.
  const TaskRoute& route() const noexcept { return route_; }
  void set_route(const TaskRoute& route) noexcept { route_ = route; }

  /// Fires the stop token, with `reason` if it is the first; true if so. Reason and time are there
  /// before the token fires.
  bool request_stop(StopReason reason, SteadyTime now) noexcept {
    StopReason none = StopReason::none;
    if (!stop_reason_.compare_exchange_strong(none, reason, std::memory_order_acq_rel))
      return false;
    stop_asked_at_.store(now.time_since_epoch().count(), std::memory_order_release);
    present_stop_source().request_stop();
    return true;
  }
  /// When the stop token fired; the end of time if it has not (or not quite).
  SteadyTime stop_asked_at() const noexcept {
    return SteadyTime{SteadyTime::duration{stop_asked_at_.load(std::memory_order_acquire)}};
  }
  /// What request_stop() was first called with; none if it was not called.
  StopReason stop_reason() const noexcept { return stop_reason_.load(std::memory_order_acquire); }
  /// Whether code that works on the run should stop: the run was asked to stop, or is over.
  bool must_stop() const noexcept { return stop_reason() != StopReason::none || is_over(); }
  /// Throws std::bad_alloc: most handlers never ask for one, so it is made for the first who does.
  std::stop_token stop_token() {
    MutexLock lock{mutex_};
    if (!stop_.stop_possible()) {
      stop_ = std::stop_source{};
      has_token_.store(true);  // Before the look at the phase: end() looks in the other order.
      // A request whose time is not there yet has still to come past the mutex, and fires it then.
      if (stop_asked_at() != SteadyTime::max() || phase_.load() >= Phase::ended)
        stop_.request_stop();
    }
    return stop_.get_token();
  }

  /// An operator's wish, to be kept before request_stop(cancelled).
  void set_cancel_mode(CancelMode mode) noexcept {
    cancel_mode_.store(mode, std::memory_order_release);
  }
  CancelMode cancel_mode() const noexcept { return cancel_mode_.load(std::memory_order_acquire); }

  bool wait_for(Duration duration) {
    if (must_stop()) return false;
    Waker waker;
    const std::stop_callback wake{stop_token(), [&waker] { waker.notify(); }};
    const SteadyTime until =
        environment_->clock->steady_now() + std::min<Duration>(duration, Limits::longest);
    while (!must_stop()) {
      if (environment_->clock->steady_now() >= until) return true;
      environment_->clock->wait(waker, until);
    }
    return false;
  }

  void set_result(std::string result) {
    if (is_over()) return;
    if (result.size() > environment_->max_result_bytes) {
      throw Error{Errc::payload_too_large,
                  "set_result: the result has " + std::to_string(result.size()) +
                      " bytes, more than the " + std::to_string(environment_->max_result_bytes) +
                      " of ServerConfig::max_result_bytes",
                  message().id};
    }
    MutexLock lock{mutex_};
    result_ = std::move(result);
  }
  /// The result that was set, at most once.
  std::optional<std::string> take_result() {
    MutexLock lock{mutex_};
    return std::exchange(result_, std::nullopt);
  }

  void set_value(std::string name, std::any value) {
    if (is_over()) return;
    MutexLock lock{mutex_};
    for (auto& entry : values_) {
      if (entry->first == name) {
        entry->second = std::move(value);
        return;
      }
    }
    values_.push_back(std::make_unique<Value>(std::move(name), std::move(value)));
  }
  const std::any* find_value(std::string_view name) {
    if (is_over()) return nullptr;
    MutexLock lock{mutex_};
    for (const auto& entry : values_) {
      if (entry->first == name) return &entry->second;
    }
    return nullptr;
  }

  void log(LogLevel level, std::string_view text) noexcept {
    if (!environment_->log.enabled(level) || is_over()) return;
    environment_->log.log(about(message(), level, text));
  }

  // The registry's list, guarded by its mutex.
  RunState* previous = nullptr;
  RunState* next = nullptr;
  std::shared_ptr<RunState> self;  ///< Set while it is in the list.

 private:
  using Value = std::pair<std::string, std::any>;

  std::stop_source present_stop_source() noexcept {
    MutexLock lock{mutex_};
    return stop_;
  }

  const Run run_;
  const std::shared_ptr<RunEnvironment> environment_;
  const SteadyTime taken_at_;
  const Time taken_at_wall_;
  std::atomic<SteadyTime::rep> arrived_at_;

  std::atomic<SteadyTime::rep> lease_until_{SteadyTime::max().time_since_epoch().count()};
  std::atomic<Phase> phase_{Phase::ready};
  std::atomic<bool> has_token_{false};  ///< A stop token of stop_ was handed out.
  std::atomic<StopReason> stop_reason_{StopReason::none};
  std::atomic<CancelMode> cancel_mode_{CancelMode::retry};
  std::atomic<SteadyTime::rep> stop_asked_at_{SteadyTime::max().time_since_epoch().count()};

  TaskRoute route_{};
  SteadyTime started_at_{};
  SteadyTime deadline_{};
  Time deadline_wall_{};
  std::size_t worker_ = 0;
  std::atomic<SteadyTime::rep> ended_at_{SteadyTime::max().time_since_epoch().count()};

  Mutex mutex_;
  std::stop_source stop_ TASKMUX_GUARDED_BY(mutex_){std::nostopstate};
  std::optional<std::string> result_ TASKMUX_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Value>> values_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace detail

}  // namespace v0
}  // namespace taskmux

// The bodies of Context need both classes, whichever header was included first.
#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/handler.hpp"
#endif
