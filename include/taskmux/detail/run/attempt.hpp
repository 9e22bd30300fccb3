#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string_view>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/run/outcome_of.hpp"
#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/detail/run/task_rules.hpp"
#include "taskmux/serve_mux.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// When an attempt must end. A timeout and a deadline both bind; with neither, 30 minutes do, as in
/// asynq. What a Go peer wrote may be negative: then it is over already.
struct AttemptLimits {
  SteadyTime steady;
  Time wall;
};

inline AttemptLimits attempt_limits(const TaskMessage& message, std::optional<Duration> by_route,
                                    SteadyTime now, Time wall_now) {
  const auto bounded = [](std::chrono::seconds timeout) -> Duration {
    constexpr std::chrono::seconds longest =
        std::chrono::duration_cast<std::chrono::seconds>(Limits::longest);
    return std::clamp(timeout, -longest, longest);
  };
  Duration left = Limits::longest;
  if (message.timeout.count() == 0 && message.deadline == Time{}) left = default_timeout;
  if (message.timeout.count() != 0) left = bounded(message.timeout);
  if (message.deadline != Time{}) left = std::min(left, message.deadline - wall_now);
  if (by_route) left = std::min(left, *by_route);
  left = std::max(left, Duration{0});  // Long over is over; it must not overflow the clock either.
  return {now + left, wall_now + left};
}

/// Why an attempt at `message`, of these limits, can't succeed any more, nor can a later one; empty
/// if it can.
inline std::string_view too_late(const TaskMessage& message, const AttemptLimits& limits,
                                 SteadyTime now, Time wall_now) noexcept {
  if (message.expires_at != Time{} && wall_now >= message.expires_at)
    return "expired: no worker had started it in time";
  if (now < limits.steady) return {};
  if (message.deadline != Time{} && wall_now >= message.deadline)
    return "its deadline had passed before it could be started";
  return "its timeout leaves no time for an attempt";
}

/// Runs one attempt of `run` on this thread.
inline Outcome attempt(ServeMux& mux, const std::shared_ptr<RunState>& run) noexcept {
  return outcome_of([&] {
    Context context{run};
    return mux.handle(context, run->message().task, run->route());
  });
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
