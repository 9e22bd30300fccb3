#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/queue_picker.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/engine/suspects.hpp"
#include "taskmux/detail/engine/worker_pool.hpp"
#include "taskmux/detail/run/run_registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Waits longer after each failure, from 50 ms to 300 ms, spread at random so that a fleet does not
/// come back at one instant. No longer, as a server works again within a second of its broker: a broker
/// that can't be reached has to make calls cheap by itself.
class Backoff {
 public:
  explicit Backoff(Random& random) : random_{random} {}

  Duration next() noexcept {
    const Duration step = current_;
    current_ = std::min<Duration>(current_ * 2, std::chrono::milliseconds{300});
    return std::chrono::duration_cast<Duration>(step * (0.5 + random_.unit()));
  }
  void reset() noexcept { current_ = first; }

 private:
  static constexpr Duration first = std::chrono::milliseconds{50};
  Random& random_;
  Duration current_ = first;
};

/// What hints have told since the last look at them. Thread-safe.
class HintedQueues {
 public:
  struct News {
    /// Whether there was a hint that the report of `take` did not include.
    bool any = false;
    /// The queues that were named; nullopt for all.
    std::optional<std::vector<std::string>> queues{};
  };

  /// Something may be ready in `queue`, in any if that is empty; see Hint::report.
  void add(std::string_view queue, std::uint64_t report) noexcept TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    newest_ = std::max(newest_, report == 0 ? unnumbered : report);
    if (all_) return;
    try {
      if (queue.empty() || names_.size() == most) {
        all_ = true;
      } else if (std::find(names_.begin(), names_.end(), queue) == names_.end()) {
        names_.emplace_back(queue);
      }
    } catch (...) {
      all_ = true;
    }
  }

  /// Returns what was told, and forgets it. `report` is the number of the caller's last report.
  News take(std::uint64_t report) noexcept TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    News news;
    const std::uint64_t newest = std::exchange(newest_, 0);
    news.any = newest != 0 && newest >= report;
    if (std::exchange(all_, false)) {
      names_.clear();
    } else {
      news.queues = std::exchange(names_, {});
    }
    return news;
  }

 private:
  static constexpr std::size_t most = 8;
  static constexpr std::uint64_t unnumbered = std::numeric_limits<std::uint64_t>::max();

  Mutex mutex_;
  std::uint64_t newest_ TASKMUX_GUARDED_BY(mutex_) = 0;  ///< Report of a hint; 0 without a hint.
  std::vector<std::string> names_ TASKMUX_GUARDED_BY(mutex_);
  bool all_ TASKMUX_GUARDED_BY(mutex_) = false;
};

/// The exchanging role: carries outcomes to the broker and runs back, in one call, whenever there
/// is something to carry or room for more. While one call is under way, outcomes and free workers
/// pile up; the next carries them all. Asks only when something may be ready, and otherwise sleeps
/// on the watch's hint or until the next task is due. If the reply of a call is lost, what it took is
/// given back by the next one, before anything else is taken from those queues; and again for as
/// long as a server that was stuck may still carry the call out.
///
/// While the watch is armed, all queues are known to be empty but for those that a hint names: only
/// these are looked at, for a few calls, so that a lone task costs no look at each of many queues. The
/// first hint ends the watch's knowledge of the others, so that holds for a moment only, and not once
/// all workers are busy: the next to be free must get what comes first by priority.
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

  Fetcher(Parts parts, QueuePicker picker, Duration lease, int max_crashes = 3)
      : parts_{std::move(parts)},
        picker_{std::move(picker)},
        lease_{lease},
        suspects_{
            {parts_.broker, parts_.settler, parts_.registry, parts_.pool, parts_.environment},
            lease,
            max_crashes} {}

  /// Before the first turn. The watch must be one whose hints reach hint().
  void set_watch(std::unique_ptr<Watch> watch) { watch_ = std::move(watch); }
  /// After the last turn: no hint comes after this.
  void drop_watch() { watch_.reset(); }

  // From any thread; the fetcher must be woken afterwards.
  /// Something may be ready in `queue`, in any if that is empty; see Hint::report.
  void hint(std::string_view queue = {}, std::uint64_t report = 0) noexcept {
    hinted_queues_.add(queue, report);
    hinted_.store(true, std::memory_order_release);
  }
  void stop_taking() noexcept { taking_.store(false); }
  /// Also gives back what waits for a worker, and what a call under way still brings: no worker gets
  /// a run after this. Any thread; no waking needed.
  void close() {
    taking_.store(false);
    suspects_.close();
    parts_.settler.give_back_from([this] { return parts_.pool.ready().seal(); });
  }

  /// Whether a call whose reply was lost may have taken tasks that were not given back. Of the
  /// exchanging thread.
  bool owes() const noexcept { return !lost_.empty(); }

  /// Whether a suspect waits to run alone, or does: nothing is taken. Any thread.
  bool alone() const { return suspects_.keeps_one(); }
  std::uint64_t taken() const noexcept { return taken_.load(std::memory_order_relaxed); }
  std::uint64_t exchanges() const noexcept { return exchanges_.load(std::memory_order_relaxed); }

  /// One turn: at most one exchange. Returns when the next one is due.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = clock().steady_now();
    if (now < not_before_) return not_before_;
    if (hinted_.exchange(false, std::memory_order_acq_rel)) {
      HintedQueues::News news = hinted_queues_.take(report_);
      // A hint may arrive late: after a look has found what it tells of, and after the watch was armed
      // anew. It tells nothing then, and to look for it would be a look in vain, with a pause after it.
      if (news.any) {
        maybe_ready_ = true;
        if (std::exchange(armed_, false)) narrow_until_ = now + longest_narrow;
        heed(std::move(news.queues));
      }
    }
    if (!armed_ && now >= narrow_until_) only_.reset();
    if (due_ && now >= *due_) {
      maybe_ready_ = true;
      only_.reset();
      due_came_ = true;
      due_.reset();
    }
    try {
      return turn(now);
    } catch (const std::exception& e) {
      parts_.health.broker_failed(HealthMonitor::Role::exchange, e.what());
      look_everywhere();
      return wait_for(now, backoff_.next());
    }
  }

 private:
  static constexpr std::size_t most_settlements = 1024;
  static constexpr std::size_t most_settlement_bytes = 4u << 20;
  static constexpr std::size_t most_runs = 1024;
  /// How often a call that may come late is named again.
  static constexpr Duration recall_interval = std::chrono::milliseconds{500};
  /// One that takes a lone task, and one that settles it.
  static constexpr int most_narrow_looks = 2;
  static constexpr Duration longest_narrow = std::chrono::milliseconds{100};
  static constexpr Duration first_longest_pause = std::chrono::milliseconds{20};

  /// A call whose reply was lost.
  struct Lost {
    LostTake take;
    SteadyTime sent_at;
  };

  void look_everywhere() noexcept {
    maybe_ready_ = true;
    must_arm_all_ = true;
    armed_ = false;
    only_.reset();
  }

  void heed(std::optional<std::vector<std::string>> queues) noexcept {
    if (!queues) only_.reset();
    if (!only_) return;
    try {
      for (std::string& queue : *queues) only_->push_back(std::move(queue));
    } catch (...) {
      only_.reset();  // Out of memory: a hint must not be lost.
    }
  }

  bool looks_at(const std::string& queue) const noexcept {
    return !only_ || std::find(only_->begin(), only_->end(), queue) != only_->end();
  }

  bool owes(const std::string& queue) const noexcept {
    return std::any_of(lost_.begin(), lost_.end(), [&](const Lost& lost) {
      const std::vector<std::string>& queues = lost.take.queues;
      return !lost.take.answered &&
             std::find(queues.begin(), queues.end(), queue) != queues.end();
    });
  }

  const Clock& clock() const noexcept { return *parts_.environment->clock; }

  std::optional<SteadyTime> wait_for(SteadyTime now, Duration pause) {
    not_before_ = now + pause;
    return not_before_;
  }

  std::optional<SteadyTime> turn(SteadyTime now) {
    const bool repeat = repeat_at_ && now >= *repeat_at_;
    if (repeat) repeat_at_.reset();
    const std::uint64_t given_back = parts_.settler.given_back();
    parts_.settler.collect(repeat);
    const std::span<const Settlement> settlements =
        parts_.settler.batch(most_settlements, most_settlement_bytes);
    const bool alone = suspects_.step();
    WorkerPool::Room room = taking_.load() && !alone ? parts_.pool.room() : WorkerPool::Room{};
    // What is on its way back comes before anything that would be taken now.
    const bool in_order = parts_.settler.may_take(given_back, settlements.size());
    if (!in_order) room = {};
    if (room.workers > 0) blocked_ = false;
    const bool may_look = maybe_ready_ && now >= look_after_;
    const bool take = room.total > 0 && !blocked_ && (may_look || !settlements.empty());
    const bool recall = recall_at_ && now >= *recall_at_;
    const std::vector<QueueQuota> quotas = take ? share(room.total) : std::vector<QueueQuota>{};
    if (!quotas.empty() || recall || !settlements.empty())
      return exchange(now, settlements, quotas, room.workers, recall);
    std::optional<SteadyTime> next = earlier(repeat_at_, recall_at_);
    if (!in_order) return parts_.settler.wakes_when_given_back() ? next : now;
    if (alone) return earlier(next, suspects_.next_step());
    // Until a worker is free again, or a queue has given back what it owes.
    if (room.total == 0 || blocked_ || (take && !lost_.empty())) return next;
    if (now < look_after_) return earlier(next, look_after_);
    return armed_ ? earlier(due_, next) : arm(now, next);
  }

  std::optional<SteadyTime> exchange(SteadyTime now, std::span<const Settlement> settlements,
                                     std::span<const QueueQuota> quotas, std::size_t free_workers,
                                     bool recall) {
    std::vector<LostTake> recalled;
    if (recall) recalled = calls_to_recall(now);
    const std::uint64_t block = next_block();
    parts_.settler.sent(settlements.size());
    ExchangeReply reply;
    SteadyTime arrived_at;
    try {
      reply = parts_.broker.exchange({.settlements = settlements,
                                      .quotas = quotas,
                                      .free_workers = free_workers,
                                      .lease = lease_,
                                      .token_block = block,
                                      .lost_takes = recalled});
      arrived_at = clock().steady_now();
      accept(reply, now, arrived_at, free_workers);
    } catch (...) {
      lose(block, quotas, now);
      throw;
    }
    exchanges_.fetch_add(1, std::memory_order_relaxed);
    if (recall || !reply.lost_takes.empty()) note_lost(reply.lost_takes, block, now, recall);
    if (reply.settled.size() != settlements.size()) {
      throw Error{Errc::protocol, "exchange: the broker did not answer for each settlement"};
    }
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    const bool unknown = parts_.settler.report(reply.settled, arrived_at);
    if (!quotas.empty()) {
      const std::optional<SteadyTime> of_others = only_ ? due_ : std::nullopt;
      note_due(arrived_at, reply.now, reply.next_due);
      due_ = earlier(due_, of_others);
      const std::size_t taken = reply.runs.size();
      if (only_ && (taken >= wanted_of(quotas) || --narrow_looks_ == 0)) only_.reset();
      const bool vain = maybe_ready_ && taken == 0 && !reply.more;
      maybe_ready_ = reply.more || taken >= wanted_of(quotas);
      blocked_ = reply.more && taken == 0 && free_workers == 0;
      // Another server was faster. A fleet that is woken by one task must not rush back all at once.
      // But a hint may be of what this server did itself: no task that will be due waits for that.
      if (taken > 0) longest_pause_ = first_longest_pause;
      if (vain && woken_) {
        look_after_ = now + pause_after_vain_wake(now);
        if (!due_came_ && due_) look_after_ = std::min(look_after_, *due_);
      }
      // The watch was not to tell of what is due later than that time, which has come to nothing: the
      // task was removed, perhaps.
      if (vain && due_came_) armed_ = false;
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

  static std::size_t wanted_of(std::span<const QueueQuota> quotas) noexcept {
    std::size_t wanted = 0;
    for (const QueueQuota& quota : quotas) wanted += quota.count;
    return wanted;
  }

  /// How many to take of each queue: none of one that may owe tasks of a lost call, so that those
  /// come first, nor of one that is known to be empty.
  std::vector<QueueQuota> share(std::size_t room) {
    if (only_ && only_->empty()) return {};
    std::vector<QueueQuota> quotas = picker_.share(std::min(room, most_runs));
    if (lost_.empty() && !only_) return quotas;
    std::size_t left_over = 0;
    std::erase_if(quotas, [&](const QueueQuota& quota) {
      if (looks_at(quota.queue) && !owes(quota.queue)) return false;
      left_over += quota.count;
      return true;
    });
    if (!quotas.empty()) quotas.front().count += left_over;
    return quotas;
  }

  std::uint64_t next_block() noexcept {
    do {
      block_ = (block_ + 1) & 0xffff'ffff'ffff;
    } while (block_ == 0);
    return block_;
  }

  std::vector<LostTake> calls_to_recall(SteadyTime now) const {
    std::vector<LostTake> calls;
    for (const Lost& lost : lost_) {
      calls.push_back(lost.take);
      calls.back().age = std::chrono::duration_cast<Duration>(now - lost.sent_at);
    }
    return calls;
  }

  /// The reply of a call that was sent at `sent_at` did not come, or could not be kept.
  void lose(std::uint64_t block, std::span<const QueueQuota> quotas, SteadyTime sent_at) {
    if (quotas.empty()) return;
    Lost& lost = lost_.emplace_back(Lost{{.token_block = block}, sent_at});
    for (const QueueQuota& quota : quotas) lost.take.queues.push_back(quota.queue);
    recall_at_ = sent_at;
  }

  /// What a reply says of lost calls: of this one, `block`, and, if `recalled`, of the earlier ones.
  void note_lost(std::span<const LostTake> takes, std::uint64_t block, SteadyTime now,
                 bool recalled) {
    std::vector<Lost> open;
    if (!recalled) open = lost_;
    bool own = false;
    for (const LostTake& take : takes) {
      if (take.token_block == block) {
        open.push_back({take, now});
        own = true;
      } else {
        for (const Lost& lost : lost_) {
          if (lost.take.token_block != take.token_block) continue;
          open.push_back({take, lost.sent_at});
          break;
        }
      }
    }
    lost_ = std::move(open);
    if (lost_.empty()) {
      recall_at_.reset();
    } else if (own) {
      recall_at_ = now;
    } else if (recalled) {
      recall_at_ = now + recall_interval;
    }
    if (recalled) look_everywhere();
  }

  std::optional<SteadyTime> arm(SteadyTime now, std::optional<SteadyTime> next) {
    const bool all = std::exchange(must_arm_all_, true);
    const Watch::State state = all ? watch_->arm() : watch_->rearm();
    must_arm_all_ = false;
    parts_.health.broker_answered(HealthMonitor::Role::exchange);
    if (!repeat_at_) backoff_.reset();
    note_due(clock().steady_now(), state.now, state.next_due);
    armed_ = !state.ready;
    report_ = state.report;
    armed_at_ = clock().steady_now();
    only_.reset();
    if (!state.ready) {
      only_.emplace();
      narrow_looks_ = most_narrow_looks;
      woken_ = true;  // What ends this sleep is a hint or the time.
      return earlier(due_, next);
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
      // First what a worker is free for: were this process to die, the broker would take it for begun.
      std::stable_partition(reply.runs.begin(), reply.runs.end(), [](const Run& run) {
        return run.begun != Begun::perhaps;
      });
    }
    std::vector<RunPtr> runs;
    runs.reserve(reply.runs.size());
    for (Run& run : reply.runs) {
      runs.push_back(std::make_shared<RunState>(std::move(run), parts_.environment, sent_at,
                                                reply.now, arrived_at));
      runs.back()->hold_until(sent_at + lease_);
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

  /// At random. Hints that follow one another and tell of nothing, whatever their source, double the
  /// pause; those that come after a longer sleep do not.
  Duration pause_after_vain_wake(SteadyTime now) noexcept {
    if (now - armed_at_ > longest_pause_) longest_pause_ = first_longest_pause;
    const Duration pause{500 + static_cast<Duration::rep>(random_.below(
                                   static_cast<std::uint64_t>(longest_pause_.count()) - 500))};
    longest_pause_ = std::min<Duration>(2 * longest_pause_, std::chrono::milliseconds{500});
    return pause;
  }

  const Parts parts_;
  QueuePicker picker_;
  const Duration lease_;
  Suspects suspects_;
  std::unique_ptr<Watch> watch_;
  HintedQueues hinted_queues_;
  std::atomic<std::uint64_t> taken_{0};
  std::atomic<std::uint64_t> exchanges_{0};
  std::atomic<bool> hinted_{false};
  std::atomic<bool> taking_{true};

  // Of the exchanging thread.
  Random random_;
  Backoff backoff_{random_};
  std::uint64_t report_ = 0;  ///< The number of the watch's last report.
  /// The queues that need to be looked at; the others were empty when the watch was armed. Unset:
  /// all.
  std::optional<std::vector<std::string>> only_;
  SteadyTime narrow_until_{};   ///< From then on, at all of them.
  SteadyTime armed_at_{};
  Duration longest_pause_ = first_longest_pause;
  std::optional<SteadyTime> due_;
  SteadyTime not_before_{SteadyTime::min()};  ///< After an error: no call at all.
  SteadyTime look_after_{
      SteadyTime::min()};                ///< After a vain wake: outcomes go, nothing is looked for.
  std::optional<SteadyTime> repeat_at_;  ///< When to repeat what the broker does not know of.
  std::uint64_t block_ = random_.bits();  ///< Of the tokens of the last call.
  std::vector<Lost> lost_;
  std::optional<SteadyTime> recall_at_;  ///< When to name them next.
  int narrow_looks_ = 0;      ///< Looks left at the queues of only_; then at all of them.
  bool maybe_ready_ = true;   ///< Something may be ready in a queue.
  bool blocked_ = false;      ///< What is ready may not be taken ahead of a free worker.
  bool armed_ = false;        ///< The watch will hint when that changes.
  bool must_arm_all_ = true;  ///< The watch's knowledge of the queues is not to be relied on.
  bool woken_ = false;        ///< This turn follows a sleep.
  bool due_came_ = false;     ///< A task was to be due since the last look.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
