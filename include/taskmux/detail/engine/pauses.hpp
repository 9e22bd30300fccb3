#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The pause after a call that failed. It doubles with each failure, from 50 ms to 300 ms, and is
/// spread at random, so that a fleet does not come back at one instant. The upper bound is low
/// because a server must work again within a second of its broker's return; a broker that can't be
/// reached has to make calls cheap by itself. Not thread-safe.
class Backoff {
 public:
  Duration next(Random& random) noexcept {
    const Duration step = current_;
    current_ = std::min<Duration>(current_ * 2, std::chrono::milliseconds{300});
    return std::chrono::duration_cast<Duration>(step * (0.5 + random.unit()));
  }
  void reset() noexcept { current_ = first; }

 private:
  static constexpr Duration first = std::chrono::milliseconds{50};
  Duration current_ = first;
};

/// The pause after a wake that found no task, because another server was faster: a fleet that is
/// woken by one task must not look again all at once. It is drawn at random from 0.5 ms to an upper
/// bound, which is 20 ms at first. Not thread-safe.
class WakePause {
 public:
  /// `slept` is how long the sleep lasted. Hints that follow one another closely and lead to no
  /// task, whatever their source, double the upper bound, up to 500 ms; a longer sleep resets it.
  Duration next(Random& random, SteadyTime::duration slept) noexcept {
    if (slept > longest_) reset();
    const auto range = static_cast<std::uint64_t>((longest_ - shortest).count());
    const Duration pause = shortest + Duration{static_cast<Duration::rep>(random.below(range))};
    longest_ = std::min<Duration>(2 * longest_, std::chrono::milliseconds{500});
    return pause;
  }
  void reset() noexcept { longest_ = first_longest; }

 private:
  static constexpr Duration shortest = std::chrono::microseconds{500};
  static constexpr Duration first_longest = std::chrono::milliseconds{20};
  Duration longest_ = first_longest;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
