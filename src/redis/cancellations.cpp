#include "redis/cancellations.hpp"

#include <chrono>

namespace taskmux::redis {

bool Cancellations::hear(const std::string& node, const std::string& task_id, SteadyTime now) {
  Told& task = tasks_[task_id];
  task.at = now;
  const int heard = ++task.heard[node];
  if (heard <= task.times) return false;
  task.times = heard;
  return true;
}

void Cancellations::forget_old(SteadyTime now) {
  using namespace std::chrono_literals;
  std::erase_if(tasks_, [now](const auto& each) { return now - each.second.at >= 15s; });
}

}  // namespace taskmux::redis
