#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/look_scope.hpp"
#include "taskmux/detail/engine/lost_takes.hpp"
#include "taskmux/detail/engine/pauses.hpp"
#include "taskmux/detail/engine/queue_picker.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Decides what the exchanging role does next, and makes no calls itself: next() returns what to do,
/// and the events below report the result. Uses no clock and no thread: each function is given the
/// time.
///
/// Its phases, and what leads from one to the next:
///
///     looking   something may be ready: exchange, as soon as there is room
///               -> looking   the reply brought a task for each place, or said that there is more
///               -> drained   it brought fewer
///               -> blocked   it brought none, but said that there is more: no worker is free, and what
///                            is ready may not be taken ahead of a free worker
///     drained   the queues were empty: arm the watch
///               -> armed     they still are
///               -> looking   something is ready now
///     armed     sleep
///               -> looking   a hint came, or the next task is due
///     blocked   sleep
///               -> looking   a worker is free
///
/// A call that failed leads to `looking` from all of them. Outcomes are carried in each phase,
/// without delay; in `looking` and `drained`, their exchange looks for tasks, too.
class FetchPlan {
 public:
  /// What next() needs to know in addition to the events.
  struct Facts {
    SteadyTime now{};
    /// Number of free workers that no waiting run is meant for.
    std::size_t free_workers = 0;
    /// How many tasks may be taken; 0 if none may, for any reason.
    std::size_t room = 0;
    /// Outcomes wait to be carried to the broker.
    bool outcomes = false;
  };

  /// An exchange to be made. Carries all outcomes that wait.
  struct Call {
    SteadyTime sent_at{};
    std::size_t free_workers = 0;
    std::uint64_t token_block = 0;
    std::vector<QueueQuota> quotas{};
    /// The calls that it names as lost.
    std::vector<LostTake> recalled{};
  };

  struct Step {
    enum class Action { sleep, arm, exchange };
    Action action = Action::sleep;
    /// Arm: what the watch knows of the queues is not to be relied on, see Watch::rearm().
    bool all_queues = false;
    /// Sleep: until then; unset: until something happens.
    std::optional<SteadyTime> until{};
    /// Exchange.
    Call call{};
  };

  explicit FetchPlan(QueuePicker picker, Random random = Random{})
      : random_{random}, picker_{std::move(picker)}, lost_{random_.bits()} {}

  /// After a failure, nothing may be called before this time.
  SteadyTime rests_until() const noexcept { return rests_until_; }

  /// Whether outcomes without a known result are to be repeated now.
  bool repeats_outcomes(SteadyTime now) const noexcept { return repeat_at_ && now >= *repeat_at_; }

  /// Whether a call whose reply was lost may have taken tasks that were not given back.
  bool owes() const noexcept { return !lost_.empty(); }

  /// Decides what to do now. The outcomes that are to be repeated are among those of `facts`.
  Step next(const Facts& facts) {
    pass_time(facts.now);
    if (phase_ == Phase::blocked && facts.free_workers > 0) phase_ = Phase::looking;
    const bool pauses = facts.now < look_after_;
    const bool looks = facts.room > 0 && phase_ != Phase::blocked &&
                       (facts.outcomes || (phase_ == Phase::looking && !pauses));
    Call call{.sent_at = facts.now, .free_workers = facts.free_workers};
    if (looks) call.quotas = share(facts.room);
    call.recalled = lost_.to_recall(facts.now);
    if (facts.outcomes || !call.quotas.empty() || !call.recalled.empty()) {
      call.token_block = lost_.next_block();
      lost_.reserve(call.quotas.size());
      return {.action = Step::Action::exchange, .call = std::move(call)};
    }
    // Until there is room, or a queue has given back what it owes.
    const bool waits = facts.room == 0 || phase_ == Phase::blocked || (looks && owes());
    if (waits) return {.until = next_timer()};
    if (pauses) return {.until = earlier(next_timer(), look_after_)};
    if (phase_ == Phase::armed) return {.until = earlier(next_timer(), due_)};
    return {.action = Step::Action::arm, .all_queues = !watch_knows_};
  }

  /// The watch gave hints of `queues`; nullopt for all.
  void hinted(std::optional<std::vector<std::string>>&& queues, SteadyTime now) noexcept {
    if (phase_ != Phase::blocked) phase_ = Phase::looking;
    scope_.add(std::move(queues), now);
  }

  /// The watch was armed, and said `state` at `now`. Returns when to go on.
  std::optional<SteadyTime> armed(const Watch::State& state, SteadyTime now) noexcept {
    watch_knows_ = true;
    if (!repeat_at_) backoff_.reset();
    due_ = due_at(now, state.now, state.next_due);
    slept_from_ = now;
    if (state.ready) {
      look_everywhere();
      return now;
    }
    phase_ = Phase::armed;
    scope_.set_none();
    return earlier(next_timer(), due_);
  }

  /// The exchange `call` was made, and its reply arrived at `arrived_at`.
  void exchanged(const Call& call, const ExchangeReply& reply, SteadyTime arrived_at) {
    const bool recalled = !call.recalled.empty();
    lost_.note_reply(reply.lost_takes, call.token_block, call.sent_at, recalled);
    if (recalled) distrust_watch();
    if (!call.quotas.empty()) looked(call, reply, arrived_at);
    slept_from_.reset();
  }

  /// The reply of the exchange `call` was lost, or could not be kept. The caller reports the failure
  /// by failed().
  void lost(Call&& call) noexcept {
    lost_.add(call.token_block, std::move(call.quotas), call.sent_at);
  }

  /// The reply of an exchange said what became of its outcomes; `unknown`: not of each.
  void settled(bool unknown, SteadyTime now) noexcept {
    if (unknown) {
      // Of a part of the store, it may be: what else there is to settle does not wait for it.
      if (!repeat_at_) repeat_at_ = now + backoff_.next(random_);
    } else if (!repeat_at_) {
      backoff_.reset();
    }
  }

  /// A call failed, or what it needs. Returns when to go on.
  SteadyTime failed(SteadyTime now) noexcept {
    distrust_watch();
    rests_until_ = now + backoff_.next(random_);
    return rests_until_;
  }

 private:
  enum class Phase { looking, drained, armed, blocked };

  static constexpr std::size_t most_runs = 1024;

  static std::size_t wanted_of(const Call& call) noexcept {
    std::size_t wanted = 0;
    for (const QueueQuota& quota : call.quotas) wanted += quota.count;
    return wanted;
  }

  /// Counts from the arrival of the reply, although the broker read its clock before that: a look that
  /// is too early finds nothing. So a slow reply makes the result later by its travel time.
  static std::optional<SteadyTime> due_at(SteadyTime arrived_at, Time broker_now,
                                          std::optional<Time> next_due) noexcept {
    if (!next_due) return std::nullopt;
    return arrived_at + std::clamp(*next_due - broker_now, Duration{0}, Limits::longest);
  }

  /// When to go on in any phase.
  std::optional<SteadyTime> next_timer() const noexcept {
    return earlier(repeat_at_, lost_.recall_at());
  }

  void look_everywhere() noexcept {
    phase_ = Phase::looking;
    scope_.set_all();
  }

  void distrust_watch() noexcept {
    look_everywhere();
    watch_knows_ = false;
  }

  void pass_time(SteadyTime now) noexcept {
    if (repeats_outcomes(now)) repeat_at_.reset();
    scope_.expire(now);
    if (!due_ || now < *due_) return;
    // The watch need not report tasks that are due later, so it must be armed again.
    if (phase_ != Phase::blocked) phase_ = Phase::looking;
    scope_.set_all();
    due_came_ = true;
    due_.reset();
  }

  /// How many to take of each queue: none of one that may owe tasks of a lost call, so that those
  /// come first, nor of one that is known to be empty.
  std::vector<QueueQuota> share(std::size_t room) {
    if (scope_.is_none()) return {};
    std::vector<QueueQuota> quotas = picker_.share(std::min(room, most_runs));
    if (lost_.empty() && scope_.is_all()) return quotas;
    std::size_t left_over = 0;
    std::erase_if(quotas, [&](const QueueQuota& quota) {
      if (scope_.includes(quota.queue) && !lost_.owed_by(quota.queue)) return false;
      left_over += quota.count;
      return true;
    });
    if (!quotas.empty()) quotas.front().count += left_over;
    return quotas;
  }

  void looked(const Call& call, const ExchangeReply& reply, SteadyTime arrived_at) noexcept {
    const std::size_t taken = reply.runs.size();
    const bool full = taken >= wanted_of(call);
    // A narrow look brings no news of the other queues.
    const std::optional<SteadyTime> of_others = scope_.is_all() ? std::nullopt : due_;
    due_ = earlier(due_at(arrived_at, reply.now, reply.next_due), of_others);
    scope_.looked(full);
    if (taken > 0) wake_pause_.reset();
    if (taken == 0 && !reply.more && slept_from_) {
      look_after_ = call.sent_at + wake_pause_.next(random_, call.sent_at - *slept_from_);
      // The hint may be of what this server did itself: no task that will be due waits for that.
      if (!due_came_ && due_) look_after_ = std::min(look_after_, *due_);
    }
    due_came_ = false;
    if (taken == 0 && reply.more && call.free_workers == 0) {
      phase_ = Phase::blocked;
    } else {
      phase_ = full || reply.more ? Phase::looking : Phase::drained;
    }
  }

  Random random_;
  QueuePicker picker_;
  LostTakes lost_;
  LookScope scope_;
  Backoff backoff_;
  WakePause wake_pause_;
  /// When the next task is due.
  std::optional<SteadyTime> due_;
  /// When to repeat the outcomes without a known result.
  std::optional<SteadyTime> repeat_at_;
  /// When the sleep began that ended last; unset once an exchange followed it.
  std::optional<SteadyTime> slept_from_;
  /// After a failure: no call at all before this time.
  SteadyTime rests_until_{SteadyTime::min()};
  /// After a vain wake: outcomes are carried, but nothing is looked for before this time.
  SteadyTime look_after_{SteadyTime::min()};
  Phase phase_ = Phase::looking;
  /// A task was to be due since the last look.
  bool due_came_ = false;
  /// What the watch knows of the queues can be relied on.
  bool watch_knows_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
