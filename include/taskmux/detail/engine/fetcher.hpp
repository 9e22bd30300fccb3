#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/engine/fetch_plan.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/hinted_queues.hpp"
#include "taskmux/detail/engine/queue_picker.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/engine/slots.hpp"
#include "taskmux/detail/engine/suspects.hpp"
#include "taskmux/detail/run/run_registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The exchanging role: carries outcomes to the broker and runs back, in one call, whenever there
/// is something to carry or room for more. While one call is under way, outcomes and free workers
/// pile up; the next carries them all. FetchPlan decides what to do; this makes the calls, and hands
/// on what they bring.
class Fetcher {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Parts {
    Broker& broker;
    Settler& settler;
    RunRegistry& registry;
    Slots& pool;
    HealthMonitor& health;
    std::shared_ptr<RunEnvironment> environment;
    std::function<void()> runs_arrived;  ///< For the watchdog.
  };

  Fetcher(Parts parts, QueuePicker picker, Duration lease, int max_crashes = 3)
      : parts_{std::move(parts)},
        plan_{std::move(picker)},
        lease_{lease},
        suspects_{{parts_.broker, parts_.settler, parts_.registry, parts_.pool, parts_.environment},
                  lease,
                  max_crashes} {}

  /// Call before the first turn. The watch must be one whose hints reach hint().
  void set_watch(std::unique_ptr<Watch> watch) { watch_ = std::move(watch); }
  /// Call after the last turn. No hint comes after this.
  void drop_watch() { watch_.reset(); }

  // From any thread.

  /// Something may be ready in `queue`, in any if that is empty; see Hint::report. The caller must wake
  /// the exchanging thread afterwards.
  void hint(std::string_view queue = {}, std::uint64_t report = 0) noexcept {
    hinted_queues_.add(queue, report);
  }
  /// The caller must wake the exchanging thread afterwards.
  void stop_taking() noexcept { taking_.store(false); }
  /// Stops taking, and gives back what waits for a worker and what a call under way still brings: no
  /// worker gets a run after this. The exchanging thread need not be woken.
  void close() {
    taking_.store(false);
    suspects_.close();
    parts_.settler.give_back_from([this] { return parts_.pool.ready().seal(); });
  }
  /// Whether a suspect waits to run alone, or does: nothing is taken.
  bool alone() const { return suspects_.keeps_one(); }
  std::uint64_t taken() const noexcept { return taken_.load(std::memory_order_relaxed); }
  std::uint64_t exchanges() const noexcept { return exchanges_.load(std::memory_order_relaxed); }

  // For the exchanging thread alone.

  /// Whether a call whose reply was lost may have taken tasks that were not given back.
  bool owes() const noexcept { return plan_.owes(); }

  /// Takes one turn, with one exchange at most. Returns when the next one is due; nullopt: when the
  /// thread is woken.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = clock().steady_now();
    if (now < plan_.rests_until()) return plan_.rests_until();
    HintedQueues::News news = hinted_queues_.take(report_);
    if (news.any) plan_.hinted(std::move(news.queues), now);
    try {
      return turn(now);
    } catch (const std::exception& e) {
      const SteadyTime next = plan_.failed(now);
      parts_.health.broker_failed(HealthMonitor::Role::exchange, e.what());
      return next;
    }
  }

 private:
  static constexpr std::size_t most_settlements = 1024;
  static constexpr std::size_t most_settlement_bytes = 4u << 20;

  const Clock& clock() const noexcept { return *parts_.environment->clock; }

  std::optional<SteadyTime> turn(SteadyTime now) {
    const std::uint64_t given_back = parts_.settler.given_back();
    parts_.settler.collect(plan_.repeats_outcomes(now));
    const std::span<const Settlement> settlements =
        parts_.settler.batch(most_settlements, most_settlement_bytes);
    const bool alone = suspects_.step();
    Slots::Room room = taking_.load() && !alone ? parts_.pool.room() : Slots::Room{};
    // What is on its way back comes before anything that would be taken now. It leaves room, so this is
    // asked after that.
    const bool in_order = parts_.settler.may_take(given_back, settlements.size());
    if (!in_order) room = {};

    FetchPlan::Step step = plan_.next({.now = now,
                                       .free_workers = room.workers,
                                       .room = room.total,
                                       .outcomes = !settlements.empty()});
    switch (step.action) {
      case FetchPlan::Step::Action::exchange: return exchange(std::move(step.call), settlements);
      case FetchPlan::Step::Action::arm: return arm(step.all_queues);
      case FetchPlan::Step::Action::sleep: break;
    }
    if (!in_order) return parts_.settler.wakes_when_given_back() ? step.until : now;
    return alone ? earlier(step.until, suspects_.next_step()) : step.until;
  }

  std::optional<SteadyTime> exchange(FetchPlan::Call&& call,
                                     std::span<const Settlement> settlements) {
    parts_.settler.sent(settlements.size());
    ExchangeReply reply;
    SteadyTime arrived_at;
    try {
      reply = parts_.broker.exchange({.settlements = settlements,
                                      .quotas = call.quotas,
                                      .free_workers = call.free_workers,
                                      .lease = lease_,
                                      .token_block = call.token_block,
                                      .lost_takes = call.recalled});
      arrived_at = clock().steady_now();
      accept(reply, call.sent_at, arrived_at, call.free_workers);
    } catch (...) {
      plan_.lost(std::move(call));
      throw;
    }
    exchanges_.fetch_add(1, std::memory_order_relaxed);
    plan_.exchanged(call, reply, arrived_at);
    if (reply.settled.size() != settlements.size()) {
      throw Error{Errc::protocol, "exchange: the broker did not answer for each settlement"};
    }
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    plan_.settled(parts_.settler.report(reply.settled, arrived_at), call.sent_at);
    return call.sent_at;  // Look again: more may have piled up.
  }

  std::optional<SteadyTime> arm(bool all_queues) {
    const Watch::State state = all_queues ? watch_->arm() : watch_->rearm();
    const SteadyTime now = clock().steady_now();
    report_ = state.report;
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    return plan_.armed(state, now);
  }

  /// Registers the runs of a reply, and lets them wait for workers.
  void accept(ExchangeReply& reply, SteadyTime sent_at, SteadyTime arrived_at,
              std::size_t free_workers) {
    if (reply.runs.empty()) return;
    std::vector<RunPtr> runs;
    runs.reserve(reply.runs.size());
    // First what a worker is free for: were this process to die, the broker would take it for begun.
    const bool ahead = reply.runs.size() > free_workers;
    for (const bool later : {false, true}) {
      for (Run& run : reply.runs) {
        if ((ahead && run.begun == Begun::perhaps) != later) continue;
        runs.push_back(std::make_shared<RunState>(std::move(run), parts_.environment, sent_at,
                                                  reply.now, arrived_at));
        runs.back()->hold_until(sent_at + lease_);
      }
    }
    parts_.registry.add(runs);
    std::vector<RunPtr> suspects;
    try {
      end_cancelled(runs, arrived_at);
      const std::size_t taken = runs.size();
      suspects = suspects_.take_out(runs);
      if (!parts_.pool.ready().push(runs)) parts_.settler.give_back_unstarted(runs);
      taken_.fetch_add(taken, std::memory_order_relaxed);
      parts_.runs_arrived();
      if (suspects.empty()) return;
      // The others wait for no broker.
      std::vector<RunPtr> begun = suspects_.begin(suspects);
      if (!parts_.pool.ready().push_first(begun)) parts_.settler.give_back_unstarted(begun);
    } catch (...) {
      // Out of memory: they are nobody's again, and must not be extended for ever.
      parts_.registry.remove(runs);
      parts_.registry.remove(suspects);
      throw;
    }
    parts_.runs_arrived();
  }

  /// Ends those whose cancellation was asked for before they were given back the last time.
  void end_cancelled(std::vector<RunPtr>& runs, SteadyTime now) {
    std::erase_if(runs, [&](const RunPtr& run) {
      if (!run->run().cancel) return false;
      parts_.settler.cancel(run, *run->run().cancel, now);
      return true;
    });
  }

  const Parts parts_;
  FetchPlan plan_;
  std::uint64_t report_ = 0;  ///< The number of the watch's last report.
  const Duration lease_;
  Suspects suspects_;
  std::unique_ptr<Watch> watch_;
  HintedQueues hinted_queues_;
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<std::uint64_t> exchanges_{0};
  std::atomic<bool> taking_{true};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
