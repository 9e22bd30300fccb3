#pragma once

#include <memory>
#include <string_view>

#include "taskmux/broker.hpp"
#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/handler.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The events that the parts of a server's engine report about runs, so that no part needs to know who
/// acts on them. Called on any thread of the engine. A worker that was given up reports nothing more,
/// since it may outlive the engine. A test of one part overrides the events that it checks.
class EngineEvents {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  // Of a worker: started() and later finished(), or one of the others.

  /// An attempt begins.
  virtual void started(const RunState&) noexcept {}
  /// An attempt has ended, or the run came too late for any attempt. `random` in [0, 1) feeds the
  /// retry policy.
  virtual void finished(RunPtr, const Outcome&, [[maybe_unused]] double random) noexcept {}
  /// A run was taken back before its worker came: the worker is free again.
  virtual void skipped() noexcept {}
  /// A run was not begun since its lease was over: it may be another server's.
  virtual void lapsed(RunPtr) noexcept {}

  /// There are outcomes to carry to the broker, or room for tasks: the exchanging role is due.
  virtual void exchange_due() noexcept {}
  /// A run was asked to stop: the watchdog is due, to give it up in time.
  virtual void watch_due() noexcept {}

  /// Returns whether settled() is to be called.
  virtual bool wants_settled() const noexcept { return false; }
  /// The broker has applied a settlement. The run is null if it was taken over from a lost worker;
  /// `pattern` is what its type matched. What this throws is logged.
  virtual void settled(const Settlement&, const RunState*,
                       [[maybe_unused]] std::string_view pattern) {}

 protected:
  EngineEvents() = default;
  EngineEvents(const EngineEvents&) = default;
  EngineEvents& operator=(const EngineEvents&) = default;
  ~EngineEvents() = default;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
