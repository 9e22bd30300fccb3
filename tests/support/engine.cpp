#include "support/engine.hpp"

namespace taskmux::test {

Engine::Engine(std::size_t concurrency, RetryPolicy policy) {
  mux->handle("email:", [this](Context&, const Task& task) {
    handled.push_back(task.payload);
    return outcome;
  });
  config.concurrency = concurrency;
  config.retry_policy = std::move(policy);
  slots = std::make_shared<detail::Slots>(concurrency, concurrency, clock);
  runner = std::make_unique<detail::ThreadRunner>(
      detail::ThreadRunner::Config{slots, {}, mux, clock, events});
}

Engine::~Engine() = default;

std::vector<std::shared_ptr<detail::RunState>> Engine::take_runs(std::size_t count) {
  std::vector<std::shared_ptr<detail::RunState>> runs;
  for (Run& run : take(broker, "default", count)) {
    runs.push_back(std::make_shared<detail::RunState>(std::move(run), environment,
                                                      clock->steady_now(), clock->now()));
    runs.back()->hold_until(clock->steady_now() + std::chrono::seconds{10});
  }
  registry.add(runs);
  return runs;
}

void Engine::begin(detail::RunState& run, Duration limit) {
  run.start(clock->steady_now(), clock->steady_now() + limit, clock->now() + limit, 0,
            mux->route(run.message().task.type));
}

std::vector<SettleStatus> Engine::carry_out() {
  settler.collect();
  const std::span<const Settlement> batch = settler.batch(1000);
  settler.sent(batch.size());
  const std::vector<SettleReply> replies = broker.exchange({.settlements = batch}).settled;
  settler.report(replies, clock->steady_now());
  return statuses(replies);
}

void Engine::Events::finished(RunPtr run, const Outcome& end, double random) noexcept {
  engine.settler.finish(std::move(run), end, random);
}

void Engine::Events::lapsed(RunPtr run) noexcept {
  ++engine.lapses;
  engine.settler.give_back(std::move(run));
}

void Engine::Events::settled(const Settlement& settlement, const detail::RunState*,
                             std::string_view pattern) {
  engine.ends.emplace_back(settlement.run.message->id, settlement.action);
  engine.patterns.emplace_back(pattern);
}

std::optional<TaskState> Engine::state(const std::string& id) { return state_of(memory, id); }

}  // namespace taskmux::test
