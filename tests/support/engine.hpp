#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/flaky_broker.hpp"
#include "taskmux/detail/server.hpp"
#include "taskmux/memory/memory_broker.hpp"

namespace taskmux::test {

/// The parts of a server, put together without its threads: each test plays the roles that it is
/// about, one step at a time, on a clock that stands still. The pool has no threads unless start()
/// is called on it.
struct Engine {
  using Operation = FlakyBroker::Operation;

  explicit Engine(std::size_t concurrency = 2,
                  RetryPolicy policy = FixedDelay{std::chrono::minutes{1}}) {
    mux->handle("email:", [this](Context&, const Task& task) {
      handled.push_back(task.payload);
      return outcome;
    });
    config.concurrency = concurrency;
    config.retry_policy = std::move(policy);
    pool = std::make_unique<detail::WorkerPool>(detail::WorkerPool::Config{
        concurrency,
        concurrency,
        {},
        mux,
        environment,
        [](const detail::RunState&) {},
        [this](std::shared_ptr<detail::RunState> run, const Outcome& end, double random) {
          settler.finish(std::move(run), end, random);
        },
        [this] { ++skipped; }});
  }

  /// Takes the next tasks as Fetcher would, without it, and registers them.
  std::vector<std::shared_ptr<detail::RunState>> take_runs(std::size_t count = 10) {
    std::vector<std::shared_ptr<detail::RunState>> runs;
    for (Run& run : take(broker, "default", count)) {
      runs.push_back(std::make_shared<detail::RunState>(std::move(run), environment,
                                                        clock->steady_now(), clock->now()));
    }
    registry.add(runs);
    return runs;
  }

  /// Moves a run into its handler, which is never called.
  void begin(detail::RunState& run, Duration limit = std::chrono::minutes{30}) {
    run.start(clock->steady_now(), clock->steady_now() + limit, clock->now() + limit, 0);
  }

  /// Carries what has ended to the broker.
  std::vector<SettleStatus> carry_out() {
    settler.collect();
    std::vector<SettleStatus> statuses =
        broker.exchange({.settlements = settler.batch(1000)}).settled;
    settler.report(statuses);
    return statuses;
  }

  std::optional<TaskState> state(const std::string& id) { return state_of(memory, id); }

  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker memory{{.clock = clock}};
  FlakyBroker broker{memory};
  ServerConfig config;
  std::vector<std::string> log;
  Logger logger{LogLevel::debug,
                [this](LogLevel, std::string_view line) { log.emplace_back(line); }};
  std::shared_ptr<ServeMux> mux = std::make_shared<ServeMux>();
  std::shared_ptr<detail::RunEnvironment> environment =
      std::make_shared<detail::RunEnvironment>(clock, Logger{});
  std::vector<std::string> handled;
  Outcome outcome;
  std::vector<Health> health_changes;
  detail::HealthMonitor health{logger,
                               [this](const Health& change) { health_changes.push_back(change); }};
  detail::RunRegistry registry;
  int arrivals = 0;
  std::atomic<int> skipped{0};
  std::vector<std::pair<std::string, SettleAction>> settled;
  detail::Settler settler{{FixedDelay{std::chrono::minutes{1}}, {}, 3, mux},
                          registry,
                          logger,
                          [this] { ++arrivals; },
                          [this](const Settlement& settlement, const detail::RunState*) {
                            settled.emplace_back(settlement.run.message->id, settlement.action);
                          }};
  std::unique_ptr<detail::WorkerPool> pool;
};

}  // namespace taskmux::test
