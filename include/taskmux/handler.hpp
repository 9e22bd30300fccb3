#pragma once

#include <any>
#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "taskmux/detail/base/config.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/retry.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

class ServeMux;
class TaskHandler;

namespace detail {
class RunState;
}  // namespace detail

/// How a handler's attempt ended. The default is success.
class [[nodiscard]] Outcome {
 public:
  enum class Kind { success, failure, skip_retry, revoke, retry_after, snooze };

  /// Success.
  Outcome() = default;

  static Outcome success() { return {}; }
  /// The attempt failed: the task is retried after the policy's delay, or archived if no retry is
  /// left. `error` is stored with the task; invalid UTF-8 is replaced, and a long text is
  /// truncated.
  static Outcome fail(std::string error) { return {Kind::failure, std::move(error), {}}; }
  /// The attempt failed for good: the task is archived at once, even if retries are left.
  static Outcome skip_retry(std::string error) { return {Kind::skip_retry, std::move(error), {}}; }
  /// The task is not needed any more: it is deleted, even if it has a retention. Counts as a
  /// success.
  static Outcome revoke() { return {Kind::revoke, {}, {}}; }
  /// The attempt failed: the task is retried after `delay` instead of the policy's delay. A
  /// negative delay counts as 0.
  static Outcome retry_after(Duration delay, std::string error = "retry asked for by the handler") {
    return {Kind::retry_after, std::move(error), delay};
  }
  /// The task is scheduled again after `delay`. Uses no retry, and counts neither as a success nor
  /// as a failure. A negative delay counts as 0.
  static Outcome snooze(Duration delay) { return {Kind::snooze, {}, delay}; }

  Kind kind() const noexcept { return kind_; }
  /// Returns whether the attempt failed in some way (failure, skip_retry, retry_after).
  bool failed() const noexcept {
    return kind_ == Kind::failure || kind_ == Kind::skip_retry || kind_ == Kind::retry_after;
  }
  /// Returns the error; empty unless failed().
  const std::string& error() const noexcept { return error_; }
  /// Returns the delay of retry_after and snooze.
  Duration delay() const noexcept { return delay_; }

 private:
  Outcome(Kind kind, std::string error, Duration delay)
      : kind_{kind}, error_{std::move(error)}, delay_{delay} {}

  Kind kind_ = Kind::success;
  std::string error_;
  Duration delay_{};
};

/// A handler may throw this instead of returning Outcome::skip_retry.
class TASKMUX_API SkipRetry : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A handler may throw this instead of returning Outcome::revoke.
class TASKMUX_API RevokeTask : public std::exception {
 public:
  const char* what() const noexcept override { return "revoke task"; }
};

/// A handler may throw this instead of returning Outcome::retry_after.
class TASKMUX_API RetryAfter : public std::runtime_error {
 public:
  explicit RetryAfter(Duration delay, const std::string& error = "retry asked for by the handler")
      : std::runtime_error{error}, delay_{delay} {}
  Duration delay() const noexcept { return delay_; }

 private:
  Duration delay_;
};

/// Why a run was asked to stop.
enum class StopReason {
  none,        ///< It was not asked to stop.
  timeout,     ///< Its timeout or deadline has passed.
  cancelled,   ///< An operator cancelled it.
  lease_lost,  ///< Another worker may own it now; its outcome will not be recorded.
  shutdown,    ///< The server shuts down; an unfinished task returns to its queue.
  ended,       ///< The handler has returned: a copy of its Context is still in use.
};

constexpr std::string_view to_string(StopReason reason) noexcept {
  switch (reason) {
    case StopReason::none: return "none";
    case StopReason::timeout: return "timeout";
    case StopReason::cancelled: return "cancelled";
    case StopReason::lease_lost: return "lease lost";
    case StopReason::shutdown: return "shutdown";
    case StopReason::ended: return "ended";
  }
  return "unknown";
}

/// A handler's view of the run that it executes. Copies share the state of the run. A copy may
/// outlive the call, the server and the broker: in a thread that may outlive the handler, capture a
/// copy, not a reference. Each copy keeps the message of the task and the values of set_value()
/// alive. Thread-safe.
///
/// Once the handler and all middleware have returned, the run has ended: the stop token is
/// requested, stop_reason() is StopReason::ended, waits end at once, value() finds nothing, and
/// results, values and log entries are dropped. The same holds for a handler that was abandoned
/// because it did not stop in time.
class Context {
 public:
  explicit Context(std::shared_ptr<detail::RunState> state) noexcept : state_{std::move(state)} {}
  Context(const Context&) = default;
  Context& operator=(const Context&) = default;

  std::string_view task_id() const noexcept;
  std::string_view queue() const noexcept;
  std::string_view type() const noexcept;
  const Headers& headers() const noexcept;
  /// Returns how often this task has failed before; 0 in the first attempt.
  int retry_count() const noexcept;
  int max_retry() const noexcept;
  /// Returns when the time of this attempt is over, on the wall clock.
  Time deadline() const noexcept;

  /// Requested when the attempt should end. A long-running handler must check it, or use
  /// wait_for(); a handler that continues for ServerConfig::abandon_after longer is abandoned. A
  /// handler that ends before its work is done must report that: by Outcome::fail(), by an
  /// exception, or, if it is a callable that returns void, by returning. Outcome::success() is
  /// always a success. The token is also requested when the run ends, for those who hold it longer.
  /// A std::stop_callback on it runs on the server's thread that watches all runs, or on the
  /// worker's thread: it must not wait, and must not throw.
  std::stop_token stop_token() const;
  bool stop_requested() const noexcept;
  /// Returns why the run was asked to stop; StopReason::none unless stop_requested().
  StopReason stop_reason() const noexcept;

  /// Waits for `duration`. Returns false if the run is asked to stop in the meantime, or was asked
  /// before.
  bool wait_for(Duration duration) const;

  /// Sets the result that is stored with the task (see EnqueueOptions::retention); the last call
  /// counts. It is written when the run is settled. Throws Error{payload_too_large} for more than
  /// ServerConfig::max_result_bytes; an earlier result is kept then. If the connection to the
  /// broker is too slow for the result, the task is archived with that reason although its handler
  /// succeeded. Does nothing once the run has ended.
  void set_result(std::string result);

  /// Stores a value for the inner handlers and middleware; replaces a value with the same name.
  /// Does nothing once the run has ended.
  void set_value(std::string name, std::any value);
  /// Returns the value with that name and type; nullptr if there is none, or once the run has
  /// ended. The pointer is valid until the value is replaced, and as long as this Context.
  template <typename T>
  const T* value(std::string_view name) const {
    return std::any_cast<T>(find_value(name));
  }

  /// Writes an entry to the server's logger, with the task's id, type and queue as fields. Costs
  /// almost nothing if the level is not enabled. Does nothing once the run has ended.
  void log(LogLevel level, std::string_view text) const noexcept;

 private:
  const std::any* find_value(std::string_view name) const;

  std::shared_ptr<detail::RunState> state_;  ///< Never null: there is no move.
};

/// The handler of the tasks of a type, and their options. Valid as long as the mux.
struct TaskRoute {
  /// The pattern that matched; in nested muxes the innermost one. Empty if none matched.
  std::string_view pattern{};
  /// Whether a handler is registered for the type: by a pattern, or by ServeMux::not_found().
  bool known = false;
  const RetryPolicy* retry_policy = nullptr;  ///< Null: the server's policy applies.
  std::optional<Duration> timeout{};          ///< Bound of one attempt; unset: the task's only.
  TaskHandler* handler = nullptr;             ///< What the mux calls; never null in a route.
};

/// Runs the tasks of some types. Called from many threads at once. Owned by a ServeMux, and so by
/// the server. Everything that it refers to must outlive all of its calls; a call that hangs and is
/// abandoned (ServerConfig::abandon_after) may outlive the server.
class TASKMUX_API TaskHandler {
 public:
  TaskHandler() = default;
  TaskHandler(const TaskHandler&) = delete;
  TaskHandler& operator=(const TaskHandler&) = delete;
  virtual ~TaskHandler() = default;

  /// Runs one attempt. Exceptions become an Outcome: SkipRetry, RevokeTask and RetryAfter become
  /// what their names say, any other exception becomes a failure with its what(). `task` is valid
  /// during the call.
  virtual Outcome handle(Context& context, const Task& task) = 0;

 protected:
  TaskHandler(TaskHandler&&) = default;
  TaskHandler& operator=(TaskHandler&&) = default;

 private:
  friend class ServeMux;
  /// Adds to `route` what a nested mux knows about `type`.
  virtual void refine(std::string_view, TaskRoute&) const noexcept {}
};

namespace detail {

enum class HandlerFault { none, other_arguments, not_const, other_result };

/// Returns why an F can't be the function of a handler of an Argument.
template <typename F, typename Argument>
constexpr HandlerFault fault_of_handler() {
  if constexpr (!std::invocable<F&, Context&, const Argument&>) {
    return HandlerFault::other_arguments;
  } else if constexpr (!std::invocable<const F&, Context&, const Argument&>) {
    return HandlerFault::not_const;
  } else {
    using Result = std::invoke_result_t<const F&, Context&, const Argument&>;
    if constexpr (std::same_as<Result, Outcome> || std::is_void_v<Result>)
      return HandlerFault::none;
    else
      return HandlerFault::other_result;
  }
}

/// Fails to compile, with the reason why an F can't be the function of a handler.
template <HandlerFault fault>
constexpr void refuse_handler() {
  static_assert(fault != HandlerFault::other_arguments,
                "taskmux: a handler takes (taskmux::Context&, const taskmux::Task&), one of "
                "handle_json<T>() takes (taskmux::Context&, const T&); this function does not");
  static_assert(fault != HandlerFault::not_const,
                "taskmux: a handler is called from many threads at once, so its operator() must be "
                "const: this function, such as a mutable lambda, is refused; keep what changes "
                "outside of it, behind a mutex or in atomics");
  static_assert(fault != HandlerFault::other_result,
                "taskmux: a handler returns taskmux::Outcome, or nothing; this function returns "
                "something else");
}

}  // namespace detail

/// A callable that can be registered in place of a TaskHandler: it takes (Context&, const Task&),
/// returns an Outcome or void, and can be called as a const object, since many threads call it at
/// once. Returning void is a success, but a failure after the run was asked to stop, since the
/// callable may then have returned before its work was done.
template <typename F>
concept HandlerFunction = (detail::fault_of_handler<F, Task>() == detail::HandlerFault::none);

namespace detail {

/// Calls the function of a handler with its task, or with the value that was read from the task.
template <typename F, typename Argument>
Outcome call_function(const F& function, Context& context, const Argument& argument) {
  if constexpr (std::is_void_v<std::invoke_result_t<const F&, Context&, const Argument&>>) {
    std::invoke(function, context, argument);
    if (!context.stop_requested()) return Outcome::success();
    return Outcome::fail("returned after it was asked to stop: " +
                         std::string{to_string(context.stop_reason())});
  } else {
    return std::invoke(function, context, argument);
  }
}

}  // namespace detail

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/run/run_state.hpp"
#endif
