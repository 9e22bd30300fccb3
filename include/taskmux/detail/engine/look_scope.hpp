#pragma once

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/clock.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Which queues the next look must ask. While the watch is armed, all queues are known to be empty
/// except those that hints name, so a lone task costs no look at each of many queues. The first
/// hint ends what the watch knows of the others, so a narrow scope holds for a moment only: for 100
/// ms, for two looks (one that takes a lone task, and one that settles it), and until all workers
/// are busy, since the next worker to be free must get what comes first by priority. Not
/// thread-safe.
class LookScope {
 public:
  bool is_all() const noexcept { return !only_; }
  bool is_none() const noexcept { return only_ && only_->empty(); }
  bool includes(const std::string& queue) const noexcept {
    return !only_ || std::find(only_->begin(), only_->end(), queue) != only_->end();
  }

  void set_all() noexcept { only_.reset(); }

  /// All queues are empty, and the watch is armed.
  void set_none() noexcept {
    only_.emplace();
    looks_left_ = most_looks;
    until_ = SteadyTime::max();
  }

  /// Hints named `queues`; nullopt for all. Has no effect if the scope is all queues already.
  void add(std::optional<std::vector<std::string>>&& queues, SteadyTime now) noexcept {
    if (!queues) set_all();
    if (!only_) return;
    if (until_ == SteadyTime::max()) until_ = now + longest;
    try {
      for (std::string& queue : *queues) only_->push_back(std::move(queue));
    } catch (...) {
      set_all();  // Out of memory: a hint must not be lost.
    }
  }

  void expire(SteadyTime now) noexcept {
    if (now >= until_) set_all();
  }

  /// A look asked the queues of the scope. `all_busy`: it found a task for each worker.
  void looked(bool all_busy) noexcept {
    if (only_ && (all_busy || --looks_left_ == 0)) set_all();
  }

 private:
  static constexpr int most_looks = 2;
  static constexpr Duration longest = std::chrono::milliseconds{100};

  /// Unset: all queues.
  std::optional<std::vector<std::string>> only_;
  SteadyTime until_{};
  int looks_left_ = 0;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
