#pragma once

#include <array>
#include <cstddef>

#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// Decides whether the keys of watched queues are tracked at a server, or polled for a while
/// because tracking does not work there: it is refused, or the server's table of tracked keys is
/// too small, so that each look evicts the keys that it has just armed and causes a notification at
/// once.
///
/// The first pause lasts 1 s. A fault that persists after it is reported, and tracking is tried
/// again after pauses of 15 s to 5 min. Not thread-safe.
class Tracking {
 public:
  /// Returns whether a look may arm notifications at `now`.
  bool allowed(SteadyTime now) const noexcept { return now >= resume_at_; }

  /// Records that a look armed notifications at `now`. Returns whether that ends a reported fault:
  /// tracking has worked for 10 s.
  bool looked(SteadyTime now) noexcept;

  /// Records a notification at `now` that the server evicted a key which nobody writes. Pauses
  /// tracking when that happens to five looks within 2 s. Returns whether to report the fault.
  bool evicted(SteadyTime now) noexcept;

  /// Records that the server refused to track at `now`, and pauses tracking. Returns whether to
  /// report the fault.
  bool refused(SteadyTime now) noexcept;

 private:
  static constexpr std::size_t most_evictions = 5;

  bool pause(SteadyTime now) noexcept;

  SteadyTime resume_at_{};
  SteadyTime works_since_{};
  std::array<SteadyTime, most_evictions> evictions_{};  // a ring buffer: when looks were evicted
  std::size_t next_eviction_ = 0;
  bool look_is_whole_ = false;  // no key of the last look is known to be evicted
  int faults_ = 0;              // in a row
};

}  // namespace taskmux::redis
