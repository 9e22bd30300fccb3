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

/// Numbered weights, of which one is drawn in proportion to its weight: a Fenwick tree of their sums.
class WeightTree {
 public:
  /// In the order of their numbers.
  void push_back(std::uint64_t weight) {
    const std::size_t at = sums_.size() + 1;
    for (std::size_t step = 1; (at & step) == 0; step <<= 1) weight += sums_[at - step - 1];
    sums_.push_back(weight);
  }

  /// The number of the weight that covers `point`, if they stand side by side from 0 on; below their sum.
  std::size_t find(std::uint64_t point) const noexcept {
    std::size_t found = 0;
    std::size_t step = 1;
    while (step <= sums_.size() / 2) step <<= 1;
    for (; step > 0; step >>= 1) {
      if (found + step > sums_.size() || sums_[found + step - 1] > point) continue;
      found += step;
      point -= sums_[found - 1];
    }
    return found;
  }

  /// Takes the weight off, which becomes 0.
  void remove(std::size_t number, std::uint64_t weight) noexcept {
    for (std::size_t at = number + 1; at <= sums_.size(); at += at & (~at + 1))
      sums_[at - 1] -= weight;
  }

 private:
  std::vector<std::uint64_t> sums_;  // [i - 1]: of the last (i & -i) weights up to number i - 1
};

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
    std::sort(queues_.begin(), queues_.end(), [](const Queue& a, const Queue& b) {
      return a.priority != b.priority ? a.priority > b.priority : a.name < b.name;
    });
    for (const Queue& queue : queues_) weights_.push_back(queue.priority);
  }

  /// Distributes `slots` slots over the queues. The result contains all queues, since a queue
  /// without tasks leaves its slots to the others: with strict priority in the order of priority;
  /// with weights in an order that is drawn by weight, too.
  std::vector<QueueQuota> share(std::size_t slots) {
    std::vector<QueueQuota> quotas;
    quotas.reserve(queues_.size());
    if (queues_.size() == 1 || strict_) {
      for (const Queue& queue : queues_) quotas.push_back({queue.name, quotas.empty() ? slots : 0});
      return quotas;
    }
    // The whole part of the fair share is certain; only the rest is drawn.
    for (Queue& queue : queues_) queue.drawn = slots / total_ * queue.priority;
    for (std::uint64_t n = slots % total_; n > 0; --n)
      ++queues_[weights_.find(random_.below(total_))].drawn;
    WeightTree left = weights_;
    for (std::uint64_t weight = total_; weight > 0;) {
      const std::size_t number = left.find(random_.below(weight));
      const Queue& queue = queues_[number];
      quotas.push_back({queue.name, queue.drawn});
      weight -= queue.priority;
      left.remove(number, queue.priority);
    }
    return quotas;
  }

 private:
  struct Queue {
    std::string name;
    std::uint64_t priority = 1;
    std::size_t drawn = 0;
  };

  const bool strict_;
  Random random_;
  std::vector<Queue> queues_;
  WeightTree weights_;  // as queues_
  std::uint64_t total_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
