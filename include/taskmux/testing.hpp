#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/engine/server_engine.hpp"
#include "taskmux/server.hpp"

namespace taskmux {
inline namespace v0 {

/// A server without threads, for an application's own tests: runs tasks on the caller's thread, one
/// after the other, in a deterministic order. Judges outcomes, retries, archives and calls hooks as
/// Server does. Not thread-safe.
///
/// With a ManualClock that is passed to both the broker and the configuration, a test never waits:
///     auto clock = std::make_shared<ManualClock>();
///     MemoryBroker broker{{.clock = clock}};
///     TestServer server{broker, make_mux(), {.clock = clock}};
///     Client{broker}.enqueue({.type = "email:welcome"}, {.process_in = 24h});
///     server.run_all(*clock);  // a day later
///
/// Then a handler's Context::wait_for() advances the clock instead of waiting, up to the attempt's
/// deadline, where the stop token is triggered as usual. Differences from Server: queues are served
/// strictly by priority, policies get 0.5 as the random number, and a handler that hangs is not
/// abandoned.
class TestServer final : private detail::EngineEvents {
 public:
  /// Takes the same arguments as Server. `concurrency`, `shutdown_timeout`, `abandon_after` and the
  /// intervals have no effect.
  TestServer(Broker& broker, ServeMux mux, ServerConfig config = {});
  TestServer(const TestServer&) = delete;
  TestServer& operator=(const TestServer&) = delete;

  /// Runs the next task that is due, if any; returns whether there was one. Throws Error if the
  /// broker fails.
  bool run_one();

  /// Runs all tasks that are due, including those that become due by this, until none is due.
  /// Returns how many attempts were made. Throws Error{timed_out} after `limit` attempts, since
  /// tasks that enqueue further tasks might never end.
  std::size_t run_due(std::size_t limit = 100'000);

  /// Calls run_due() and advances `clock` to the next due time, until no task is scheduled or waits
  /// for a retry. Returns how many attempts were made. Throws Error{wrong_state} if the broker does
  /// not use `clock`, and Error{timed_out} after `limit` attempts.
  std::size_t run_all(ManualClock& clock, std::size_t limit = 100'000);

 private:
  /// The clock of handlers: sleeping on a ManualClock advances it.
  class HandlerClock final : public Clock {
   public:
    explicit HandlerClock(std::shared_ptr<Clock> clock) : clock_{std::move(clock)} {}
    Time now() const override { return clock_->now(); }
    SteadyTime steady_now() const override { return clock_->steady_now(); }
    inline void wait(Waker& waker, std::optional<SteadyTime> deadline) override;
    void set_run(detail::RunState* run) noexcept { run_ = run; }

   private:
    const std::shared_ptr<Clock> clock_;
    detail::RunState* run_ = nullptr;
  };

  ExchangeReply exchange(std::span<const Settlement> settlements, std::size_t runs);
  void settle();
  void run(Run taken, Time taken_at);
  bool wants_settled() const noexcept override { return true; }
  void settled(const Settlement& settlement, const detail::RunState* state,
               std::string_view pattern) override {
    call_hooks(detail::event_of(settlement, state, pattern, clock_->steady_now()));
  }
  void call_hooks(TaskEvent event);

  Broker& broker_;
  const ServerConfig config_;
  const std::shared_ptr<ServeMux> mux_;
  const std::shared_ptr<HandlerClock> clock_;
  const std::shared_ptr<detail::RunEnvironment> environment_;
  std::vector<std::string> queues_;
  std::optional<Duration> next_due_in_;  ///< From the last exchange.
  Time broker_now_{};                    ///< From the last exchange.
  detail::QueuePicker picker_;
  detail::RunRegistry registry_;
  detail::Settler settler_;
};

inline TestServer::TestServer(Broker& broker, ServeMux mux, ServerConfig config)
    : broker_{broker},
      config_{detail::checked(std::move(config), mux, broker)},
      mux_{std::make_shared<ServeMux>(std::move(mux))},
      clock_{std::make_shared<HandlerClock>(detail::clock_or_system(config_.clock))},
      environment_{std::make_shared<detail::RunEnvironment>(clock_, config_.logger,
                                                            config_.max_result_bytes)},
      picker_{config_.queues, true},
      settler_{{config_.retry_policy, config_.is_failure, config_.max_crashes, mux_},
               registry_,
               config_.logger,
               *this} {
  for (const auto& queue : config_.queues) queues_.push_back(queue.first);
}

inline bool TestServer::run_one() {
  const SteadyTime sent_at = clock_->steady_now();
  UpkeepReply upkeep = broker_.upkeep({.queues = queues_, .lease = config_.lease});
  const bool several = upkeep.lost.size() > 1;
  for (const Run& lost : upkeep.lost)
    settler_.settle_lost(lost, several, 0.5, sent_at + config_.lease);
  settle();
  ExchangeReply reply = exchange({}, 1);
  if (reply.runs.empty()) return false;
  run(std::move(reply.runs.front()), reply.now);
  settle();
  return true;
}

inline std::size_t TestServer::run_due(std::size_t limit) {
  std::size_t runs = 0;
  while (run_one()) {
    if (++runs > limit)
      throw Error{Errc::timed_out,
                  "run_due: still not done after " + std::to_string(limit) + " attempts"};
  }
  return runs;
}

inline std::size_t TestServer::run_all(ManualClock& clock, std::size_t limit) {
  std::size_t runs = run_due(limit);
  while (next_due_in_) {
    const Duration step = std::max(*next_due_in_, Duration{1});
    const Time before = broker_now_;
    clock.advance(step);
    runs += run_due(limit);
    if (broker_now_ < before + step)
      throw Error{Errc::wrong_state, "run_all: the broker does not go by this clock"};
    if (runs > limit)
      throw Error{Errc::timed_out,
                  "run_all: still not done after " + std::to_string(limit) + " attempts"};
  }
  return runs;
}

inline ExchangeReply TestServer::exchange(std::span<const Settlement> settlements,
                                          std::size_t runs) {
  const std::vector<QueueQuota> quotas = picker_.share(runs);
  ExchangeReply reply = broker_.exchange({settlements, quotas, runs, config_.lease});
  broker_now_ = reply.now;
  next_due_in_.reset();
  if (reply.next_due) next_due_in_ = *reply.next_due - reply.now;
  return reply;
}

inline void TestServer::settle() {
  for (settler_.collect(); settler_.unsettled() > 0;) {
    const std::span<const Settlement> batch = settler_.batch(1000);
    settler_.sent(batch.size());
    const ExchangeReply reply = exchange(batch, 0);
    if (settler_.report(reply.settled, clock_->steady_now()))
      throw Error{Errc::unavailable, "settle: the broker does not know what became of it"};
  }
}

inline void TestServer::run(Run taken, Time taken_at) {
  const SteadyTime now = clock_->steady_now();
  const auto state =
      std::make_shared<detail::RunState>(std::move(taken), environment_, now, taken_at);
  if (state->run().cancel) return settler_.cancel(state, *state->run().cancel, now);
  const TaskMessage& message = state->message();
  const TaskRoute route = mux_->route(message.task.type);
  const detail::AttemptLimits limits =
      detail::attempt_limits(message, route.timeout, now, taken_at);
  if (const std::string_view reason = detail::too_late(message, limits, now, taken_at);
      !reason.empty()) {
    state->withdraw();
    state->set_route(route);
    settler_.finish(state, Outcome::skip_retry(std::string{reason}), 0.5);
    return;
  }
  state->start(now, limits.steady, limits.wall, 0, route);
  call_hooks(
      detail::event_of(TaskEvent::Change::started, state->run(), state.get(), route.pattern, now));
  clock_->set_run(state.get());
  const Outcome outcome = detail::attempt(*mux_, state);
  clock_->set_run(nullptr);
  state->end(clock_->steady_now());
  settler_.finish(state, outcome, 0.5);
}

inline void TestServer::call_hooks(TaskEvent event) {
  detail::post_event(config_.hooks, std::move(event), [this](const auto& hook, const auto& shared) {
    detail::Notifier notifier{config_.logger};
    notifier.post([&hook, &shared] { hook(*shared); });
    notifier.run_once();
  });
}

inline void TestServer::HandlerClock::wait(Waker& waker, std::optional<SteadyTime> deadline) {
  if (run_ == nullptr || !deadline) return clock_->wait(waker, deadline);
  const SteadyTime until = std::min(*deadline, run_->deadline());
  const auto step = std::max(until - steady_now(), SteadyTime::duration{0});
  if (!clock_->move_on(std::chrono::ceil<Duration>(step))) return clock_->wait(waker, deadline);
  if (until == run_->deadline()) run_->request_stop(StopReason::timeout, steady_now());
}

}  // namespace v0
}  // namespace taskmux
