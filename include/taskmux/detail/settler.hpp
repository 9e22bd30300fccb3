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
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/error_text.hpp"
#include "taskmux/detail/judge.hpp"
#include "taskmux/detail/mutex.hpp"
#include "taskmux/detail/run_registry.hpp"
#include "taskmux/serve_mux.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// What a Settler counts. Relaxed: each is a figure on its own.
struct SettlerCounts {
  std::array<std::atomic<std::uint64_t>, 6> by_action{};  ///< Applied, by SettleAction.
  std::atomic<std::uint64_t> stale{0};
  std::atomic<std::uint64_t> recovered{0};

  std::uint64_t of(SettleAction action) const noexcept {
    return by_action[static_cast<std::size_t>(action)].load(std::memory_order_relaxed);
  }
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

  /// `arrived` is called after a run was handed in, to wake the exchanging thread; `settled` for
  /// each settlement that the broker applied (may be empty).
  Settler(Rules rules, RunRegistry& registry, const Logger& logger, std::function<void()> arrived,
          std::function<void(const Settlement&, const RunState*)> settled)
      : rules_{std::move(rules)},
        registry_{registry},
        logger_{logger},
        arrived_{std::move(arrived)},
        settled_{std::move(settled)} {}

  /// A run has ended with `outcome`. `random` in [0, 1) feeds the retry policy.
  void finish(RunPtr run, const Outcome& outcome, double random) {
    const TaskMessage& message = run->message();
    Verdict verdict = judge(message, outcome, run->stop_reason(), run->cancel_mode(),
                            rules_for(outcome.failed() ? &message : nullptr, random));
    put(std::move(run), std::move(verdict));
  }

  /// A run goes back into its queue, first in line: it was not started, or the server ends.
  void give_back(RunPtr run) { put(std::move(run), Verdict{.action = SettleAction::requeue}); }

  /// The same for runs, oldest first, that no worker has begun meanwhile; the oldest ends up first in
  /// line.
  void give_back_unstarted(std::vector<RunPtr> runs) {
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
      if ((*run)->advance(RunState::Phase::ready, RunState::Phase::ended))
        give_back(std::move(*run));
    }
  }

  /// A lost run that was taken over: decides what becomes of its task.
  void settle_lost(const Run& run, double random) {
    Verdict verdict = judge_lost(*run.message, run.crashes, rules_for(run.message.get(), random));
    complain(run.message->id, verdict);
    push(settlement_of(run, std::move(verdict)), nullptr);
  }

  /// Runs handed in and not yet known to be settled. Thread-safe.
  std::size_t unsettled() const noexcept { return unsettled_.load(std::memory_order_relaxed); }

  const SettlerCounts& counts() const noexcept { return counts_; }

  // The rest is for the exchanging thread alone.

  /// Takes in what has been handed in since, and what is to be repeated if `repeat`.
  void collect(bool repeat = true) TASKMUX_EXCLUDES(mutex_) {
    if (repeat) append(waiting_, waiting_runs_, unknown_, unknown_runs_);
    MutexLock lock{mutex_};
    append(waiting_, waiting_runs_, arrivals_, arrival_runs_);
  }

  /// What the next exchange is to settle: the oldest, `limit` at most. Valid until report().
  std::span<const Settlement> batch(std::size_t limit) const noexcept {
    return std::span{waiting_}.first(std::min(limit, waiting_.size()));
  }

  /// What became of the batch, in its order. Keeps what is unknown, to be repeated; returns whether
  /// there was such.
  bool report(std::span<const SettleStatus> statuses) {
    const std::size_t count = std::min(statuses.size(), waiting_.size());
    const std::size_t unknown_before = unknown_.size();
    for (std::size_t i = 0; i < count; ++i) {
      if (statuses[i] == SettleStatus::unknown) {
        unknown_.push_back(std::move(waiting_[i]));
        unknown_runs_.push_back(std::move(waiting_runs_[i]));
      } else {
        note(waiting_[i], waiting_runs_[i].get(), statuses[i]);
      }
    }
    const std::size_t unknown = unknown_.size() - unknown_before;
    registry_.remove(std::span{waiting_runs_}.first(count));
    unsettled_.fetch_sub(count - unknown, std::memory_order_relaxed);
    const auto n = static_cast<std::ptrdiff_t>(count);
    waiting_.erase(waiting_.begin(), waiting_.begin() + n);
    waiting_runs_.erase(waiting_runs_.begin(), waiting_runs_.begin() + n);
    return unknown > 0;
  }

 private:
  /// Moves what is in the second pair of lists to the end of the first.
  static void append(std::vector<Settlement>& settlements, std::vector<RunPtr>& runs,
                     std::vector<Settlement>& more, std::vector<RunPtr>& more_runs) {
    if (settlements.empty()) {
      settlements.swap(more);
      runs.swap(more_runs);
      return;
    }
    std::move(more.begin(), more.end(), std::back_inserter(settlements));
    std::move(more_runs.begin(), more_runs.end(), std::back_inserter(runs));
    more.clear();
    more_runs.clear();
  }

  /// Those for a failure of `message`; null if its type can't matter.
  JudgeRules rules_for(const TaskMessage* message, double random) const {
    const HandleOptions* const options =
        rules_.mux && message ? rules_.mux->options_of(message->task.type) : nullptr;
    const bool own = options != nullptr && options->retry_policy;
    return {own ? options->retry_policy : rules_.retry_policy, rules_.is_failure, random,
            rules_.max_crashes};
  }

  void complain(const std::string& id, const Verdict& verdict) const {
    if (!verdict.complaint.empty())
      logger_(LogLevel::error, "task " + id + ": " + verdict.complaint);
  }

  void put(RunPtr&& run, Verdict&& verdict) {
    complain(run->message().id, verdict);
    Settlement settlement = settlement_of(run->run(), std::move(verdict), run->take_result());
    push(std::move(settlement), std::move(run));
  }

  void push(Settlement&& settlement, RunPtr&& run) TASKMUX_EXCLUDES(mutex_) {
    unsettled_.fetch_add(1, std::memory_order_relaxed);
    {
      MutexLock lock{mutex_};
      arrivals_.push_back(std::move(settlement));
      arrival_runs_.push_back(std::move(run));
    }
    arrived_();
  }

  void note(const Settlement& settlement, const RunState* run, SettleStatus status) {
    if (status == SettleStatus::stale) {
      // Either an earlier try was applied and its reply got lost, or the run is somebody else's
      // now. Neither is ours to mend.
      counts_.stale.fetch_add(1, std::memory_order_relaxed);
      if (logger_.enabled(LogLevel::warning)) {
        logger_(LogLevel::warning, "task " + settlement.run.message->id +
                                       ": its outcome was refused, the run is not ours any more");
      }
      return;
    }
    counts_.by_action[static_cast<std::size_t>(settlement.action)].fetch_add(
        1, std::memory_order_relaxed);
    if (settlement.crash) counts_.recovered.fetch_add(1, std::memory_order_relaxed);
    tell(settlement);
    if (settled_) settled_(settlement, run);
  }

  /// Logs a failure.
  void tell(const Settlement& settlement) const {
    const bool archived = settlement.action == SettleAction::archive;
    if (!archived && settlement.action != SettleAction::retry) return;
    const LogLevel level = archived || settlement.crash ? LogLevel::warning : LogLevel::info;
    if (!logger_.enabled(level)) return;
    const TaskMessage& message = *settlement.run.message;
    std::string text = "task " + message.id + " (" + in_quotes(message.task.type) + ", queue " +
                       in_quotes(message.queue) + "): ";
    if (archived) {
      text += "archived: ";
    } else {
      const auto delay = std::chrono::floor<std::chrono::milliseconds>(settlement.delay);
      text += "tried again in " + in_words(delay) + ": ";
    }
    logger_(level, in_one_line(text + settlement.error));
  }

  const Rules rules_;
  RunRegistry& registry_;
  const Logger& logger_;
  const std::function<void()> arrived_;
  const std::function<void(const Settlement&, const RunState*)> settled_;
  SettlerCounts counts_;
  std::atomic<std::size_t> unsettled_{0};

  // Of the exchanging thread. Two lists each run in parallel; a taken-over run has a null beside it.
  std::vector<Settlement> waiting_;
  std::vector<RunPtr> waiting_runs_;
  std::vector<Settlement> unknown_;  ///< The broker does not know what became of it.
  std::vector<RunPtr> unknown_runs_;

  Mutex mutex_;
  std::vector<Settlement> arrivals_ TASKMUX_GUARDED_BY(mutex_);
  std::vector<RunPtr> arrival_runs_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
