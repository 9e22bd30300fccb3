#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
#include "taskmux/detail/run/judge.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/run/run_registry.hpp"
#include "taskmux/detail/run/settlement.hpp"
#include "taskmux/serve_mux.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// What a Settler counts. Relaxed: each is a figure on its own.
struct SettlerCounts {
  std::array<std::atomic<std::uint64_t>, 6> by_action{};  ///< Applied, by SettleAction.
  std::atomic<std::uint64_t> stale{0};
  std::atomic<std::uint64_t> rejected{0};
  std::atomic<std::uint64_t> recovered{0};

  std::uint64_t of(SettleAction action) const noexcept {
    return by_action[static_cast<std::size_t>(action)].load(std::memory_order_relaxed);
  }
};

/// Ended runs, each with its settlement, in the order in which they came. The settlements are
/// contiguous, as an exchange takes them. A call that throws std::bad_alloc has changed nothing.
/// Not thread-safe.
class EndedRuns {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Origin {
    RunPtr run;              ///< Null if it was taken over from a lost worker.
    SteadyTime lease_until;  ///< See RunState; for those that were taken over.
    bool repeated = false;   ///< It was sent before, and what became of it is not known.
    std::string_view pattern{};  ///< Of the route; for those that were taken over.

    bool held_at(SteadyTime instant) const noexcept {
      return instant < (run ? run->lease_until() : lease_until);
    }
  };

  std::size_t size() const noexcept { return origins_.size(); }
  std::span<const Settlement> settlements() const noexcept { return settlements_; }
  Settlement& settlement(std::size_t i) noexcept { return settlements_[i]; }
  Origin& origin(std::size_t i) noexcept { return origins_[i]; }

  /// Makes room for `more`, so that the next calls to add() can't fail.
  void reserve(std::size_t more) {
    const std::size_t needed = origins_.size() + more;
    const std::size_t wanted = std::max(needed, 2 * origins_.size());
    if (settlements_.capacity() < needed) settlements_.reserve(wanted);
    if (origins_.capacity() < needed) origins_.reserve(wanted);
  }

  void add(Settlement&& settlement, Origin&& origin) {
    reserve(1);
    settlements_.push_back(std::move(settlement));
    origins_.push_back(std::move(origin));
  }

  /// Moves all of `other` to the end.
  void append(EndedRuns& other) {
    if (origins_.empty()) {
      settlements_.swap(other.settlements_);
      origins_.swap(other.origins_);
      return;
    }
    reserve(other.size());
    for (std::size_t i = 0; i < other.size(); ++i) other.move_to(*this, i);
    other.settlements_.clear();
    other.origins_.clear();
  }

  /// Moves the one at `i` to the end of `to`, and leaves an empty one.
  void move_to(EndedRuns& to, std::size_t i) {
    to.add(std::move(settlements_[i]), std::move(origins_[i]));
  }

  void erase_first(std::size_t count) {
    const auto n = static_cast<std::ptrdiff_t>(count);
    settlements_.erase(settlements_.begin(), settlements_.begin() + n);
    origins_.erase(origins_.begin(), origins_.begin() + n);
  }

 private:
  std::vector<Settlement> settlements_;
  std::vector<Origin> origins_;
};

/// Where outcomes become settlements and wait for the next exchange. Any thread hands runs in; one
/// thread, the exchanging one, collects them and reports back what the broker said.
class Settler {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Rules {
    RetryPolicy retry_policy;
    std::function<bool(const FailedAttempt&)> is_failure;
    int max_crashes = 3;
    std::shared_ptr<const ServeMux> mux;  ///< For the types' own policies.
  };

  /// Tells `events` of each run that was handed in (exchange_due()) and of each settlement that the
  /// broker applied (settled()).
  Settler(Rules rules, RunRegistry& registry, const Logger& logger, EngineEvents& events)
      : rules_{std::move(rules)}, registry_{registry}, logger_{logger}, events_{events} {}

  /// A run has ended with `outcome`. `random` in [0, 1) feeds the retry policy.
  void finish(RunPtr run, const Outcome& outcome, double random) {
    const TaskMessage& message = run->message();
    if (run->route().handler == nullptr) run->set_route(route_of(message.task.type));
    Verdict verdict = judge(message, outcome, run->stop_reason(), run->cancel_mode(),
                            rules_for(run->route(), random));
    put(std::move(run), std::move(verdict));
  }

  /// A run that was withdrawn before it was started runs again after `delay`; nothing is counted,
  /// and its crashes stay.
  void put_off(RunPtr run, Duration delay) {
    put(std::move(run), Verdict{.action = SettleAction::snooze,
                                .delay = bounded_delay(delay),
                                .attempt = Attempt::not_begun});
  }

  /// A run goes back into its queue, first in line: it was not started, or the server ends.
  void give_back(RunPtr run) { put(std::move(run), Verdict{.action = SettleAction::give_back}); }

  /// The same for runs, oldest first, that no worker has begun meanwhile; the oldest ends up first
  /// in line. Returns how many. They reach the broker together. If it throws for lack of memory,
  /// their leases end.
  std::size_t give_back_unstarted(std::span<const RunPtr> runs) {
    std::size_t count = 0;
    try {
      MutexLock lock{mutex_};
      arrivals_.reserve(runs.size());
      for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
        Settlement settlement =
            settlement_of((*run)->run(), Verdict{.action = SettleAction::give_back});
        if (!(*run)->withdraw()) continue;
        arrivals_.add(std::move(settlement), {.run = *run, .lease_until = {}});
        unsettled_.fetch_add(1, std::memory_order_relaxed);
        ++count;
      }
    } catch (...) {
      registry_.remove(runs);
      throw;
    }
    if (count > 0) events_.exchange_due();
    return count;
  }

  /// Gives back those that `take_out` takes from where they wait, oldest first. Until that is done,
  /// nothing is to be taken (see may_take()): it would be begun before them.
  template <typename TakeOut>
  std::size_t give_back_from(TakeOut take_out) {
    giving_back_.fetch_add(1);
    const struct Done {
      Settler& settler;
      ~Done() { settler.end_giving_back(); }
    } done{*this};
    const std::vector<RunPtr> runs = take_out();
    return runs.empty() ? 0 : give_back_unstarted(runs);
  }

  /// A run that was asked to be cancelled: if no worker has begun it, it ends so; else its handler
  /// is asked to stop.
  void cancel(const RunPtr& run, CancelMode mode, SteadyTime now) {
    run->set_cancel_mode(mode);
    run->request_stop(StopReason::cancelled, now);
    if (run->withdraw())
      finish(run, Outcome::fail("cancelled"), 0.5);
  }

  /// A lost run that was taken over, together with others if `several`, and is held until
  /// `lease_until`: decides what becomes of its task.
  void settle_lost(const Run& run, bool several, double random, SteadyTime lease_until) {
    const TaskRoute route = route_of(run.message->task.type);
    Verdict verdict = judge_lost(run, several, rules_for(route, random));
    complain(*run.message, verdict);
    push(settlement_of(run, std::move(verdict)),
         {.run = nullptr, .lease_until = lease_until, .pattern = route.pattern});
  }

  /// Runs handed in and not yet known to be settled. Thread-safe.
  std::size_t unsettled() const noexcept { return unsettled_.load(std::memory_order_relaxed); }

  const SettlerCounts& counts() const noexcept { return counts_; }

  // The rest is for the exchanging thread alone.

  /// Takes in what has been handed in since, and what is to be repeated if `repeat`.
  void collect(bool repeat = true) TASKMUX_EXCLUDES(mutex_) {
    if (repeat) waiting_.append(unknown_);
    MutexLock lock{mutex_};
    waiting_.append(arrivals_);
  }

  /// Whether the next exchange may take tasks, as far as what is given back is concerned: all of
  /// that is in its batch, if `before` is what given_back() was before the last collect().
  bool may_take(std::uint64_t before, std::size_t batch) const noexcept {
    if (giving_back_.load() != 0 || given_back_.load() != before) return false;
    const std::span<const Settlement> later = waiting_.settlements().subspan(batch);
    return std::none_of(later.begin(), later.end(), [](const Settlement& each) {
      return each.action == SettleAction::give_back;
    });
  }
  std::uint64_t given_back() const noexcept { return given_back_.load(); }

  /// Whether runs are being given back at this moment; then the exchanging thread is woken when
  /// that is done.
  bool wakes_when_given_back() noexcept {
    awaits_given_back_.store(true);  // Before the look, so that one of the two sees the other.
    return giving_back_.load() != 0;
  }

  /// What the next exchange is to settle: the oldest, `limit` at most, and of about `most_bytes`
  /// together unless one alone is larger. Valid until report().
  std::span<const Settlement> batch(
      std::size_t limit, std::size_t most_bytes = static_cast<std::size_t>(-1)) const noexcept {
    const std::span<const Settlement> all = waiting_.settlements();
    limit = std::min(limit, all.size());
    std::size_t count = 0;
    while (count < limit) {
      const std::size_t bytes = bytes_of(all[count]);
      if (count > 0 && bytes > most_bytes) break;
      most_bytes -= std::min(bytes, most_bytes);
      ++count;
    }
    return all.first(count);
  }

  /// The first `count` of the batch are being sent. Until they are reported on, they may have been
  /// carried out, even if the call throws.
  void sent(std::size_t count) noexcept {
    count = std::min(count, waiting_.size());
    const std::size_t again = std::min(in_flight_, count);
    for (std::size_t i = 0; i < again; ++i) waiting_.origin(i).repeated = true;
    in_flight_ = std::max(in_flight_, count);
  }

  /// Takes note of what became of the batch, in its order, as a reply said that came at
  /// `arrived_at`. Keeps what is unknown, to be repeated; returns whether there was any. What the
  /// broker did not try is first in the next batch. So is what was too large for it, without its
  /// result, and what it rejected: as a last resort, the task is archived. If the broker rejects
  /// that too, it is dropped.
  bool report(std::span<const SettleReply> replies, SteadyTime arrived_at) {
    const std::size_t count = std::min(replies.size(), waiting_.size());
    replies = replies.first(count);
    std::vector<SettleReply> lessened;
    if (contains(replies, SettleStatus::too_large) || contains(replies, SettleStatus::rejected))
      replies = lessened = lessen(replies);
    EndedRuns kept;
    if (contains(replies, SettleStatus::later)) kept.reserve(waiting_.size());
    ended_.reserve(count);
    unknown_.reserve(count);  // Nothing below fails: each is counted once, and leaves the registry.
    for (std::size_t i = 0; i < count; ++i) {
      EndedRuns::Origin& origin = waiting_.origin(i);
      if (replies[i].status == SettleStatus::unknown) {
        origin.repeated = true;
        waiting_.move_to(unknown_, i);
      } else if (replies[i].status == SettleStatus::later) {
        waiting_.move_to(kept, i);
      } else {
        note(waiting_.settlements()[i], origin, replies[i], arrived_at);
        ended_.push_back(std::move(origin.run));
      }
    }
    registry_.remove(ended_);
    const std::size_t known = ended_.size();
    ended_.clear();
    unsettled_.fetch_sub(known, std::memory_order_relaxed);
    waiting_.erase_first(count);
    in_flight_ -= std::min(in_flight_, count);
    const std::size_t unknown = count - known - kept.size();
    if (kept.size() > 0) {
      if (in_flight_ > 0) in_flight_ += kept.size();  // They are before those now.
      kept.append(waiting_);
      std::swap(kept, waiting_);
    }
    return unknown > 0;
  }

 private:
  static bool contains(std::span<const SettleReply> replies, SettleStatus wanted) noexcept {
    return std::any_of(replies.begin(), replies.end(),
                       [&](const SettleReply& reply) { return reply.status == wanted; });
  }

  /// Makes settlements smaller so that they can be tried again: those that are too large for the
  /// broker lose their results, and those that it rejected become a last resort. A settlement that
  /// can't be made smaller is unknown, or stays rejected.
  std::vector<SettleReply> lessen(std::span<const SettleReply> replies) {
    std::vector<SettleReply> lessened{replies.begin(), replies.end()};
    for (std::size_t i = 0; i < lessened.size(); ++i) {
      SettleReply& reply = lessened[i];
      Settlement& settlement = waiting_.settlement(i);
      if (reply.status == SettleStatus::too_large) {
        reply.status = SettleStatus::unknown;
        if (!settlement.result) continue;
        settlement = without_result(std::move(settlement));
        waiting_.origin(i).repeated = true;
      } else if (reply.status == SettleStatus::rejected && !settlement.last_resort &&
                 settlement.run.message) {
        settlement = last_resort(std::move(settlement), cause_of(reply));
        counts_.rejected.fetch_add(1, std::memory_order_relaxed);
      } else {
        continue;
      }
      reply.status = SettleStatus::later;
      logger_(about(*settlement.run.message, LogLevel::error, settlement.error));
    }
    return lessened;
  }

  static std::string cause_of(const SettleReply& reply) {
    if (!reply.detail.empty()) return reply.detail;
    return std::string{to_string(reply.error.value_or(Errc::protocol))};
  }

  void end_giving_back() noexcept {
    given_back_.fetch_add(1);
    giving_back_.fetch_sub(1);
    if (awaits_given_back_.exchange(false)) events_.exchange_due();
  }

  TaskRoute route_of(std::string_view type) const {
    return rules_.mux ? rules_.mux->route(type) : TaskRoute{};
  }

  std::string_view pattern_of(const Settlement& settlement, const EndedRuns::Origin& origin) const {
    if (!origin.run) return origin.pattern;
    const TaskRoute& route = origin.run->route();
    if (route.handler != nullptr) return route.pattern;
    return route_of(settlement.run.message->task.type).pattern;  // It was given back unstarted.
  }

  /// Those for a failure of a task of that route.
  JudgeRules rules_for(const TaskRoute& route, double random) const {
    return {route.retry_policy != nullptr ? *route.retry_policy : rules_.retry_policy,
            rules_.is_failure, random, rules_.max_crashes};
  }

  void complain(const TaskMessage& message, const Verdict& verdict) const {
    if (!verdict.complaint.empty()) logger_(about(message, LogLevel::error, verdict.complaint));
  }

  void put(RunPtr&& run, Verdict&& verdict) {
    complain(run->message(), verdict);
    Settlement settlement = settlement_of(run->run(), std::move(verdict), run->take_result());
    push(std::move(settlement), {.run = std::move(run), .lease_until = {}});
  }

  void push(Settlement&& settlement, EndedRuns::Origin&& origin) TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      arrivals_.add(std::move(settlement), std::move(origin));
      unsettled_.fetch_add(1, std::memory_order_relaxed);
    }
    events_.exchange_due();
  }

  /// Counts and logs what became of a run, and passes it on. If memory runs out, the log line or
  /// event is dropped.
  void note(const Settlement& settlement, const EndedRuns::Origin& origin, const SettleReply& reply,
            SteadyTime arrived_at) noexcept {
    const bool rejected = reply.status == SettleStatus::rejected;
    // While the lease of the run held, nobody else could have it: only an earlier try of this
    // settlement, whose reply was lost, can have ended it.
    const bool applied =
        reply.status == SettleStatus::applied ||
        (reply.status == SettleStatus::stale && origin.repeated && origin.held_at(arrived_at));
    if (applied) {
      counts_.by_action[static_cast<std::size_t>(settlement.action)].fetch_add(
          1, std::memory_order_relaxed);
      if (!origin.run) counts_.recovered.fetch_add(1, std::memory_order_relaxed);
    } else if (rejected) {
      // It was counted when its first settlement was rejected.
    } else if (settlement.action != SettleAction::give_back) {
      counts_.stale.fetch_add(1, std::memory_order_relaxed);
    }
    try {
      if (rejected) return tell_rejected(settlement, reply);
      if (!applied) return tell_stale(settlement, origin.repeated);
      tell(settlement, origin.run.get());
      if (!events_.wants_settled()) return;
      events_.settled(settlement, origin.run.get(), pattern_of(settlement, origin));
    } catch (...) {
      log_exception(logger_, "the end of a run could not be reported");
    }
  }

  /// Logs that the broker can't record an outcome, not even that the task is archived.
  void tell_rejected(const Settlement& settlement, const SettleReply& reply) const {
    logger_(about(*settlement.run.message, LogLevel::error,
                  "outcome dropped: the broker can't record it: " + cause_of(reply)));
  }

  /// Logs that a run was no longer this server's. One that could not be given back does no harm:
  /// debug.
  void tell_stale(const Settlement& settlement, bool repeated) const {
    const bool given_back = settlement.action == SettleAction::give_back;
    const LogLevel level = given_back ? LogLevel::debug : LogLevel::warning;
    if (!logger_.enabled(level)) return;
    std::string text = given_back ? "not given back: " : "outcome dropped: ";
    text += "this server no longer owns the run";
    if (repeated) text += "; an earlier attempt, whose reply was lost, may have recorded it";
    logger_(about(*settlement.run.message, level, text));
  }

  /// Logs how a run ended. What has gone wrong is a warning; what the application does not count as
  /// a failure is not.
  static LogLevel level_of(const Settlement& settlement) noexcept {
    if (settlement.action == SettleAction::archive || settlement.attempt == Attempt::crashed)
      return LogLevel::warning;
    if (settlement.action != SettleAction::retry) return LogLevel::debug;
    return settlement.attempt == Attempt::counts ? LogLevel::warning : LogLevel::info;
  }

  void tell(const Settlement& settlement, const RunState* run) const {
    const LogLevel level = level_of(settlement);
    if (!logger_.enabled(level)) return;
    const auto delay = std::chrono::floor<std::chrono::milliseconds>(settlement.delay);
    std::string text;
    switch (settlement.action) {
      case SettleAction::archive: text = "archived: " + settlement.error; break;
      case SettleAction::retry:
        text = "will be retried in " + in_words(delay) + ": " + settlement.error;
        break;
      case SettleAction::complete: text = "succeeded"; break;
      case SettleAction::remove: text = "revoked"; break;
      case SettleAction::give_back: text = "given back to its queue"; break;
      case SettleAction::snooze: text = "runs again in " + in_words(delay); break;
    }
    if (level == LogLevel::debug && run != nullptr && run->ended_at() != SteadyTime::max()) {
      const auto ran =
          std::chrono::floor<std::chrono::milliseconds>(run->ended_at() - run->started_at());
      text += ", ran for " + in_words(ran);
    }
    logger_(about(*settlement.run.message, level, text));
  }

  const Rules rules_;
  RunRegistry& registry_;
  const Logger& logger_;
  EngineEvents& events_;
  SettlerCounts counts_;
  std::atomic<std::size_t> unsettled_{0};
  std::atomic<int> giving_back_{0};
  std::atomic<bool> awaits_given_back_{false};
  std::atomic<std::uint64_t> given_back_{0};  ///< How often that was done.

  // Of the exchanging thread.
  EndedRuns waiting_;
  EndedRuns unknown_;          ///< The broker does not know what became of them.
  std::vector<RunPtr> ended_;  ///< Of report(), so that it allocates nothing.
  std::size_t in_flight_ = 0;  ///< The first of `waiting_`, which were sent and not reported on.

  Mutex mutex_;
  EndedRuns arrivals_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
