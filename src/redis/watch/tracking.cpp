#include "redis/watch/tracking.hpp"

#include <algorithm>
#include <chrono>

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr auto first_pause = 1s;
constexpr SteadyTime::duration second_pause = 15s;
constexpr SteadyTime::duration longest_pause = 5min;
constexpr auto eviction_window = 2s;
constexpr auto long_enough = 10s;

}  // namespace

bool Tracking::looked(SteadyTime now) noexcept {
  look_is_whole_ = true;
  if (faults_ == 0) return false;
  if (works_since_ == SteadyTime{}) works_since_ = now;
  if (now - works_since_ < long_enough) return false;
  const bool reported = faults_ > 1;
  faults_ = 0;
  return reported;
}

bool Tracking::evicted(SteadyTime now) noexcept {
  if (!look_is_whole_ || !allowed(now)) return false;
  look_is_whole_ = false;
  evictions_[next_eviction_] = now;
  next_eviction_ = (next_eviction_ + 1) % evictions_.size();
  const SteadyTime earliest = evictions_[next_eviction_];
  if (earliest == SteadyTime{} || now - earliest > eviction_window) return false;
  return pause(now);
}

bool Tracking::refused(SteadyTime now) noexcept { return pause(now); }

bool Tracking::pause(SteadyTime now) noexcept {
  auto length = second_pause;
  for (int i = 1; i < faults_ && length < longest_pause; ++i) length *= 2;
  resume_at_ = now + (faults_ == 0 ? first_pause : std::min(length, longest_pause));
  works_since_ = {};
  evictions_ = {};
  look_is_whole_ = false;
  return ++faults_ == 2;
}

}  // namespace taskmux::redis
