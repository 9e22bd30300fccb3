#include "redis/net/line_rate.hpp"

#include <algorithm>

namespace taskmux::redis {

void LineRate::moved(std::size_t bytes, SteadyTime::duration time) noexcept {
  if (bytes < least) return;
  const std::size_t budget = this->budget();
  const bool quick = 2 * time <= target_;
  if (!quick && time <= 2 * target_) return;
  // The number of bytes that the target allows at this rate.
  const double ratio = static_cast<double>(target_.count()) /
                       static_cast<double>(std::max<SteadyTime::rep>(time.count(), 1));
  const double allowed = std::min(static_cast<double>(bytes) * ratio, static_cast<double>(most));
  const auto fair = static_cast<std::size_t>(allowed);
  if (!quick) return change(budget, std::min(budget, fair));
  if (bytes >= budget / 2) change(budget, std::max(budget, std::min(2 * budget, fair)));
}

void LineRate::timed_out(std::size_t bytes) noexcept {
  carried_.store(bytes, std::memory_order_relaxed);
  change(budget(), budget() / 4);
}

/// Of several calls that end at the same time, only the first counts.
void LineRate::change(std::size_t from, std::size_t to) noexcept {
  budget_.compare_exchange_strong(from, std::clamp(to, least, most), std::memory_order_relaxed);
}

}  // namespace taskmux::redis
