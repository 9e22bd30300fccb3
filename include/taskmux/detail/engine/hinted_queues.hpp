#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/detail/base/mutex.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Collects the hints of a watch until the exchanging thread takes them. Thread-safe.
class HintedQueues {
 public:
  struct News {
    /// Whether there was a hint that the report of `take` did not include.
    bool any = false;
    /// The queues that were named; nullopt for all.
    std::optional<std::vector<std::string>> queues{};
  };

  /// Something may be ready in `queue`, in any if that is empty; see Hint::report.
  void add(std::string_view queue, std::uint64_t report) noexcept TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      newest_ = std::max(newest_, report == 0 ? unnumbered : report);
      add_name(queue);
    }
    waiting_.store(true, std::memory_order_release);
  }

  /// Returns the hints since the last call, and forgets them. `report` is the number of the
  /// caller's last report. A hint may arrive late: after a look has found its task, and after the
  /// watch was armed again. It is ignored then: a look for it would find nothing, and cause a pause.
  News take(std::uint64_t report) noexcept TASKMUX_EXCLUDES(mutex_) {
    News news;
    if (!waiting_.exchange(false, std::memory_order_acq_rel)) return news;
    MutexLock lock{mutex_};
    const std::uint64_t newest = std::exchange(newest_, 0);
    news.any = newest != 0 && newest >= report;
    if (std::exchange(all_, false)) {
      names_.clear();
    } else {
      news.queues = std::exchange(names_, {});
    }
    return news;
  }

 private:
  void add_name(std::string_view queue) noexcept TASKMUX_REQUIRES(mutex_) {
    if (all_) return;
    try {
      if (queue.empty() || names_.size() == most) {
        all_ = true;
      } else if (std::find(names_.begin(), names_.end(), queue) == names_.end()) {
        names_.emplace_back(queue);
      }
    } catch (...) {
      all_ = true;  // Out of memory: a hint must not be lost.
    }
  }

  static constexpr std::size_t most = 8;
  static constexpr std::uint64_t unnumbered = std::numeric_limits<std::uint64_t>::max();

  Mutex mutex_;
  /// The newest report of a hint; 0 without a hint.
  std::uint64_t newest_ TASKMUX_GUARDED_BY(mutex_) = 0;
  std::vector<std::string> names_ TASKMUX_GUARDED_BY(mutex_);
  bool all_ TASKMUX_GUARDED_BY(mutex_) = false;
  std::atomic<bool> waiting_{false};  ///< Spares a turn without hints the lock.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
