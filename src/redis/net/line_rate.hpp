#pragma once

#include <atomic>
#include <cstddef>

#include "taskmux/clock.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// How many bytes one call should move, learnt from the calls before, so that on a slow line a call takes
/// a fraction of the command timeout. Thread-safe.
class LineRate {
 public:
  static constexpr std::size_t least = 16u << 10;
  static constexpr std::size_t most = 4u << 20;

  explicit LineRate(Duration command_timeout) noexcept : target_{command_timeout / 4} {}

  /// Between `least` and `most`. A call may always carry one item, however large.
  std::size_t budget() const noexcept { return budget_.load(std::memory_order_relaxed); }

  /// A call has moved `bytes` within `time`: doubles the budget while a call that uses it takes less than
  /// half of the target, and shrinks it to what the target allows if one took more than twice as long.
  /// Small calls say nothing of the line.
  void moved(std::size_t bytes, SteadyTime::duration time) noexcept;

  /// A call was given up after it had moved `bytes`, for any reason: the next ones carry a quarter.
  void timed_out(std::size_t bytes) noexcept;

  /// How many bytes the last call that was given up had moved.
  std::size_t carried() const noexcept { return carried_.load(std::memory_order_relaxed); }

 private:
  void change(std::size_t from, std::size_t to) noexcept;

  const SteadyTime::duration target_;
  std::atomic<std::size_t> budget_{256u << 10};
  std::atomic<std::size_t> carried_{0};
};

}  // namespace taskmux::redis
