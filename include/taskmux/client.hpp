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

/// Settings that a Client applies to every task that it enqueues.
struct ClientConfig {
  /// Defaults by task type; the type must match exactly.
  std::map<std::string, TypeDefaults, std::less<>> defaults{};
  /// A larger payload is refused. Redis itself accepts up to 512 MiB.
  std::size_t max_payload_bytes = Limits::payload_bytes;
  /// The clock that instants (`deadline`, `expires_at`) are checked against; the machine's clock
  /// when null.
  std::shared_ptr<Clock> clock{};
};

/// A task and its options, for a batch.
struct NewTask {
  Task task{};
  EnqueueOptions options{};
};

/// The result of enqueueing one task.
struct EnqueueResult {
  std::string id{};  ///< Always set, so that the call can be repeated with the same id.
  std::string queue{};
  TaskState state = TaskState::pending;  ///< If accepted: pending or scheduled.
  std::optional<Time> process_at{};      ///< If scheduled: when it is due.
  /// False: accepted, but confirmed by fewer replicas than the broker is configured to wait for.
  bool replicated = true;
  /// True: the task was accepted by an earlier call with the same id (see
  /// EnqueueOptions::idempotent_for). Then `state`, `process_at` and the options of this call do
  /// not describe the task.
  bool accepted_before = false;
  std::optional<Error> error{};  ///< Why the task was not accepted.

  bool accepted() const noexcept { return !error; }
};

/// Puts tasks into queues. Thread-safe. The broker must outlive it.
class Client {
 public:
  /// Throws std::invalid_argument if `config` holds a value that enqueue() would refuse.
  explicit Client(Broker& broker, ClientConfig config = {});
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  /// Enqueues one task. Once this returns, the task will be run at least once. Throws Error, whose
  /// task_id() is the id of the task: invalid_argument, payload_too_large (nothing was sent);
  /// duplicate_task, task_id_conflict, queue_full, unauthorized, protocol (the broker refused it);
  /// unavailable (it may or may not have been accepted); wrong_state after close(); forked in a
  /// child process.
  ///
  /// To repeat the call after `unavailable`, pass the same task id. If both calls set
  /// EnqueueOptions::idempotent_for, the task is accepted only once within that time. Otherwise the
  /// broker knows the id only as long as it stores the task: a task_id_conflict means that the
  /// first call was accepted, but a task that has ended and was deleted in the meantime (without
  /// `retention`, as soon as it has succeeded) is accepted and run again.
  EnqueueResult enqueue(Task task, EnqueueOptions options = {});

  /// Enqueues a batch in as few round trips as possible. Returns one result per item, in the order
  /// of the batch. Items fail independently: an Error that enqueue() would throw is in the item's
  /// result. Throws only wrong_state and forked.
  [[nodiscard]] std::vector<EnqueueResult> enqueue_all(std::vector<NewTask> batch);

  /// Makes later calls of enqueue() and enqueue_all() throw Error{wrong_state}. Calls in progress
  /// end normally. May be called again.
  void close() noexcept { closed_ = true; }

 private:
  void check_usable() const;
  /// Adds the request for `item` to `requests`. If `item` is refused, adds none and sets the error
  /// of `result`.
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
