#pragma once

#include <algorithm>
#include <chrono>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// Implements Broker::limit_calls_of_this_thread().
void limit_calls_of_this_thread(const CallLimit* limit) noexcept;

/// Returns when the calls of this thread must end; SteadyTime::max() if they have no limit.
SteadyTime call_limit() noexcept;

/// The limit may be set while a call waits, so a waiting call checks it at least this often.
inline constexpr std::chrono::milliseconds call_limit_step{100};

/// Returns until when this thread may wait without checking the limit again, for something that is
/// expected by `deadline`.
inline SteadyTime end_of_wait(SteadyTime deadline) {
  return std::min({deadline, call_limit(), std::chrono::steady_clock::now() + call_limit_step});
}

/// Returns whether `deadline`, or the limit of this thread, has passed.
inline bool is_over(SteadyTime deadline) {
  return std::chrono::steady_clock::now() >= std::min(deadline, call_limit());
}

}  // namespace taskmux::redis
