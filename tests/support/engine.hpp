#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/flaky_broker.hpp"
#include "taskmux/detail/engine/server_engine.hpp"
#include "taskmux/memory/memory_broker.hpp"

namespace taskmux::test {

/// The parts of a server, put together without its threads: each test plays the roles that it is
/// about, one step at a time, on a clock that stands still. The runner has no threads unless start()
/// is called on it. What makes and ends it is compiled once, in engine.cpp: that is most of what a
/// test of a part would cost to compile.
struct Engine {
  using Operation = FlakyBroker::Operation;

  explicit Engine(std::size_t concurrency = 2,
                  RetryPolicy policy = FixedDelay{std::chrono::minutes{1}});
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  ~Engine();

  /// Takes the next tasks as Fetcher would, without it, and registers them.
  std::vector<std::shared_ptr<detail::RunState>> take_runs(std::size_t count = 10);

  /// Lets them wait for a worker.
  void make_ready(std::vector<std::shared_ptr<detail::RunState>> runs) {
    slots->ready().push(runs);
  }

  /// Moves a run into its handler, which is never called.
  void begin(detail::RunState& run, Duration limit = std::chrono::minutes{30});

  /// Carries what has ended to the broker.
  std::vector<SettleStatus> carry_out();

  std::optional<TaskState> state(const std::string& id);

  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker memory{{.clock = clock}};
  FlakyBroker broker{memory};
  ServerConfig config;
  std::vector<std::string> log;
  Logger logger{LogLevel::info,
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
  std::atomic<int> lapsed{0};
  std::vector<std::pair<std::string, SettleAction>> settled;
  std::vector<std::string> patterns;  ///< Of what was settled.
  detail::Settler settler{
      {FixedDelay{std::chrono::minutes{1}}, {}, 3, mux},
      registry,
      logger,
      [this] { ++arrivals; },
      [this](const Settlement& settlement, const detail::RunState*, std::string_view pattern) {
        settled.emplace_back(settlement.run.message->id, settlement.action);
        patterns.emplace_back(pattern);
      }};
  std::shared_ptr<detail::Slots> slots;
  std::unique_ptr<detail::ThreadRunner> runner;
};

}  // namespace taskmux::test
