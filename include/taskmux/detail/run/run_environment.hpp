#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The way from runs to the server's logger, which the server closes when it goes: a hung handler's
/// thread may outlive it. Holds no lock while an entry is written. Thread-safe.
class LogGate {
 public:
  explicit LogGate(Logger logger) : logger_{std::move(logger)} {}

  bool enabled(LogLevel level) const noexcept { return logger_.enabled(level); }

  void log(const LogRecord& record) noexcept {
    // In this order, so that close() sees either the writer or no further one.
    writers_.fetch_add(1);
    if (open_.load()) logger_(record);
    if (writers_.fetch_sub(1) == 1 && !open_.load()) writers_.notify_all();
  }

  /// Later entries go nowhere.
  void shut() noexcept { open_.store(false); }

  /// The same, and returns when no entry is being written any more.
  void close() noexcept {
    open_.store(false);
    for (int writers = writers_.load(); writers > 0; writers = writers_.load())
      writers_.wait(writers);
  }

 private:
  const Logger logger_;
  std::atomic<bool> open_{true};
  std::atomic<int> writers_{0};
};

/// What all runs of one server share; owned by them too, so that it outlives the server if a
/// handler hangs.
struct RunEnvironment {
  std::shared_ptr<Clock> clock;
  LogGate log;
  const std::size_t max_result_bytes;

  RunEnvironment(std::shared_ptr<Clock> c, Logger logger,
                 std::size_t most_result_bytes = Limits::result_bytes)
      : clock{std::move(c)}, log{std::move(logger)}, max_result_bytes{most_result_bytes} {}
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
