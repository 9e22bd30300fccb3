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

/// One background role: calls `step` on its own thread, again whenever it is woken or when the
/// instant has come that the last call returned (nullopt: only when woken; an instant in the past:
/// at once). If a step throws, the error is logged and the step is retried after 100 ms. Tests call
/// the step themselves.
class LoopThread {
 public:
  using Step = std::function<std::optional<SteadyTime>()>;

  LoopThread(std::string name, std::shared_ptr<Clock> clock, const Logger& logger, Step step)
      : name_{std::move(name)}, clock_{std::move(clock)}, logger_{logger}, step_{std::move(step)} {}
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;
  ~LoopThread() { stop(); }

  /// Starts the thread, with the signals `mask` blocked. Call it once. Throws std::system_error if
  /// no thread can be started.
  void start(std::function<void()> on_start, const sigset_t& mask = all_signals()) {
    thread_ = start_thread(name_, mask, std::move(on_start), [this] { loop(); });
  }

  /// Makes the thread call the step soon. Cheap while it is awake. Thread-safe, whether the thread
  /// is running or not.
  void wake() { waker_.notify(); }

  /// Returns whether the calling thread is this one.
  bool is_current() const noexcept { return id_.load() == std::this_thread::get_id(); }

  /// Ends the thread: waits for the present step to end, unless called on this thread; no step
  /// follows. Does nothing if it was not started.
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
    id_ = std::thread::id{};  // The id may be reused by a thread of the application.
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
