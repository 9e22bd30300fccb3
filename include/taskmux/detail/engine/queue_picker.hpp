#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/uuid.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Decides which queues free slots go to. Weighted: each slot draws a queue in proportion to its
/// priority. Strict: every slot goes to the highest priority that has a task (ties by name). Not
/// thread-safe.
class QueuePicker {
 public:
  QueuePicker(const std::map<std::string, int>& queues, bool strict, Random random = Random{})
      : strict_{strict}, random_{random} {
    for (const auto& [name, priority] : queues) {
      queues_.push_back({name, static_cast<std::uint64_t>(priority)});
      total_ += static_cast<std::uint64_t>(priority);
    }
    std::stable_sort(queues_.begin(), queues_.end(),
                     [](const Queue& a, const Queue& b) { return a.priority > b.priority; });
  }

  /// How `slots` slots are to be shared out. All queues are in it, since one that has nothing
  /// leaves its slots to the others: strictly, in the order of priority; weighted, in an order that
  /// is drawn by weight too.
  std::vector<QueueQuota> share(std::size_t slots) {
    std::vector<QueueQuota> quotas;
    quotas.reserve(queues_.size());
    if (queues_.size() == 1 || strict_) {
      for (const Queue& queue : queues_) quotas.push_back({queue.name, quotas.empty() ? slots : 0});
      return quotas;
    }
    std::vector<Queue*> left;
    for (Queue& queue : queues_) {
      // The whole part of the fair share is certain; only the rest is drawn.
      queue.drawn = slots / total_ * queue.priority;
      left.push_back(&queue);
    }
    for (std::uint64_t n = slots % total_; n > 0; --n) ++draw(left, total_)->drawn;
    for (std::uint64_t weight = total_; !left.empty();) {
      Queue* const queue = draw(left, weight);
      quotas.push_back({queue->name, queue->drawn});
      weight -= queue->priority;
      left.erase(std::find(left.begin(), left.end(), queue));
    }
    return quotas;
  }

 private:
  struct Queue {
    std::string name;
    std::uint64_t priority = 1;
    std::size_t drawn = 0;
  };

  Queue* draw(const std::vector<Queue*>& queues, std::uint64_t weight) {
    std::uint64_t at = random_.below(weight);
    for (Queue* const queue : queues) {
      if (at < queue->priority) return queue;
      at -= queue->priority;
    }
    return queues.back();
  }

  const bool strict_;
  Random random_;
  std::vector<Queue> queues_;
  std::uint64_t total_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
