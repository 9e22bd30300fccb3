#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/health_monitor.hpp"
#include "taskmux/detail/queue_picker.hpp"
#include "taskmux/detail/run_registry.hpp"
#include "taskmux/detail/settler.hpp"
#include "taskmux/detail/uuid.hpp"
#include "taskmux/detail/worker_pool.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Waits longer after each failure, from 50 ms to 5 s, spread at random so that a fleet does not
/// come back at one instant.
class Backoff {
 public:
  explicit Backoff(Random& random) : random_{random} {}

  Duration next() noexcept {
    const Duration step = current_;
    current_ = std::min<Duration>(current_ * 2, std::chrono::seconds{5});
    return std::chrono::duration_cast<Duration>(step * (0.5 + random_.unit()));
  }
  void reset() noexcept { current_ = first; }

 private:
  static constexpr Duration first = std::chrono::milliseconds{50};
  Random& random_;
  Duration current_ = first;
};

/// The exchanging role: carries outcomes to the broker and runs back, in one call, whenever there
/// is something to carry or room for more. While one call is under way, outcomes and free workers
/// pile up; the next carries them all. Asks only when something may be ready, and otherwise sleeps
/// on the watch's hint or until the next task is due.
class Fetcher {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Parts {
    Broker& broker;
    Settler& settler;
    RunRegistry& registry;
    WorkerPool& pool;
    HealthMonitor& health;
    std::shared_ptr<RunEnvironment> environment;
    std::function<void()> runs_arrived;  ///< For the watchdog.
  };

  Fetcher(Parts parts, QueuePicker picker, Duration lease)
      : parts_{std::move(parts)}, picker_{std::move(picker)}, lease_{lease} {}

  /// Before the first turn. The watch must be one whose hints reach hint().
  void set_watch(std::unique_ptr<Watch> watch) { watch_ = std::move(watch); }
  /// After the last turn: no hint comes after this.
  void drop_watch() { watch_.reset(); }

  // From any thread; the fetcher must be woken afterwards.
  void hint() noexcept { hinted_.store(true, std::memory_order_release); }
  void stop_taking() noexcept { taking_.store(false); }
  /// Also gives back what waits for a worker, and what a call under way still brings: no worker gets
  /// a run after this. Any thread; no waking needed.
  void close() {
    taking_.store(false);
    parts_.settler.give_back_unstarted(parts_.pool.ready().seal());
  }

  std::uint64_t taken() const noexcept { return taken_.load(std::memory_order_relaxed); }
  std::uint64_t exchanges() const noexcept { return exchanges_.load(std::memory_order_relaxed); }

  /// One turn: at most one exchange. Returns when the next one is due.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = clock().steady_now();
    if (now < not_before_) return not_before_;
    if (hinted_.exchange(false, std::memory_order_acq_rel)) {
      maybe_ready_ = true;
      armed_ = false;
    }
    if (due_ && now >= *due_) {
      maybe_ready_ = true;
      due_came_ = true;
      due_.reset();
    }
    try {
      return turn(now);
    } catch (const std::exception& e) {
      parts_.health.broker_failed(HealthMonitor::Role::exchange, e.what());
      maybe_ready_ = true;
      armed_ = false;
      return wait_for(now, backoff_.next());
    }
  }

 private:
  static constexpr std::size_t most_settlements = 1024;
  static constexpr std::size_t most_runs = 1024;

  const Clock& clock() const noexcept { return *parts_.environment->clock; }

  std::optional<SteadyTime> wait_for(SteadyTime now, Duration pause) {
    not_before_ = now + pause;
    return not_before_;
  }

  std::optional<SteadyTime> turn(SteadyTime now) {
    const bool repeat = repeat_at_ && now >= *repeat_at_;
    if (repeat) repeat_at_.reset();
    parts_.settler.collect(repeat);
    const std::span<const Settlement> settlements = parts_.settler.batch(most_settlements);
    const WorkerPool::Room room = taking_.load() ? parts_.pool.room() : WorkerPool::Room{};
    if (room.workers > 0) blocked_ = false;
    const bool may_look = maybe_ready_ && now >= look_after_;
    const bool take = room.total > 0 && !blocked_ && (may_look || !settlements.empty());
    if (take || !settlements.empty())
      return exchange(now, settlements, take ? room : WorkerPool::Room{});
    if (room.total == 0 || blocked_) return repeat_at_;  // Until a worker is free again.
    if (now < look_after_) return sooner(look_after_, repeat_at_);
    return armed_ ? sooner(due_, repeat_at_) : arm(now);
  }

  static std::optional<SteadyTime> sooner(std::optional<SteadyTime> a,
                                          std::optional<SteadyTime> b) {
    if (!a || !b) return a ? a : b;
    return std::min(*a, *b);
  }

  std::optional<SteadyTime> exchange(SteadyTime now, std::span<const Settlement> settlements,
                                     WorkerPool::Room room) {
    std::vector<QueueQuota> quotas;
    const std::size_t wanted = std::min(room.total, most_runs);
    if (wanted > 0) quotas = picker_.share(wanted);
    parts_.settler.sent(settlements.size());
    ExchangeReply reply = parts_.broker.exchange({settlements, quotas, room.workers, lease_});
    const SteadyTime arrived_at = clock().steady_now();
    exchanges_.fetch_add(1, std::memory_order_relaxed);
    accept(reply, now, arrived_at, room.workers);
    if (reply.settled.size() != settlements.size()) {
      throw Error{Errc::protocol, "exchange: the broker did not answer for each settlement"};
    }
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    const bool unknown = parts_.settler.report(reply.settled, arrived_at);
    if (wanted > 0) {
      note_due(arrived_at, reply.now, reply.next_due);
      const bool vain = maybe_ready_ && reply.runs.empty() && !reply.more;
      maybe_ready_ = reply.more || reply.runs.size() >= wanted;
      blocked_ = reply.more && reply.runs.empty() && room.workers == 0;
      // Another server was faster. A fleet that is woken by one task must not rush back all at once.
      // But a hint may be of what this server did itself: no task that will be due waits for that.
      if (vain && woken_) {
        look_after_ = now + stampede_pause();
        if (!due_came_ && due_) look_after_ = std::min(look_after_, *due_);
      }
      due_came_ = false;
    }
    woken_ = false;
    if (unknown) {
      // Of a part of the store, it may be: what else there is to settle does not wait for it.
      if (!repeat_at_) repeat_at_ = now + backoff_.next();
    } else if (!repeat_at_) {
      backoff_.reset();
    }
    return now;  // Look again: more may have piled up.
  }

  std::optional<SteadyTime> arm(SteadyTime now) {
    const Watch::State state = watch_->arm();
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    if (!repeat_at_) backoff_.reset();
    note_due(clock().steady_now(), state.now, state.next_due);
    armed_ = !state.ready;
    if (!state.ready) {
      woken_ = true;  // What ends this sleep is a hint or the time.
      return sooner(due_, repeat_at_);
    }
    maybe_ready_ = true;
    woken_ = true;
    return now;
  }

  /// Counts from when the reply has come, though the broker's now was before that: who looks too
  /// early finds nothing. A slow reply makes it later by its own time.
  void note_due(SteadyTime arrived_at, Time broker_now, std::optional<Time> next_due) {
    due_.reset();
    if (!next_due) return;
    due_ = arrived_at + std::clamp(*next_due - broker_now, Duration{0}, Limits::longest);
  }

  void accept(ExchangeReply& reply, SteadyTime sent_at, SteadyTime arrived_at,
              std::size_t free_workers) {
    if (reply.runs.empty()) return;
    if (reply.runs.size() > free_workers) {
      // A task that is never retried must not wait for a worker: were this process to die meanwhile,
      // it would be archived without a single attempt. There are at most as many as free workers.
      std::stable_partition(reply.runs.begin(), reply.runs.end(),
                            [](const Run& run) { return run.message->max_retry == 0; });
    }
    std::vector<RunPtr> runs;
    runs.reserve(reply.runs.size());
    for (Run& run : reply.runs) {
      runs.push_back(std::make_shared<RunState>(std::move(run), parts_.environment, sent_at,
                                                reply.now, arrived_at));
      runs.back()->hold_until(sent_at + lease_);
    }
    taken_.fetch_add(runs.size(), std::memory_order_relaxed);
    parts_.registry.add(runs);
    parts_.settler.give_back_unstarted(parts_.pool.ready().push(std::move(runs)));
    parts_.runs_arrived();
  }

  Duration stampede_pause() noexcept {
    return Duration{500 + static_cast<Duration::rep>(random_.below(19'500))};
  }

  const Parts parts_;
  QueuePicker picker_;
  const Duration lease_;
  std::unique_ptr<Watch> watch_;
  std::atomic<bool> hinted_{false};
  std::atomic<bool> taking_{true};
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<std::uint64_t> exchanges_{0};

  // Of the exchanging thread.
  Random random_;
  Backoff backoff_{random_};
  bool maybe_ready_ = true;  ///< Something may be ready in a queue.
  bool blocked_ = false;     ///< What is ready may not be taken ahead of a free worker.
  bool armed_ = false;       ///< The watch will hint when that changes.
  bool woken_ = false;       ///< This turn follows a sleep.
  bool due_came_ = false;    ///< A task was to be due since the last look.
  std::optional<SteadyTime> due_;
  SteadyTime not_before_{SteadyTime::min()};  ///< After an error: no call at all.
  SteadyTime look_after_{
      SteadyTime::min()};                ///< After a vain wake: outcomes go, nothing is looked for.
  std::optional<SteadyTime> repeat_at_;  ///< When to repeat what the broker does not know of.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
