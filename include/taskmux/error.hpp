#pragma once

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/base/config.hpp"

namespace taskmux {
inline namespace v0 {

/// What went wrong, for a program to decide on. The text of an Error is for people.
enum class Errc {
  invalid_argument,  ///< An option or a value that can't be accepted; nothing was sent.
  /// The payload is over the limit of the client or of the broker, or a result over the server's;
  /// nothing was sent.
  payload_too_large,
  duplicate_task,    ///< A task with the same queue, type and payload holds the unique lock.
  task_id_conflict,  ///< A task with this id exists in the queue, in any state.
  queue_full,  ///< The broker has no room for another task (its bound, or its memory, is reached).
  /// The broker can't be reached, or did not answer in time. Whether it acted is not known.
  unavailable,
  unauthorized,     ///< The broker refused the credentials, or the command.
  protocol,         ///< The broker answered with something that can't be understood.
  unsupported,      ///< This broker, or this version of it, can't do that.
  queue_not_found,  ///< No such queue.
  queue_not_empty,  ///< The queue still holds tasks.
  task_not_found,   ///< No such task in that queue.
  /// The task, queue, client or server is in a state that does not allow the operation.
  wrong_state,
  lease_expired,  ///< The run is no longer its worker's.
  malformed,      ///< Stored or received data that is not a valid message.
  timed_out,      ///< The time allowed for waiting is over; what was waited for may still happen.
  forked,  ///< Made in another process: a broker, client or server can't be used after fork().
};

/// The name of `errc` as it is spelt in the code, such as "duplicate_task". Never empty.
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

/// A failure at run time. Its text says operation, subject and cause: `enqueue "critical":
/// connection refused`. Misuse that a look at the code would find (an empty pattern, a pattern
/// twice, a zero concurrency) throws std::invalid_argument instead.
class TASKMUX_API Error : public std::runtime_error {
 public:
  Error(Errc errc, const std::string& text, std::string task_id = {})
      : std::runtime_error{text}, errc_{errc}, task_id_{std::move(task_id)} {}

  Errc errc() const noexcept { return errc_; }

  /// The id of the task that the call was about, so that an enqueue whose fate is unknown can be
  /// repeated with the same id; empty when the call was not about one task.
  const std::string& task_id() const noexcept { return task_id_; }

 private:
  Errc errc_;
  std::string task_id_;
};

}  // namespace v0
}  // namespace taskmux
