#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "taskmux/error.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

class QueueView;
class Registry;

/// By when a broker is to give up calls, also those under way; see
/// Broker::limit_calls_of_this_thread(). Thread-safe.
class CallLimit {
 public:
  using Instant = std::chrono::steady_clock::time_point;

  /// Of the machine's steady clock.
  void set(Instant end) noexcept { end_.store(end.time_since_epoch().count()); }
  Instant end() const noexcept { return Instant{Instant::duration{end_.load()}}; }

 private:
  std::atomic<Instant::rep> end_{Instant::max().time_since_epoch().count()};
};

/// A task on its way in. Its id, queue, type and limits have been checked by Client and are fixed.
struct EnqueueRequest {
  TaskMessage message{};
  /// At most one of this and `process_in`; due at once if both are unset or it has passed.
  std::optional<Time> process_at{};
  /// Due this long after the broker's now.
  std::optional<Duration> process_in{};
  /// Sets `message.expires_at` to this long after the broker's now.
  std::optional<Duration> expires_in{};
  /// Above 0: take the unique lock, for this long after the task is due.
  std::chrono::seconds unique_for{0};
  /// See EnqueueOptions.
  bool unique_empty_payload = false;
  /// Above 0: if the queue remembers this id, the answer is `accepted_before`, before anything else
  /// is looked at, also in a full broker; else the id is remembered for this long if the task is
  /// accepted now.
  std::chrono::seconds idempotent_for{0};
};

/// What became of one EnqueueRequest.
struct EnqueueReply {
  /// Unset if accepted. Else duplicate_task, task_id_conflict (which comes first where both are
  /// true), queue_full, payload_too_large, invalid_argument, unavailable, or any other error that
  /// the broker reports for this item. With `unavailable` it is not known whether the item was
  /// accepted; only a `detail` that begins with "not sent" says that it certainly was not sent.
  std::optional<Errc> error{};
  /// The cause in words, for an error.
  std::string detail{};
  /// If accepted: pending or scheduled.
  TaskState state = TaskState::pending;
  /// If scheduled: when it is due.
  std::optional<Time> process_at{};
  /// False: accepted, but not by as many replicas as were asked for.
  bool replicated = true;
  /// An earlier request with this id was accepted (see EnqueueRequest::idempotent_for), and this
  /// one changed nothing. `error` is unset; `state` and `process_at` mean nothing.
  bool accepted_before = false;
};

/// What an operator asked for when cancelling a running task.
enum class CancelMode {
  retry,    ///< As a failure: retried, or archived when its retries are spent. What asynq does.
  archive,  ///< To the dead-letter queue at once.
  remove,   ///< Deleted.
};

/// Whether the handler of a run has begun, as the broker knows it.
enum class Begun {
  /// It has, or it does so at once: a worker was free when the run was taken.
  yes,
  /// It may have: the run was taken ahead of the free workers.
  perhaps,
  /// It has not: the run is a suspect's, whose begin extend() records before the handler is called.
  no,
};

/// One attempt at a task by one worker. `token` fences it: the broker refuses to settle or extend a
/// run with another token than the task's present one. Cheap to copy.
struct Run {
  /// Never null in a run that a broker made. Shared, as a hung handler keeps it.
  std::shared_ptr<const TaskMessage> message{};
  std::uint64_t token = 0;
  /// Runs of this task, in a row until now, whose workers were lost. Above 0, the task is a
  /// suspect: it may have caused the losses.
  int crashes = 0;
  /// As the broker has recorded it. In a run from exchange(), `no` for each suspect.
  Begun begun = Begun::yes;
  /// Only for the broker that made the run: what it keeps of the task beyond TaskMessage. Opaque to
  /// everyone else.
  std::string broker_data{};
  /// Set if an Inspector asked to cancel an earlier run that was given back before it was begun:
  /// this one is not to be begun either.
  std::optional<CancelMode> cancel{};
  /// Since when the task could have been run, by the broker's clock: since it was enqueued, was
  /// due, or went back to pending. Epoch if that is not known, as in a run that upkeep() took over.
  Time ready_at{};
};

/// How a run ends.
enum class SettleAction {
  /// Success: completed while `message.retention` lasts, deleted if that is 0. Counts as processed;
  /// frees the lock.
  complete,
  /// Deleted, even with a retention: its handler or an operator revoked it. Counts as processed;
  /// frees the lock.
  remove,
  /// To retry, due after `delay`, or to pending at once if that is 0: last in line, or first if its
  /// worker was lost (see Attempt). The lock is kept.
  retry,
  /// To the dead-letter queue. Counts as processed and failed; the lock is kept until its time is
  /// over.
  archive,
  /// Back to pending, first in line; nothing is counted, the message stays as it was, and so do a
  /// wish to cancel it and, unless its worker was lost, its crashes.
  give_back,
  snooze,  ///< Scheduled again after `delay`; nothing is counted.
};

/// What one attempt counts for, in addition to what its SettleAction says. A retry that counts uses
/// one of the task's retries, and adds to the attempts that were processed and failed.
enum class Attempt {
  counts,     ///< A retry counts. The task's crashes go back to 0.
  excused,    ///< A retry does not count. The task's crashes go back to 0.
  crashed,    ///< The worker was lost: a retry counts, and the task has one more crash in a row.
  not_begun,  ///< The handler was never called: a retry does not count, and the crashes stay.
};

/// The end of one run.
struct Settlement {
  Run run{};
  SettleAction action = SettleAction::complete;
  /// Retry, archive: becomes the task's last error. Valid UTF-8, bounded.
  std::string error{};
  /// Retry, snooze; never negative.
  Duration delay{};
  Attempt attempt = Attempt::counts;
  /// To be kept with the task; lost when the task is deleted.
  std::optional<std::string> result{};
};

/// How a Settlement fared.
enum class SettleStatus {
  applied,
  /// The run was no longer its worker's, or the task is gone; nothing was changed. Drop it.
  stale,
  /// It may or may not have been applied: repeat it. One that was applied then comes back as stale.
  unknown,
  /// It was not tried, since the exchange carried no more: hand it in again with the next one.
  later,
  /// It does not get through to the broker, however often it is tried, because of the size of its
  /// result: settle the run without that. It may have been applied, as for `unknown`.
  too_large,
  /// The broker can't carry it out, however often it is tried; nothing was changed. Drop it: the
  /// run's lease ends, and the task is then treated as one whose worker was lost.
  rejected,
};

/// What became of one Settlement.
struct SettleReply {
  SettleStatus status = SettleStatus::unknown;
  /// Rejected: why.
  std::optional<Errc> error{};
  /// The cause in words, for an error.
  std::string detail{};
};

/// How many tasks to take of a queue.
struct QueueQuota {
  std::string queue{};
  /// What this queue can't give is taken from the others, see ExchangeRequest::quotas.
  std::size_t count = 0;
};

/// An exchange whose reply did not arrive: what it took is active under tokens that nobody knows.
struct LostTake {
  /// See ExchangeRequest.
  std::uint64_t token_block = 0;
  /// What it may have taken from.
  std::vector<std::string> queues{};
  /// How long ago it was sent.
  Duration age{};
  /// In a reply: these queues have given the tasks back, but a stuck server may still execute the
  /// call. False: these queues did not answer.
  bool answered = false;
};

/// A batch of settlements, and what to take after them. Spans must stay valid for the call.
struct ExchangeRequest {
  /// Runs that have ended; settled before anything is taken.
  std::span<const Settlement> settlements{};
  /// In order of preference. Each queue gives up to its count; what one can't give is then taken
  /// from the others, in this order, so that the sum of the counts is reached if there are tasks at
  /// all.
  std::span<const QueueQuota> quotas{};
  /// Number of free workers. Runs beyond it are taken ahead: they wait for a worker, and the broker
  /// records them as `Begun::perhaps`. A task with `max_retry` 0 and a suspect (crashes above 0) are
  /// never taken ahead: such a task stays at the head of its queue, and that queue gives nothing
  /// more. Runs are counted in the order of taking, what makes up for other queues last; so the
  /// runs that a worker is free for are not always the first of the reply: see Run::begun.
  std::size_t free_workers = std::numeric_limits<std::size_t>::max();
  /// How long a run is its worker's unless extended. At least 1 s. Measured by a clock that nobody
  /// steps, if the broker has one; else a step must not make runs look lost (see UpkeepRequest).
  Duration lease = std::chrono::seconds{10};
  /// Names what this call takes, for the case that its reply is lost: every run gets a token of
  /// `token_block << 16 | index`. 48 bits, never used before, from a random start, since other
  /// processes name theirs too. 0: the broker chooses, and nothing can be given back.
  std::uint64_t token_block = 0;
  /// Earlier calls whose replies were lost. What they took and is still active under their tokens
  /// goes back to pending before anything is taken: first in line, the oldest first, nothing
  /// counted.
  std::span<const LostTake> lost_takes{};
};

/// What an exchange did: what became of each settlement, and the tasks that it took.
struct ExchangeReply {
  /// One for each settlement, in their order. Not all of them are `later`.
  std::vector<SettleReply> settled{};
  /// By queue in the order of the quotas; oldest first within a queue.
  std::vector<Run> runs{};
  /// The broker's clock at this exchange.
  Time now{};
  /// The earliest time in scheduled or retry of the queues asked for that are not paused.
  std::optional<Time> next_due{};
  /// The queues asked for may hold more that is ready (bounded scripts, `free_workers`).
  bool more = false;
  /// What the next request must name as lost: those of the request that are not over yet, and this
  /// call where a part of the store did not answer.
  std::vector<LostTake> lost_takes{};
};

/// What became of a lease that was to be extended.
enum class LeaseStatus {
  ok,
  lost,     ///< The run is no longer its worker's.
  unknown,  ///< Whether the lease was extended is not known: ask again.
};

/// A run whose lease is to be extended.
struct ExtendRequest {
  Run run{};
  /// Its handler has begun, or begins as soon as this is recorded. Once recorded, it stays so for
  /// the length of the run.
  bool begun = false;
};

/// What became of one run in extend().
struct ExtendReply {
  LeaseStatus status = LeaseStatus::ok;
  /// Set when an Inspector asked to cancel this run.
  std::optional<CancelMode> cancel{};
};

/// A notification from a watch. It may be spurious, and it may come on any thread.
struct Hint {
  enum class Kind {
    ready,  ///< Something may be ready in a watched queue, or may be due earlier than was said.
    /// Someone asked to cancel the run of `task_id`, in `queue` or, if that is empty, in any;
    /// extend() tells in which mode, if in any.
    cancel,
  };
  Kind kind = Kind::ready;
  std::string task_id{};
  /// `ready`: the queue in which; `cancel`: the task's. Empty = any, as where the broker does not
  /// know it.
  std::string queue{};
  /// `ready`: the newest Watch::State::report when the broker noted this. Whoever has a later report
  /// knows the news already, and may ignore this. 0: the broker doesn't number its reports.
  std::uint64_t report = 0;
};

/// A watch on queues. Destroying it ends it: no callback runs after that, and the destructor waits
/// for one that is running (so it must not be called from the callback).
class TASKMUX_API Watch {
 public:
  /// What arm() and rearm() found.
  struct State {
    /// Something is ready now: exchange() will find it unless another server is faster.
    bool ready = false;
    /// As in ExchangeReply.
    std::optional<Time> next_due{};
    /// The broker's clock.
    Time now{};
    /// Counts the calls of arm(), from 1; see Hint::report. 0: the broker doesn't number them.
    std::uint64_t report = 0;
  };

  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  virtual ~Watch() = default;

  /// Tells how the watched queues stand and, if nothing is ready, promises one Hint::ready when
  /// something may be ready, or due before `next_due`. What is due later need not be told of: if an
  /// exchange() finds nothing at `next_due`, arm again. One round trip (in a cluster one to each node,
  /// one after the other). To be called before going to sleep; while nobody calls it, a busy queue
  /// costs no hints. Throws Error{unavailable}; hints of other kinds come whether armed or not. Not
  /// thread-safe.
  virtual State arm() = 0;

  /// As arm(), but need not look at queues of which nothing was told since the last call, so that a
  /// lone task costs as much with many queues as with one. What has just changed may be missing in
  /// the state; then the hint follows. Unless overridden, it is arm().
  virtual State rearm() { return arm(); }
};

/// One bounded step of upkeep, which any server does for its queues, at any time, side by side with
/// others.
struct UpkeepRequest {
  std::span<const std::string> queues{};
  /// How many tasks of each queue are moved at most in each role.
  std::size_t limit = 100;
  /// The lease of lost runs that are taken over.
  Duration lease = std::chrono::seconds{10};
  /// Whether to look for lost runs.
  bool recover = true;
  /// Runs of the caller whose leases may be over, since it could not extend them in time. They are
  /// never taken over by this step: their worker is alive.
  std::span<const Run> own{};
};

/// What one step of upkeep did, and whether work is left for the next one.
struct UpkeepReply {
  /// Scheduled and retry tasks that were due and are pending now.
  std::size_t forwarded = 0;
  /// Completed tasks whose retention was over, deleted.
  std::size_t expired = 0;
  /// Inconsistencies of the store that were healed (ids without task, malformed messages, ...).
  std::size_t repaired = 0;
  /// Runs whose worker was lost: the lease is over and nobody else has taken them. They are the
  /// caller's now, with a token and a lease of their own, to be settled at once (never to be run).
  /// `begun` says whether each had begun at the lost worker.
  std::vector<Run> lost{};
  /// As in ExchangeReply.
  std::optional<Time> next_due{};
  /// The broker's clock.
  Time now{};
  /// A limit was reached: call again soon.
  bool more = false;
};

/// What a broker says of queues that a server is about to serve.
struct OpenReply {
  /// Those to which nothing was ever enqueued, in the order asked for: perhaps a misspelt name.
  /// Empty where that is not known.
  std::vector<std::string> never_used{};
};

/// The port to a store of tasks. An application uses it through Client, Server and Inspector, and
/// names an adapter only to construct it. Authors of adapters: the contract suite in tests/broker_contract.hpp is
/// the reference.
///
/// The states, and who moves a task between them:
///
///     enqueue          -> pending | scheduled
///     scheduled, retry -> pending              when due (exchange, upkeep); a suspect first in line
///     pending          -> active               (exchange)
///     active           -> completed | gone | retry | archived | pending | scheduled (a settlement)
///     completed        -> gone                 (upkeep)
///
/// Each move is atomic: at any instant, a task is in one state.
///
/// Thread-safe. A broker belongs to the process that made it: after fork() its calls throw
/// Error{forked}.
class TASKMUX_API Broker {
 public:
  Broker() = default;
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;
  virtual ~Broker() = default;

  /// Takes in a batch; replies are in its order. One item never fails another. Does not throw for
  /// what happens to items: a broker that can't be reached answers `unavailable` for each item
  /// whose fate it does not know. Wakes the servers that watch.
  virtual std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) = 0;

  /// Settles what is done, moves what is due to pending, and takes pending tasks as runs under a
  /// lease: one round trip that never waits. A paused queue gives no runs. A run is settled iff its
  /// token is the task's present one, in the same atomic step, even if its lease is over, as long
  /// as nobody has taken it over. Throws Error when nothing was done or nothing is known: the
  /// settlements may be repeated then, and what was taken is given back by naming the call in
  /// `lost_takes` of a later one.
  virtual ExchangeReply exchange(const ExchangeRequest& request) = 0;

  /// Extends the leases of `runs` to `lease` from now, and records which of them have begun. One
  /// reply for each, in order: `lost` if it is no longer the caller's, `unknown` if the broker did
  /// not answer for it. Throws Error when it is not known whether any was extended.
  virtual std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) = 0;

  /// Watches `queues` (and, for cancellations, all tasks) until the handle is destroyed. `callback`
  /// must not throw, must be quick, and must not call the broker. The broker must outlive the
  /// handle. Throws Error{unavailable}.
  virtual std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                                       std::function<void(const Hint&)> callback) = 0;

  /// One bounded step of upkeep. Throws Error; may be repeated at any time.
  virtual UpkeepReply upkeep(const UpkeepRequest& request) = 0;

  /// Throws Error unless the broker answers.
  virtual void ping() = 0;

  /// Makes sure, without touching a task, that this process may take and settle tasks of `queues`.
  /// Called when a server starts. Throws Error: `unauthorized` if the broker refuses what that
  /// takes, `unsupported` if it can't do it, `invalid_argument` for a name that no queue here can
  /// have, `unavailable`. A broker that has no rights need not override this.
  virtual OpenReply open(std::span<const std::string> queues) {
    static_cast<void>(queues);
    ping();
    return {};
  }

  /// Limits the calls of the calling thread, to this broker and to every other of its kind: from now
  /// on they end within about 100 ms after `limit.end()`, even those that wait at that time, and throw
  /// Error{unavailable} if the broker did not answer. Replaces the limit that was set before; null
  /// ends it. Calls of other threads are not affected. The limit must outlive its use. A broker that
  /// never waits need not override this.
  virtual void limit_calls_of_this_thread(const CallLimit* limit) noexcept {
    static_cast<void>(limit);
  }

  /// The least lease that makes sense here: one that a few slow calls in a row do not use up.
  virtual Duration shortest_lease() const { return std::chrono::seconds{5}; }
  /// Why that is so and what to change, for the text of an error: "three times the timeout, ...".
  /// Empty where there is no more to say.
  virtual std::string why_shortest_lease() const { return {}; }

  /// What it is and where, in a few words for a log line, without a password.
  virtual std::string describe() const { return "a broker"; }

  /// What it logs to; the servers on it do so too, unless they are given a logger of their own.
  virtual Logger logger() const { return {}; }

  /// The side for who lives; lives as long as the broker.
  virtual Registry& registry() = 0;

  /// The side for inspection and repair; lives as long as the broker. Throws Error{unsupported}
  /// where there is none.
  virtual QueueView& queue_view() {
    throw Error{Errc::unsupported, "this broker has no queue view"};
  }
};

}  // namespace v0
}  // namespace taskmux
