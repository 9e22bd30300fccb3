#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "taskmux/detail/base/config.hpp"
#include "taskmux/handler.hpp"
#include "taskmux/retry.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// Options of a registration, for all tasks of its type. In nested muxes, options that the inner
/// registration leaves out are taken from the outer one.
struct HandleOptions {
  /// Replaces the server's retry policy. Empty: the server's applies.
  RetryPolicy retry_policy{};
  /// Upper bound of one attempt; can only shorten the timeout of the task itself.
  std::optional<Duration> timeout{};
};

/// The rest of the chain, as seen by a Middleware: the inner middleware and the handler. Valid only
/// during the call.
class Next {
 public:
  /// Runs the rest of the chain. Never throws: exceptions of the handler become an Outcome.
  Outcome operator()(Context& context, const Task& task) const noexcept;

 private:
  friend class ServeMux;
  using Chain = std::vector<std::function<Outcome(Context&, const Task&, const Next&)>>;
  Next(const Chain& chain, std::size_t index, TaskHandler& handler) noexcept
      : chain_{chain}, index_{index}, handler_{handler} {}

  const Chain& chain_;
  std::size_t index_;
  TaskHandler& handler_;
};

/// Wraps every handler of a mux. Called with the task and the rest of the chain, which it may or
/// may not run.
using Middleware = std::function<Outcome(Context&, const Task&, const Next&)>;

/// Routes tasks to handlers by their type, as asynq's ServeMux does: to the pattern that equals the
/// type, else to the longest pattern that is a prefix of it ("email:" matches "email:welcome", and
/// "email" matches "emailing"), else to the not-found handler. There are no wildcards.
///
/// Register before the mux is passed to a Server; read-only, and thread-safe, afterwards.
///
/// A mux is a handler itself, so muxes can be nested: the inner mux routes the whole type again.
/// Middleware of the outer mux wraps that of the inner mux. Options of the inner registration take
/// precedence (see HandleOptions). The options of a mux that is called by a handler of your own
/// have no effect.
class TASKMUX_API ServeMux final : public TaskHandler {
 public:
  ServeMux();
  ServeMux(ServeMux&&) noexcept;
  ServeMux& operator=(ServeMux&&) noexcept;
  TASKMUX_INLINE ~ServeMux() override;

  /// Registers a handler. Throws std::invalid_argument for a blank pattern, a null handler, a
  /// pattern that is already registered, or a timeout that is not positive.
  void handle(std::string pattern, std::unique_ptr<TaskHandler> handler,
              HandleOptions options = {});

  /// Registers a callable that takes (Context&, const Task&) and returns an Outcome or void (see
  /// HandlerFunction). It is called from many threads at once, so it must be callable as a const
  /// object: a mutable lambda does not compile.
  template <typename F>
  requires(!std::convertible_to<F, std::unique_ptr<TaskHandler>>) void handle(
      std::string pattern, F function, HandleOptions options = {}) {
    if constexpr (HandlerFunction<F>) {
      if (!has_target(function))
        throw std::invalid_argument{"ServeMux::handle: no handler for \"" + pattern + '"'};
      handle(std::move(pattern), std::make_unique<FunctionHandler<F>>(std::move(function)),
             std::move(options));
    } else {
      detail::refuse_handler<detail::fault_of_handler<F, Task>()>();
    }
  }

  /// Adds a middleware; the first one is the outermost. Every middleware applies to all patterns
  /// and to the not-found handler, whatever the order of registration. Throws std::invalid_argument
  /// for an empty function.
  void use(Middleware middleware);

  /// Replaces the handler for types that match no pattern. The default handler fails with `handler
  /// not found for task "<type>"`, which is retried like any failure: another server may know the
  /// type.
  /// Throws std::invalid_argument for null.
  void not_found(std::unique_ptr<TaskHandler> handler);
  template <typename F>
  requires(!std::convertible_to<F, std::unique_ptr<TaskHandler>>) void not_found(F function) {
    if constexpr (HandlerFunction<F>) {
      if (!has_target(function)) throw std::invalid_argument{"ServeMux::not_found: no handler"};
      not_found(std::make_unique<FunctionHandler<F>>(std::move(function)));
    } else {
      detail::refuse_handler<detail::fault_of_handler<F, Task>()>();
    }
  }

  /// Routes the task and runs its handler. Never throws.
  TASKMUX_INLINE Outcome handle(Context& context, const Task& task) noexcept override;

  /// Runs a task whose type was routed before: `route` is the result of route() for its type. Only
  /// nested muxes route again.
  Outcome handle(Context& context, const Task& task, const TaskRoute& route) const noexcept;

  /// Returns whether a pattern matches `type`.
  bool knows(std::string_view type) const noexcept { return find(type) != nullptr; }

  /// Returns the handler for tasks of `type`, and the options that apply to them, through all
  /// nested muxes.
  TaskRoute route(std::string_view type) const noexcept;

  /// Returns whether nothing is registered, not even a not-found handler.
  bool empty() const noexcept { return routes_.empty() && !not_found_; }

 private:
  struct Registration {
    std::unique_ptr<TaskHandler> handler;
    HandleOptions options;
  };
  // In descending order: among the patterns that are prefixes of a type, the longest comes first.
  using Registrations = std::map<std::string, Registration, std::greater<>>;

  template <typename F>
  class FunctionHandler final : public TaskHandler {
   public:
    explicit FunctionHandler(F function) : function_{std::move(function)} {}
    Outcome handle(Context& context, const Task& task) override {
      return detail::call_function(function_, context, task);
    }

   private:
    F function_;
  };

  struct DefaultNotFound final : TaskHandler {
    TASKMUX_INLINE Outcome handle(Context& context, const Task& task) override;
  };

  /// Returns false for an empty std::function or a null function pointer.
  template <typename F>
  static bool has_target(const F& function) noexcept {
    if constexpr (requires { function == nullptr; }) {
      return !(function == nullptr);
    } else {
      return true;
    }
  }

  const Registrations::value_type* find(std::string_view type) const noexcept;
  /// What runs the tasks of a type for which find() returned `found`.
  TaskHandler& handler_of(const Registrations::value_type* found) const noexcept;
  void refine(const Registrations::value_type* found, std::string_view type,
              TaskRoute& route) const noexcept;
  TASKMUX_INLINE void refine(std::string_view type, TaskRoute& route) const noexcept override;

  Registrations routes_;
  std::vector<Middleware> middleware_;
  std::unique_ptr<TaskHandler> not_found_;
  std::unique_ptr<DefaultNotFound> default_not_found_;
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/serve_mux.hpp"
#endif
