#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/detail/engine/ready_queue.hpp"
#include "taskmux/detail/run/run_state.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The slots of a server, each for one run at a time: how many are busy, and how many can't be used
/// because their handler hangs or their worker is missing. Computes from this how many tasks may be
/// taken. Contains the queue of the runs that wait for a worker. Does not know how runs are
/// processed, and has no threads. Thread-safe.
class Slots {
 public:
  /// How many tasks may be taken.
  struct Room {
    std::size_t workers = 0;  ///< Free workers for which no run waits.
    std::size_t total = 0;    ///< With those that may wait for a worker for a few milliseconds.
  };

  /// With `most_hung` handlers that hang, no tasks may be taken.
  Slots(std::size_t count, std::size_t most_hung, std::shared_ptr<const Clock> clock)
      : clock_{std::move(clock)},
        count_{count},
        most_hung_{most_hung},
        slots_{std::make_unique<Slot[]>(count)} {}

  std::size_t count() const noexcept { return count_; }
  ReadyQueue& ready() noexcept { return ready_; }
  ReadyQueue::Load load() const { return ready_.load(); }

  Room room() const {
    if (is_full_of_hung()) return {};
    const ReadyQueue::Load load = ready_.load();
    const std::size_t taken = load.busy + load.ready;
    const std::size_t workers = count_ - std::min(missing(), count_);
    const std::size_t places = workers > 0 ? workers + prefetch() : 0;
    return {taken < workers ? workers - taken : 0, taken < places ? places - taken : 0};
  }

  /// Gives up the handler of `run`; returns false if it has just ended. The run is abandoned, and
  /// the caller must settle it. Its slot counts as free: another worker is to use it.
  bool give_up(RunState& run) {
    // First, so that the run counts as busy or hung at each instant.
    hung_.fetch_add(1, std::memory_order_relaxed);
    if (!run.advance(RunState::Phase::running, RunState::Phase::abandoned)) {
      hung_.fetch_sub(1, std::memory_order_relaxed);
      return false;
    }
    ready_.done();
    slots_[run.worker()].busy_since.store(Slot::for_ever, std::memory_order_relaxed);
    return true;
  }
  /// Records that a handler that was given up has returned.
  void note_returned() noexcept { hung_.fetch_sub(1, std::memory_order_relaxed); }
  /// Returns the number of handlers that were given up and have not returned.
  std::size_t hung() const noexcept { return hung_.load(std::memory_order_relaxed); }
  bool is_full_of_hung() const noexcept { return hung() >= most_hung_; }

  /// Sets the number of slots without a worker.
  void set_missing(std::size_t missing) noexcept {
    missing_.store(missing, std::memory_order_relaxed);
  }
  std::size_t missing() const noexcept { return missing_.load(std::memory_order_relaxed); }

  /// Records that a worker started its present run.
  void note_begin(std::size_t slot, SteadyTime at) noexcept {
    slots_[slot].busy_since.store(ns_of(at), std::memory_order_relaxed);
  }
  void note_idle(std::size_t slot) noexcept {
    slots_[slot].busy_since.store(Slot::idle, std::memory_order_relaxed);
  }

  /// Records how long a run took.
  void note_pace(SteadyTime::duration took) noexcept {
    const std::int64_t mean = recent_ns_.load(std::memory_order_relaxed);
    const std::int64_t took_ns = std::chrono::nanoseconds{took}.count();
    recent_ns_.store(mean + (took_ns - mean) / 32, std::memory_order_relaxed);
    if (gave_back_.load(std::memory_order_relaxed))
      gave_back_.store(false, std::memory_order_relaxed);
  }
  /// Records that runs were taken ahead and given back, as no worker took them: none is taken ahead
  /// until a worker has ended a run.
  void gave_back() noexcept { gave_back_.store(true, std::memory_order_relaxed); }

 private:
  /// On a cache line of its own.
  struct alignas(64) Slot {
    /// When its worker started its present run, in nanoseconds of the steady clock.
    std::atomic<std::int64_t> busy_since{idle};

    static constexpr std::int64_t idle = std::numeric_limits<std::int64_t>::max();
    /// No run will start there before the slot has another worker.
    static constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::min();
  };

  /// Returns how many runs all workers together are expected to start within a few milliseconds,
  /// assuming that each run takes as long as recent ones, or as long as the present one has taken.
  std::size_t prefetch() const {
    constexpr std::int64_t window_ns = 4'000'000;
    constexpr std::int64_t most = 512;  // More would not stay in the processor's caches.
    const std::int64_t mean =
        std::max<std::int64_t>(recent_ns_.load(std::memory_order_relaxed), 1000);
    if (mean > window_ns || gave_back_.load(std::memory_order_relaxed)) return 0;
    const std::int64_t now = ns_of(clock_->steady_now());
    std::int64_t sum = 0;
    for (std::size_t slot = 0; slot < count_; ++slot) {
      const std::int64_t since = slots_[slot].busy_since.load(std::memory_order_relaxed);
      if (since <= now - window_ns) continue;
      const std::int64_t age = since == Slot::idle ? 0 : now - since;
      sum += std::min(window_ns / std::max(mean, age), most);
    }
    return static_cast<std::size_t>(sum);
  }

  static std::int64_t ns_of(SteadyTime at) noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
  }

  const std::shared_ptr<const Clock> clock_;
  const std::size_t count_;
  const std::size_t most_hung_;
  ReadyQueue ready_;
  std::atomic<std::size_t> hung_{0};
  std::atomic<std::size_t> missing_{0};
  std::atomic<bool> gave_back_{false};  ///< Reset when a worker ends a run.
  const std::unique_ptr<Slot[]> slots_;
  /// The running mean of the time from the start of a run to the start of the next waiting one; a
  /// lost update does no harm. Starts high, so that nothing is taken ahead before the speed is
  /// known.
  std::atomic<std::int64_t> recent_ns_{
      std::chrono::nanoseconds{std::chrono::milliseconds{100}}.count()};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
