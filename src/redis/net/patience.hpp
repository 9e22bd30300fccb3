#pragma once

#include <algorithm>
#include <chrono>
#include <string>

#include "taskmux/clock.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {

/// A call was abandoned: its time had elapsed before all replies arrived.
class TimedOut : public Error {
 public:
  TimedOut(const std::string& text, bool was_moving)
      : Error{Errc::unavailable, text}, was_moving_{was_moving} {}

  /// Returns whether bytes were still being transferred: then the connection is too slow for the
  /// call, rather than silent.
  bool was_moving() const noexcept { return was_moving_; }

 private:
  bool was_moving_;
};

/// How long a call waits. It ends at `deadline()`; each byte that is transferred, in either
/// direction, extends the deadline to `after_progress` from then, but never beyond `last`. A plain
/// value for one call.
class Patience {
 public:
  using Span = SteadyTime::duration;

  /// A fixed deadline.
  Patience(SteadyTime deadline) : Patience{deadline, Span{0}, deadline} {}
  Patience(SteadyTime deadline, Span after_progress, SteadyTime last)
      : deadline_{std::min(deadline, last)}, after_progress_{after_progress}, last_{last} {}

  SteadyTime deadline() const noexcept { return deadline_; }
  /// Returns whether the call reached its last limit although bytes were transferred.
  bool was_moving() const noexcept {
    return moved_ && after_progress_ > Span{0} && deadline_ == last_;
  }

  void progressed(SteadyTime now) {
    moved_ = true;
    deadline_ = std::max(deadline_, std::min(now + after_progress_, last_));
  }

  /// Returns when to check again whether the kernel has transferred further bytes.
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
