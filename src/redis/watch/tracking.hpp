#pragma once

#include <array>
#include <cstddef>

#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// Decides whether the keys of watched queues are tracked at a server, or polled for a while because
/// tracking does not work there: it is refused, or the server's table of tracked keys is too small,
/// so that each look evicts what it arms and causes a notice at once.
///
/// The first pause lasts 1 s. A fault that is still there after it is reported, and is tried again
/// after pauses of 15 s to 5 min. Not thread-safe.
class Tracking {
 public:
  /// Whether a look may arm notices at `now`.
  bool allowed(SteadyTime now) const noexcept { return now >= resume_at_; }

  /// A look armed notices at `now`. Returns whether that ends a fault that was reported: tracking has
  /// worked for 10 s.
  bool looked(SteadyTime now) noexcept;

  /// A notice at `now` says that the server evicted a key which nobody writes. Pauses tracking when
  /// that happens to five looks within 2 s. Returns whether the fault is to be reported.
  bool evicted(SteadyTime now) noexcept;

  /// The server refused to track at `now`: pauses tracking. Returns whether that is to be reported.
  bool refused(SteadyTime now) noexcept;

 private:
  static constexpr std::size_t most_evictions = 5;

  bool pause(SteadyTime now) noexcept;

  SteadyTime resume_at_{};
  SteadyTime works_since_{};
  std::array<SteadyTime, most_evictions> evictions_{};  // a ring: when looks were found evicted
  std::size_t next_eviction_ = 0;
  bool look_is_whole_ = false;  // nothing of the last look is known to be evicted
  int faults_ = 0;              // in a row
};

}  // namespace taskmux::redis
