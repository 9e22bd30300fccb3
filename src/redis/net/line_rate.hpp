#pragma once

#include <atomic>
#include <cstddef>

#include "taskmux/clock.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// Estimates from earlier calls how many bytes one call should transfer, so that on a slow
/// connection a call takes a fraction of the command timeout. Thread-safe.
class LineRate {
 public:
  static constexpr std::size_t least = 16u << 10;
  static constexpr std::size_t most = 4u << 20;

  explicit LineRate(Duration command_timeout) noexcept : target_{command_timeout / 4} {}

  /// Returns the budget of one call in bytes, between `least` and `most`. A call may always carry
  /// one item, however large.
  std::size_t budget() const noexcept { return budget_.load(std::memory_order_relaxed); }

  /// Records that a call has transferred `bytes` within `time`. Doubles the budget while a call
  /// that uses it takes less than half of the target; shrinks it to what the target allows if a
  /// call took more than twice the target. Small calls say nothing about the connection.
  void moved(std::size_t bytes, SteadyTime::duration time) noexcept;

  /// Records that a call was abandoned, for any reason, after it had transferred `bytes`: the next
  /// calls carry a quarter.
  void timed_out(std::size_t bytes) noexcept;

  /// Returns how many bytes the last abandoned call had transferred.
  std::size_t carried() const noexcept { return carried_.load(std::memory_order_relaxed); }

 private:
  void change(std::size_t from, std::size_t to) noexcept;

  const SteadyTime::duration target_;
  std::atomic<std::size_t> budget_{256u << 10};
  std::atomic<std::size_t> carried_{0};
};

}  // namespace taskmux::redis
