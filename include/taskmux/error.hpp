#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/base/config.hpp"

namespace taskmux {
inline namespace v0 {

/// The kind of an error, for programs to act on. The text of an Error is for people.
enum class Errc {
  invalid_argument,  ///< An option or a value is not acceptable; nothing was sent.
  /// A payload exceeds the limit of the client or of the broker, or a result exceeds the limit of
  /// the server; nothing was sent.
  payload_too_large,
  duplicate_task,    ///< A task with the same queue, type and payload holds the unique lock.
  task_id_conflict,  ///< A task with this id exists in the queue, in any state.
  queue_full,  ///< The broker has no room for another task: its limit, or its memory, is exhausted.
  /// The broker can't be reached, or did not answer in time. It is not known whether it acted.
  unavailable,
  unauthorized,     ///< The broker refused the credentials, or the command.
  protocol,         ///< The broker sent a reply that can't be understood.
  unsupported,      ///< This broker, or this version of it, does not support the operation.
  queue_not_found,  ///< No such queue.
  queue_not_empty,  ///< The queue still holds tasks.
  task_not_found,   ///< No such task in that queue.
  /// The task, queue, client or server is in a state that does not allow the operation.
  wrong_state,
  lease_expired,  ///< The worker no longer owns the run.
  malformed,      ///< Stored or received data is not a valid message.
  timed_out,      ///< The allowed time has elapsed; the awaited event may still happen.
  forked,  ///< The broker, client or server was made before fork(), in the parent process.
};

/// Returns the name of `errc` as it is spelt in the code, such as "duplicate_task". Never empty.
constexpr std::string_view to_string(Errc errc) noexcept {
  switch (errc) {
    case Errc::invalid_argument: return "invalid_argument";
    case Errc::payload_too_large: return "payload_too_large";
    case Errc::duplicate_task: return "duplicate_task";
    case Errc::task_id_conflict: return "task_id_conflict";
    case Errc::queue_full: return "queue_full";
    case Errc::unavailable: return "unavailable";
    case Errc::unauthorized: return "unauthorized";
    case Errc::protocol: return "protocol";
    case Errc::unsupported: return "unsupported";
    case Errc::queue_not_found: return "queue_not_found";
    case Errc::queue_not_empty: return "queue_not_empty";
    case Errc::task_not_found: return "task_not_found";
    case Errc::wrong_state: return "wrong_state";
    case Errc::lease_expired: return "lease_expired";
    case Errc::malformed: return "malformed";
    case Errc::timed_out: return "timed_out";
    case Errc::forked: return "forked";
  }
  return "unknown";
}

/// A failure at run time. Its text names the operation, the subject and the cause: `enqueue
/// "critical": connection refused`. Misuse that is visible in the code (an empty pattern, a pattern
/// that is registered twice, a concurrency of zero) throws std::invalid_argument instead.
class TASKMUX_API Error : public std::runtime_error {
 public:
  Error(Errc errc, const std::string& text, std::string task_id = {})
      : std::runtime_error{text}, errc_{errc}, task_id_{std::move(task_id)} {}

  Errc errc() const noexcept { return errc_; }

  /// Returns the id of the task that the call was about, so that an enqueue whose outcome is
  /// unknown can be repeated with the same id. Empty if the call was not about one task.
  const std::string& task_id() const noexcept { return task_id_; }

 private:
  Errc errc_;
  std::string task_id_;
};

}  // namespace v0
}  // namespace taskmux
