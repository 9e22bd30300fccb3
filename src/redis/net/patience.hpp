#pragma once

#include <algorithm>
#include <chrono>
#include <string>

#include "taskmux/clock.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {

/// A call was given up: its time was over before all replies had come.
class TimedOut : public Error {
 public:
  TimedOut(const std::string& text, bool was_moving)
      : Error{Errc::unavailable, text}, was_moving_{was_moving} {}

  /// Whether bytes still moved: the line is too slow for the call, rather than silent.
  bool was_moving() const noexcept { return was_moving_; }

 private:
  bool was_moving_;
};

/// How long a call waits. It ends at `deadline()`, which each byte that moves, in either direction, puts
/// off to `after_progress` later, but never beyond `last`. A plain value of one call.
class Patience {
 public:
  using Span = SteadyTime::duration;

  /// Nothing puts the deadline off.
  Patience(SteadyTime deadline) : Patience{deadline, Span{0}, deadline} {}
  Patience(SteadyTime deadline, Span after_progress, SteadyTime last)
      : deadline_{std::min(deadline, last)}, after_progress_{after_progress}, last_{last} {}

  SteadyTime deadline() const noexcept { return deadline_; }
  /// Whether the call ran into its last limit, although bytes moved.
  bool was_moving() const noexcept {
    return moved_ && after_progress_ > Span{0} && deadline_ == last_;
  }

  void progressed(SteadyTime now) {
    moved_ = true;
    deadline_ = std::max(deadline_, std::min(now + after_progress_, last_));
  }

  /// When to look next whether bytes have moved that the kernel holds.
  SteadyTime next_look(SteadyTime now) const {
    constexpr Span longest = std::chrono::milliseconds{100};
    const Span step = after_progress_ > Span{0} ? after_progress_ / 8 : longest;
    return std::min(deadline_, now + std::min(step, longest));
  }

 private:
  SteadyTime deadline_;
  Span after_progress_;
  SteadyTime last_;
  bool moved_ = false;
};

}  // namespace taskmux::redis
