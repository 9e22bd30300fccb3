#pragma once

#include <algorithm>
#include <chrono>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// See Broker::limit_calls_of_this_thread().
void limit_calls_of_this_thread(const CallLimit* limit) noexcept;

/// When the calls of this thread are to end; SteadyTime::max() if they have no limit.
SteadyTime call_limit() noexcept;

/// The limit may be set while a call waits: none waits for longer than this without a look at it.
inline constexpr std::chrono::milliseconds call_limit_step{100};

/// Until when this thread may wait in one go for something that has to come by `deadline`.
inline SteadyTime end_of_wait(SteadyTime deadline) {
  return std::min({deadline, call_limit(), std::chrono::steady_clock::now() + call_limit_step});
}

/// Whether it is too late for what had to come by `deadline`.
inline bool is_over(SteadyTime deadline) {
  return std::chrono::steady_clock::now() >= std::min(deadline, call_limit());
}

}  // namespace taskmux::redis
