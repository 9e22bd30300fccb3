#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/flaky_broker.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
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

  /// Takes the next tasks as Fetcher would, and registers them.
  std::vector<std::shared_ptr<detail::RunState>> take_runs(std::size_t count = 10);

  /// Lets them wait for a worker.
  void make_ready(std::vector<std::shared_ptr<detail::RunState>> runs) {
    slots->ready().push(runs);
  }

  /// Marks a run as being in its handler, which is never called.
  void begin(detail::RunState& run, Duration limit = std::chrono::minutes{30});

  /// Sends the settlements of ended runs to the broker.
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
  std::atomic<int> exchanges_due{0};
  std::atomic<int> watches_due{0};
  std::atomic<int> starts{0};
  std::atomic<int> skips{0};
  std::atomic<int> lapses{0};
  std::vector<std::pair<std::string, SettleAction>> ends;  ///< What was settled.
  std::vector<std::string> patterns;                       ///< Of these.
  /// Does as ServerEngine would, and counts.
  struct Events final : detail::EngineEvents {
    explicit Events(Engine& of) : engine{of} {}
    void started(const detail::RunState&) noexcept override { ++engine.starts; }
    void finished(RunPtr run, const Outcome& end, double random) noexcept override;
    void skipped() noexcept override { ++engine.skips; }
    void lapsed(RunPtr run) noexcept override;
    void exchange_due() noexcept override { ++engine.exchanges_due; }
    void watch_due() noexcept override { ++engine.watches_due; }
    bool wants_settled() const noexcept override { return true; }
    void settled(const Settlement& settlement, const detail::RunState* run,
                 std::string_view pattern) override;
    Engine& engine;
  } events{*this};
  detail::Settler settler{
      {FixedDelay{std::chrono::minutes{1}}, {}, 3, mux}, registry, logger, events};
  std::shared_ptr<detail::Slots> slots;
  std::unique_ptr<detail::ThreadRunner> runner;
};

}  // namespace taskmux::test
