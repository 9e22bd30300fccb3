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

/// What a registration says of its type's tasks, in addition to how to run them. Where muxes nest,
/// what an inner registration leaves out is taken from the outer one.
struct HandleOptions {
  /// Instead of the server's.
  RetryPolicy retry_policy{};
  /// An attempt takes at most this; can only lower what the task itself says.
  std::optional<Duration> timeout{};
};

/// The rest of the chain, as a Middleware sees it: the middleware further in, and the handler.
/// Valid for the call.
class Next {
 public:
  /// Runs the rest. Never throws: what the handler throws is an Outcome already.
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

/// Wraps every handler of a mux: called with the task and the rest of the chain, which it may run
/// or not.
using Middleware = std::function<Outcome(Context&, const Task&, const Next&)>;

/// Routes tasks to handlers by their type, as asynq's ServeMux does: the pattern that equals the
/// type, else the longest pattern that is a prefix of it ("email:" matches "email:welcome", and
/// "email" matches "emailing"), else the not-found handler. No wildcards.
///
/// Register before Server takes it; read-only afterwards, and then thread-safe.
///
/// A mux is a handler itself, so muxes nest: the inner one routes the whole type again. Middleware
/// of the outer mux runs first and goes round that of the inner one; of the options of both
/// registrations, those of the inner one count (see HandleOptions). A handler of your own that
/// calls a mux hides the options in it.
class TASKMUX_API ServeMux final : public TaskHandler {
 public:
  ServeMux();
  ServeMux(ServeMux&&) noexcept;
  ServeMux& operator=(ServeMux&&) noexcept;
  TASKMUX_INLINE ~ServeMux() override;

  /// Throws std::invalid_argument for a blank pattern, a null handler, a pattern that is registered
  /// already, or a timeout that is not positive.
  void handle(std::string pattern, std::unique_ptr<TaskHandler> handler,
              HandleOptions options = {});

  /// The same for a callable that takes (Context&, const Task&) and returns an Outcome or nothing
  /// (see HandlerFunction). It is called from many threads at once, and so must be callable as a
  /// const object: a mutable lambda does not compile.
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

  /// Adds a middleware; the first one is the outermost. All apply to all patterns, and to the
  /// not-found handler, whatever the order of registration. Throws std::invalid_argument for an
  /// empty function.
  void use(Middleware middleware);

  /// Replaces the handler for types that match no pattern. The default fails with `handler not
  /// found for task "<type>"`, which is retried like any failure: another server may know the type.
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

  /// Routes and runs; never throws.
  TASKMUX_INLINE Outcome handle(Context& context, const Task& task) noexcept override;

  /// The same where the type was routed before: `route` is this mux's for the task's type. Looks no
  /// pattern up, but for those of muxes that nest in this one.
  Outcome handle(Context& context, const Task& task, const TaskRoute& route) const noexcept;

  /// Whether a pattern matches.
  bool knows(std::string_view type) const noexcept { return find(type) != nullptr; }

  /// Where tasks of `type` go, through all nested muxes, with the options that count for them.
  TaskRoute route(std::string_view type) const noexcept;

  /// Whether anything is registered at all, the not-found handler included.
  bool empty() const noexcept { return routes_.empty() && !not_found_; }

 private:
  struct Registration {
    std::unique_ptr<TaskHandler> handler;
    HandleOptions options;
  };
  // Ordered downwards, so that among the patterns that are prefixes of a type the longest comes
  // first.
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

  /// False for an empty std::function or a null function pointer.
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
