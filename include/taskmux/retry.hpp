#pragma once

#include <chrono>
#include <functional>
#include <stdexcept>
#include <string_view>

#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// A failed attempt, as passed to a RetryPolicy. The views are valid during the call.
struct FailedAttempt {
  const Task& task;
  std::string_view error;
  int retried = 0;  ///< How often the task had failed before; 0 or more.
  /// A random number for this attempt, uniform in [0, 1), so that a policy can be a pure function.
  double random = 0.0;
};

/// Returns how long a failed task waits for its next attempt. A delay outside of 0 to
/// Limits::longest is clamped; if the policy throws, AsynqRetryDelay applies. Called from many
/// threads at once.
using RetryPolicy = std::function<Duration(const FailedAttempt&)>;

/// asynq's default: n^4 + 15 + r * (n + 1) seconds, where n is `retried` and r a random integer
/// from 0 to 29 (hibiken/asynq, DefaultRetryDelayFunc). The first delay is 15 to 44 s, the fourth
/// 96 to 212 s, the eleventh about 2.8 h.
struct AsynqRetryDelay {
  Duration operator()(const FailedAttempt& attempt) const noexcept {
    const double n = attempt.retried > 0 ? attempt.retried : 0;
    const double r = static_cast<double>(static_cast<int>(attempt.random * 30.0));
    return bounded(n * n * n * n + 15.0 + r * (n + 1.0));
  }

  /// Returns `seconds` as a Duration, at most Limits::longest; 0 for NaN or a negative number.
  static constexpr Duration bounded(double seconds) noexcept {
    constexpr double longest = std::chrono::duration<double>{Limits::longest}.count();
    if (!(seconds > 0.0)) return Duration{0};
    if (seconds >= longest) return Limits::longest;
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>{seconds});
  }
};

/// Waits for `initial` at first, then `multiplier` times longer after each failure, up to `max`.
/// Each delay is varied at random by up to +- `jitter` of itself (but stays at most `max`), so that
/// tasks that failed together are not retried together.
struct ExponentialBackoff {
  Duration initial = std::chrono::seconds{1};
  Duration max = std::chrono::hours{1};
  double multiplier = 2.0;
  double jitter = 0.2;  ///< From 0 (none) to 1.

  Duration operator()(const FailedAttempt& attempt) const noexcept {
    const double ceiling = std::chrono::duration<double>{max}.count();
    double delay = std::chrono::duration<double>{initial}.count();
    if (!(delay > 0.0)) return Duration{0};
    delay *= power(multiplier, attempt.retried);
    if (delay > ceiling) delay = ceiling;
    delay *= 1.0 + jitter * (2.0 * attempt.random - 1.0);
    return AsynqRetryDelay::bounded(delay < ceiling ? delay : ceiling);
  }

 private:
  /// Returns `base` to the power of `exponent`, by squaring, since a peer may write any retry
  /// count. A base of 1 or less does not shrink the delay. The result may be infinite.
  static constexpr double power(double base, int exponent) noexcept {
    double result = 1.0;
    if (!(base > 1.0)) return result;
    for (; exponent > 0; exponent /= 2, base *= base) {
      if (exponent % 2 == 1) result *= base;
    }
    return result;
  }
};

/// The same delay after every failure.
struct FixedDelay {
  Duration delay = std::chrono::seconds{1};

  Duration operator()(const FailedAttempt&) const noexcept { return delay; }
};

}  // namespace v0
}  // namespace taskmux
