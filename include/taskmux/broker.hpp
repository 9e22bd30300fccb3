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

/// The time at which a broker must abandon calls, including those in progress; see
/// Broker::limit_calls_of_this_thread(). Thread-safe.
class CallLimit {
 public:
  using Instant = std::chrono::steady_clock::time_point;

  /// Sets the time, an instant of the machine's steady clock.
  void set(Instant end) noexcept { end_.store(end.time_since_epoch().count()); }
  Instant end() const noexcept { return Instant{Instant::duration{end_.load()}}; }

 private:
  std::atomic<Instant::rep> end_{Instant::max().time_since_epoch().count()};
};

/// A task to be enqueued. Client has set and checked its id, queue, type and limits.
struct EnqueueRequest {
  TaskMessage message{};
  /// When the task is due; at once if this instant has passed. At most one of this and `process_in`
  /// is set; if both are unset, the task is due at once.
  std::optional<Time> process_at{};
  /// The task is due this long after the broker's present time.
  std::optional<Duration> process_in{};
  /// Sets `message.expires_at` to this long after the broker's present time.
  std::optional<Duration> expires_in{};
  /// Above 0: the task takes the unique lock, until this long after it is due.
  std::chrono::seconds unique_for{0};
  /// See EnqueueOptions.
  bool unique_empty_payload = false;
  /// Above 0: if the queue remembers the id, the reply is `accepted_before`, whatever else holds,
  /// even if the broker is full. Otherwise, if the task is accepted, the id is remembered for this
  /// long.
  std::chrono::seconds idempotent_for{0};
};

/// The result of one EnqueueRequest.
struct EnqueueReply {
  /// Unset if accepted. Else duplicate_task, task_id_conflict (which takes precedence if both
  /// apply), queue_full, payload_too_large, invalid_argument, unavailable, or any other error that
  /// the broker reports for this item. With `unavailable`, it is not known whether the item was
  /// accepted, unless `detail` begins with "not sent": then the item was certainly not sent.
  std::optional<Errc> error{};
  /// The cause in words, for an error.
  std::string detail{};
  /// If accepted: pending or scheduled.
  TaskState state = TaskState::pending;
  /// If scheduled: when it is due.
  std::optional<Time> process_at{};
  /// False: accepted, but confirmed by fewer replicas than requested.
  bool replicated = true;
  /// An earlier request with this id was accepted (see EnqueueRequest::idempotent_for), and this
  /// one changed nothing. Then `error` is unset, and `state` and `process_at` have no meaning.
  bool accepted_before = false;
};

/// What happens to a task whose run an operator cancels.
enum class CancelMode {
  retry,    ///< It fails: retried, or archived if no retry is left. This is what asynq does.
  archive,  ///< It is moved to the dead-letter queue at once.
  remove,   ///< It is deleted.
};

/// Whether the handler of a run has begun, as far as the broker knows.
enum class Begun {
  /// It has begun, or begins at once: a worker was free when the run was taken.
  yes,
  /// It may have begun: the run was prefetched, that is, taken when no worker was free for it.
  perhaps,
  /// It has not begun: the run belongs to a suspect. Its start is recorded by extend() before the
  /// handler is called.
  no,
};

/// One attempt at a task by one worker. `token` is a fencing token: the broker refuses to settle or
/// extend a run whose token is not the task's present one. Cheap to copy.
struct Run {
  /// Never null in a run that a broker made. Shared, since a hung handler may keep it.
  std::shared_ptr<const TaskMessage> message{};
  std::uint64_t token = 0;
  /// How many of the task's latest runs in a row lost their workers. Above 0, the task is a
  /// suspect: it may have caused the losses.
  int crashes = 0;
  /// What the broker has recorded. In a run from exchange(), `no` for each suspect.
  Begun begun = Begun::yes;
  /// Data of the broker that made the run, in addition to TaskMessage. Opaque to everything else.
  std::string broker_data{};
  /// Set if an Inspector asked to cancel an earlier run that was given back before it had begun.
  /// Then this run must not begin, either.
  std::optional<CancelMode> cancel{};
  /// When the task became ready to run, on the broker's clock: when it was enqueued, became due, or
  /// returned to pending. The epoch if that is not known, as in a run that upkeep() took over.
  Time ready_at{};
};

/// What a settlement does with the task of a run.
enum class SettleAction {
  /// The task succeeded. It is completed while `message.retention` lasts, or deleted if that is 0.
  /// Counts as processed; releases the lock.
  complete,
  /// The task is deleted, even if it has a retention: its handler or an operator revoked it. Counts
  /// as processed; releases the lock.
  remove,
  /// The task moves to retry, due after `delay`. If `delay` is 0, it moves to pending at once: to
  /// the back of its queue, or to the front if its worker was lost (see Attempt). The lock is kept.
  retry,
  /// The task moves to the dead-letter queue. Counts as processed and failed. The lock is kept
  /// until it expires.
  archive,
  /// The task returns to the front of its queue. Nothing is counted. The message does not change,
  /// nor does a cancellation request, nor the number of crashes unless its worker was lost.
  give_back,
  snooze,  ///< The task is scheduled again after `delay`; nothing is counted.
};

/// How one attempt is counted, in addition to the effects of its SettleAction. A retry that counts
/// uses one of the task's retries, and adds to the processed and failed attempts.
enum class Attempt {
  counts,     ///< A retry counts. The task's crashes are reset to 0.
  excused,    ///< A retry does not count. The task's crashes are reset to 0.
  crashed,    ///< The worker was lost: a retry counts, and the task has one more crash in a row.
  not_begun,  ///< The handler was never called: a retry does not count; the crashes do not change.
};

/// The end of one run.
struct Settlement {
  Run run{};
  SettleAction action = SettleAction::complete;
  /// Retry, archive: becomes the task's last error. Valid UTF-8, at most Limits::error_text_bytes.
  std::string error{};
  /// Retry, snooze: how long the task waits; never negative.
  Duration delay{};
  Attempt attempt = Attempt::counts;
  /// The result, which is stored with the task; dropped if the task is deleted.
  std::optional<std::string> result{};
  /// Only for `archive` without a result: the broker rejected another settlement of this run. It must
  /// not reject this one because of what the task contains. It may leave the stored message unchanged
  /// except for the error.
  bool last_resort = false;
};

/// The outcome of a Settlement at the broker.
enum class SettleStatus {
  applied,
  /// The worker no longer owned the run, or the task is gone; nothing was changed. Drop it.
  stale,
  /// It may or may not have been applied: repeat it. If it was applied, the reply is then `stale`.
  unknown,
  /// It was not tried, since the exchange was full: pass it to the next exchange.
  later,
  /// It can't be transferred to the broker because its result is too large: settle the run without
  /// the result. It may have been applied, as for `unknown`.
  too_large,
  /// The broker will never accept it; nothing was changed. Archive the task with the reason instead;
  /// see Settlement::last_resort. If that is rejected too, drop it: the run's lease will expire, and
  /// the task is then treated as if its worker was lost.
  rejected,
};

/// The reply to one Settlement.
struct SettleReply {
  SettleStatus status = SettleStatus::unknown;
  /// Rejected: why.
  std::optional<Errc> error{};
  /// The cause in words, for an error.
  std::string detail{};
};

/// How many tasks to take from a queue.
struct QueueQuota {
  std::string queue{};
  /// If the queue has fewer tasks, the rest is taken from other queues; see
  /// ExchangeRequest::quotas.
  std::size_t count = 0;
};

/// An exchange whose reply did not arrive: the tasks that it took are active under tokens that no
/// worker knows.
struct LostTake {
  /// The token block of that exchange; see ExchangeRequest.
  std::uint64_t token_block = 0;
  /// The queues from which it may have taken tasks.
  std::vector<std::string> queues{};
  /// How long ago the exchange was sent.
  Duration age{};
  /// In a reply: true if these queues have given the tasks back, but a stuck server may still
  /// execute the call; false if these queues did not answer.
  bool answered = false;
};

/// A batch of settlements, and how many tasks to take after them. Spans must stay valid during the
/// call.
struct ExchangeRequest {
  /// The settlements of runs that have ended. They are applied before anything is taken.
  std::span<const Settlement> settlements{};
  /// In order of preference. Up to `count` tasks are taken from each queue. If a queue has fewer,
  /// the rest is taken from the others, in this order, so that the sum of the counts is reached if
  /// there are enough tasks.
  std::span<const QueueQuota> quotas{};
  /// Number of free workers. Runs beyond it are prefetched: they wait for a worker, and the broker
  /// records them as `Begun::perhaps`. A task with `max_retry` 0 or a suspect (crashes above 0) is
  /// never prefetched: such a task stays at the front of its queue, and nothing more is taken from
  /// that queue. Runs are counted in the order in which they are taken: first by quota, then the
  /// rest from other queues. So the runs for which a worker is free are not always the first of the
  /// reply; see Run::begun.
  std::size_t free_workers = std::numeric_limits<std::size_t>::max();
  /// How long the worker owns a run unless the lease is extended. At least 1 s. Measured by a
  /// steady clock, if the broker has one; else a step of the clock must not make runs look lost
  /// (see UpkeepRequest).
  Duration lease = std::chrono::seconds{10};
  /// Identifies the runs of this call in case its reply is lost: every run gets a token of
  /// `token_block << 16 | index`. A number of 48 bits that was never used before; count from a
  /// random start, since other processes choose numbers, too. 0: the broker chooses the tokens, and
  /// nothing can be given back.
  std::uint64_t token_block = 0;
  /// Earlier calls whose replies were lost. The tasks that they took and that are still active
  /// under their tokens return to pending before anything is taken: to the front of their queues,
  /// the oldest first. Nothing is counted.
  std::span<const LostTake> lost_takes{};
};

/// The result of an exchange: the outcome of each settlement, and the runs that it took.
struct ExchangeReply {
  /// One reply per settlement, in the same order. At least one of them is not `later`.
  std::vector<SettleReply> settled{};
  /// The runs that were taken, by queue in the order of the quotas; oldest first within a queue.
  std::vector<Run> runs{};
  /// The time on the broker's clock.
  Time now{};
  /// The earliest time at which a scheduled task or a retry is due, in the requested queues that
  /// are not paused.
  std::optional<Time> next_due{};
  /// The requested queues may hold more tasks that are ready (because of a bound, or of
  /// `free_workers`).
  bool more = false;
  /// The lost takes that the next request must contain: those of this request that are not resolved
  /// yet, and this call itself if a part of the store did not answer.
  std::vector<LostTake> lost_takes{};
};

/// The result of extending a lease.
enum class LeaseStatus {
  ok,
  lost,     ///< The worker no longer owns the run.
  unknown,  ///< It is not known whether the lease was extended: repeat the call.
};

/// A run whose lease is to be extended.
struct ExtendRequest {
  Run run{};
  /// The run's handler has begun, or begins as soon as this is recorded. Once recorded, it holds
  /// until the run ends.
  bool begun = false;
};

/// The reply for one run in extend().
struct ExtendReply {
  LeaseStatus status = LeaseStatus::ok;
  /// Set if an Inspector asked to cancel this run.
  std::optional<CancelMode> cancel{};
};

/// A notification from a watch. It may be spurious, and it may be delivered on any thread.
struct Hint {
  enum class Kind {
    ready,  ///< A task may be ready in a watched queue, or may be due earlier than reported.
    /// The cancellation of the run of `task_id` was requested, in `queue` or, if that is empty, in
    /// any queue. extend() returns the mode, if one was given.
    cancel,
  };
  Kind kind = Kind::ready;
  std::string task_id{};
  /// The queue of the task. Empty: any queue, since the broker does not know it.
  std::string queue{};
  /// `ready`: the number of the newest report (Watch::State::report) at the time of the change. A
  /// receiver that has a newer report may ignore the hint. 0: the broker does not number its
  /// reports.
  std::uint64_t report = 0;
};

/// A watch on queues. Its destructor ends it: it waits for a callback that is running, and no
/// callback runs afterwards. So it must not be destroyed from the callback.
class TASKMUX_API Watch {
 public:
  /// The report of arm() and rearm().
  struct State {
    /// A task is ready now: exchange() will take it unless another server is faster.
    bool ready = false;
    /// See ExchangeReply.
    std::optional<Time> next_due{};
    /// The time on the broker's clock.
    Time now{};
    /// The number of this report, counted from 1; see Hint::report. 0: the broker does not number
    /// its reports.
    std::uint64_t report = 0;
  };

  Watch() = default;
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  virtual ~Watch() = default;

  /// Returns the state of the watched queues. If nothing is ready, arms the watch: one Hint::ready
  /// follows when a task may be ready, or may be due before `next_due`. A task that is due later
  /// need not cause a hint: if exchange() takes nothing at `next_due`, arm again. One round trip
  /// (in a cluster one per node, one after the other). Call it before going to sleep; a watch that
  /// is not armed costs no hints. Hints of other kinds are sent whether the watch is armed or not.
  /// Throws Error{unavailable}. Not thread-safe.
  virtual State arm() = 0;

  /// As arm(), but need not check queues for which no hint was sent since the last call, so that
  /// the cost of a single task does not grow with the number of queues. The returned state may miss
  /// a change that has just happened; then a hint follows. Calls arm() unless overridden.
  virtual State rearm() { return arm(); }
};

/// One bounded step of upkeep. Every server performs such steps for its queues, at any time, and
/// concurrently with other servers.
struct UpkeepRequest {
  std::span<const std::string> queues{};
  /// The maximum number of tasks of each queue that each part of the step processes.
  std::size_t limit = 100;
  /// The length of the lease of lost runs that are taken over.
  Duration lease = std::chrono::seconds{10};
  /// Whether to look for lost runs.
  bool recover = true;
  /// Runs of the caller whose leases may have expired, since it could not extend them in time. This
  /// step never takes them over: their worker is alive.
  std::span<const Run> own{};
};

/// The result of one step of upkeep.
struct UpkeepReply {
  /// Number of scheduled tasks and retries that were due and were moved to pending.
  std::size_t forwarded = 0;
  /// Number of completed tasks that were deleted since their retention had ended.
  std::size_t expired = 0;
  /// Number of repaired inconsistencies (ids without a task, malformed messages, ...).
  std::size_t repaired = 0;
  /// Runs whose worker was lost: their lease has expired, and no other server has taken them over.
  /// The caller owns them now, with a new token and a new lease, and must settle them at once
  /// (never run them). `begun` says whether the handler had begun at the lost worker.
  std::vector<Run> lost{};
  /// As in ExchangeReply.
  std::optional<Time> next_due{};
  /// The broker's clock.
  Time now{};
  /// A limit was reached: call upkeep() again soon.
  bool more = false;
};

/// What a broker knows about queues that a server is about to serve.
struct OpenReply {
  /// The queues to which nothing was ever enqueued, in the order of the request: a name may be
  /// misspelt. Empty if that is not known.
  std::vector<std::string> never_used{};
};

/// The port to a store of tasks. An application uses it through Client, Server and Inspector, and
/// names an adapter only to construct it. For authors of adapters, the contract suite in
/// tests/broker_contract.hpp is the reference.
///
/// The states, and the operations that move a task between them:
///
///     enqueue          -> pending | scheduled
///     scheduled, retry -> pending              when due (exchange, upkeep); a suspect to the front
///     pending          -> active               (exchange)
///     active           -> completed | gone | retry | archived | pending | scheduled (a settlement)
///     completed        -> gone                 (upkeep)
///
/// Each move is atomic: a task is in exactly one state at any instant.
///
/// Thread-safe. A broker belongs to the process that made it: after fork(), its calls throw
/// Error{forked} in the child.
class TASKMUX_API Broker {
 public:
  Broker() = default;
  Broker(const Broker&) = delete;
  Broker& operator=(const Broker&) = delete;
  virtual ~Broker() = default;

  /// Enqueues a batch. Returns one reply per item, in the order of the batch. Items fail
  /// independently, and their failures are not thrown: if the broker can't be reached, the reply is
  /// `unavailable` for each item whose outcome is unknown. Wakes the servers that watch the queues.
  virtual std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) = 0;

  /// Settles ended runs, moves due tasks to pending, and takes pending tasks as runs under a lease.
  /// One round trip; never waits for tasks. No runs are taken from a paused queue. In one atomic
  /// step, a run is settled if and only if its token is the task's present one; that holds even
  /// after the lease has expired, until another worker takes the run over. Throws Error if nothing
  /// was done or the outcome is unknown. The settlements may be repeated then, and the tasks that
  /// were taken are given back if a later call names this one in `lost_takes`.
  virtual ExchangeReply exchange(const ExchangeRequest& request) = 0;

  /// Extends the leases of `runs` to `lease` from now, and records which of them have begun.
  /// Returns one reply per run, in order: `lost` if the caller no longer owns the run, `unknown` if
  /// the broker did not answer for it. Throws Error if it is not known whether any lease was
  /// extended.
  virtual std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) = 0;

  /// Watches `queues`, and the cancellations of all tasks, until the returned handle is destroyed.
  /// `callback` must not throw, must be quick, and must not call the broker. The broker must
  /// outlive the handle. Throws Error{unavailable}.
  virtual std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                                       std::function<void(const Hint&)> callback) = 0;

  /// Performs one bounded step of upkeep. Throws Error; may be repeated at any time.
  virtual UpkeepReply upkeep(const UpkeepRequest& request) = 0;

  /// Throws Error unless the broker answers.
  virtual void ping() = 0;

  /// Checks, without changing a task, that this process may take and settle tasks of `queues`.
  /// Called when a server starts. Throws Error: `unauthorized` if the broker refuses a necessary
  /// command, `unsupported` if the broker does not have it, `invalid_argument` for an invalid queue
  /// name, `unavailable`. A broker without access rights need not override this.
  virtual OpenReply open(std::span<const std::string> queues) {
    static_cast<void>(queues);
    ping();
    return {};
  }

  /// Limits the calls that the calling thread makes to this broker, and to every other broker of
  /// its kind: from now on, they end within about 100 ms after `limit->end()`, even those that wait
  /// at that time, and throw Error{unavailable} if the broker has not answered. Replaces an earlier
  /// limit; null removes it. Calls of other threads are not affected. The limit must outlive its
  /// use. A broker that never waits need not override this.
  virtual void limit_calls_of_this_thread(const CallLimit* limit) noexcept {
    static_cast<void>(limit);
  }

  /// Returns the shortest useful lease: it must outlast a few slow calls in a row.
  virtual Duration shortest_lease() const { return std::chrono::seconds{5}; }
  /// Returns the reason for shortest_lease() and what to change, for the text of an error: "three
  /// times the timeout, ...". May be empty.
  virtual std::string why_shortest_lease() const { return {}; }

  /// Returns the kind and the location of the broker, in a few words for a log line, without a
  /// password.
  virtual std::string describe() const { return "a broker"; }

  /// Returns the broker's logger. A server that is given no logger uses it, too.
  virtual Logger logger() const { return {}; }

  /// Returns the list of live servers; valid as long as the broker.
  virtual Registry& registry() = 0;

  /// Returns the port for inspection and repair; valid as long as the broker. Throws
  /// Error{unsupported} if there is none.
  virtual QueueView& queue_view() {
    throw Error{Errc::unsupported, "this broker has no queue view"};
  }
};

}  // namespace v0
}  // namespace taskmux
