#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/base/thread.hpp"
#include "taskmux/logger.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// One background role: calls `step` on a thread of its own, again whenever it is woken or the time
/// has come that the last call returned (none: only when woken; one that has passed: at once).
/// If a step throws, the error is logged and the step is retried after 100 ms.
/// Tests call the step themselves.
class LoopThread {
 public:
  using Step = std::function<std::optional<SteadyTime>()>;

  LoopThread(std::string name, std::shared_ptr<Clock> clock, const Logger& logger, Step step)
      : name_{std::move(name)}, clock_{std::move(clock)}, logger_{logger}, step_{std::move(step)} {}
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;
  ~LoopThread() { stop(); }

  /// Once, with the signals `mask` blocked. Throws std::system_error if there can be no further
  /// thread.
  void start(std::function<void()> on_start, const sigset_t& mask = all_signals()) {
    thread_ = start_thread(name_, mask, std::move(on_start), [this] { loop(); });
  }

  /// Has the step called soon. Cheap while it is awake. Thread-safe, whether the thread runs or
  /// not.
  void wake() { waker_.notify(); }

  /// Whether the calling thread is this one.
  bool is_current() const noexcept { return id_.load() == std::this_thread::get_id(); }

  /// Waits for the present step to end, unless it is on this thread; there is none after it. Does
  /// nothing if not started.
  void stop() {
    if (!thread_.joinable()) return;
    stopping_ = true;
    waker_.notify();
    if (!is_current()) thread_.join();
  }

 private:
  void loop() {
    id_ = std::this_thread::get_id();
    while (!stopping_) {
      const std::optional<SteadyTime> next = guarded_step();
      if (stopping_) break;
      if (!next || *next > clock_->steady_now()) clock_->wait(waker_, next);
    }
    id_ = std::thread::id{};  // It may come again, for a thread of the host.
  }

  std::optional<SteadyTime> guarded_step() noexcept {
    try {
      return step_();
    } catch (...) {
      log_exception(logger_, "a background step failed");
    }
    return clock_->steady_now() + std::chrono::milliseconds{100};
  }

  const std::string name_;
  const std::shared_ptr<Clock> clock_;
  const Logger& logger_;
  const Step step_;
  Waker waker_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::thread::id> id_{};
  std::thread thread_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
