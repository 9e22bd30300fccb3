#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <string>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"

namespace taskmux::test {

/// Collects the hints of a watch. Thread-safe; must outlive the watch.
class HintBox {
 public:
  auto callback() {
    return [this](const Hint& hint) {
      std::lock_guard lock{mutex_};
      hints_.push_back(hint);
      arrived_.notify_all();
    };
  }

  /// Removes all hints; returns whether a `ready` hint arrived within `limit`.
  bool ready(std::chrono::milliseconds limit = std::chrono::seconds{2}) {
    return ready_by(std::chrono::steady_clock::now() + limit);
  }

  bool ready_by(SteadyTime deadline) {
    std::unique_lock lock{mutex_};
    const bool came = arrived_.wait_until(lock, deadline, [this] { return count_of({}) > 0; });
    hints_.clear();
    return came;
  }

  /// Returns whether a cancellation of `task` arrived within `limit`. Removes no hint.
  bool cancelled(const std::string& task,
                 std::chrono::milliseconds limit = std::chrono::seconds{10}) {
    std::unique_lock lock{mutex_};
    return arrived_.wait_for(lock, limit, [&] { return count_of(task) > 0; });
  }

  std::size_t count() {
    std::lock_guard lock{mutex_};
    return hints_.size();
  }

  /// Returns the queue that the first cancellation of `task` named.
  std::string queue_of(const std::string& task) {
    std::lock_guard lock{mutex_};
    for (const Hint& hint : hints_) {
      if (hint.kind == Hint::Kind::cancel && hint.task_id == task) return hint.queue;
    }
    return "(none)";
  }

  std::size_t cancellations(const std::string& task) {
    std::lock_guard lock{mutex_};
    return count_of(task);
  }

 private:
  std::size_t count_of(const std::string& task) const {
    const auto of_task = [&](const Hint& hint) {
      return (hint.kind == Hint::Kind::cancel) == !task.empty() && hint.task_id == task;
    };
    return static_cast<std::size_t>(std::count_if(hints_.begin(), hints_.end(), of_task));
  }

  std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<Hint> hints_;
};

}  // namespace taskmux::test
