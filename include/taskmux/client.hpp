#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/run/request_maker.hpp"
#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// What a Client applies to every task that it enqueues.
struct ClientConfig {
  /// By task type, spelt exactly.
  std::map<std::string, TypeDefaults, std::less<>> defaults{};
  /// A larger payload is refused; Redis itself takes up to 512 MB.
  std::size_t max_payload_bytes = Limits::payload_bytes;
  /// For judging instants (`deadline`, `expires_at`) against; the machine's when null.
  std::shared_ptr<Clock> clock{};
};

/// A task and its options, for a batch.
struct NewTask {
  Task task{};
  EnqueueOptions options{};
};

/// What became of a task that was to be enqueued.
struct EnqueueResult {
  std::string id{};  ///< Known in any case, so that the call can be repeated with the same id.
  std::string queue{};
  TaskState state = TaskState::pending;  ///< Pending or scheduled, when accepted.
  std::optional<Time> process_at{};      ///< Of a scheduled task.
  /// False: accepted, but by fewer replicas than the broker was told to wait for.
  bool replicated = true;
  /// Not now, but by an earlier call with the same id (see EnqueueOptions::idempotent_for).
  /// `state`, `process_at` and the options of this call then say nothing about the task.
  bool accepted_before = false;
  std::optional<Error> error{};  ///< Why it was not accepted.

  bool accepted() const noexcept { return !error; }
};

/// Puts tasks into queues. Thread-safe. The broker must outlive it.
class Client {
 public:
  /// Throws std::invalid_argument if `config` holds a value that an enqueue would refuse.
  explicit Client(Broker& broker, ClientConfig config = {});
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Enqueues one task; once this returns, it will be run at least once. Throws Error, whose
  /// task_id() is the id that was sent: invalid_argument, payload_too_large (nothing was sent);
  /// duplicate_task, task_id_conflict, queue_full, unauthorized, protocol (refused by the broker);
  /// unavailable (it may or may not have been accepted); wrong_state after close(); forked in a
  /// child process.
  ///
  /// To repeat the call after `unavailable`, pass the same task id. With
  /// EnqueueOptions::idempotent_for in both calls, the task is accepted once for as long as that
  /// lasts. Without it, the broker knows the id only as long as it stores the task: a
  /// task_id_conflict says that the first call was accepted, but a task that has ended and was
  /// deleted meanwhile (without `retention`, as soon as it has succeeded) is accepted and run
  /// again.
  EnqueueResult enqueue(Task task, EnqueueOptions options = {});

  /// Enqueues a batch in as few round trips as the broker can; results are in its order. One item
  /// never fails another: what enqueue() would throw for an item is in its result. Throws only
  /// wrong_state and forked.
  [[nodiscard]] std::vector<EnqueueResult> enqueue_all(std::vector<NewTask> batch);

  /// From now on, enqueue() and enqueue_all() throw Error{wrong_state}. Calls in progress end as
  /// usual. May be repeated.
  void close() noexcept { closed_ = true; }

 private:
  void check_usable() const;
  /// Adds the request for `item` to `requests`; none if `item` is refused, and `result` tells why.
  void prepare(NewTask&& item, std::vector<EnqueueRequest>& requests, EnqueueResult& result);
  static void note(const EnqueueReply& reply, EnqueueResult& result);

  Broker& broker_;
  detail::RequestMaker maker_;
  const int pid_;
  std::atomic<bool> closed_{false};
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/client.hpp"
#endif
