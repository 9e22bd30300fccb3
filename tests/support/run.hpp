#pragma once

#include <memory>
#include <utility>

#include "taskmux/detail/run/run_state.hpp"

namespace taskmux::test {

/// A run without a server, with a Context to call a handler with.
struct OneRun {
  explicit OneRun(Task task, std::shared_ptr<Clock> run_clock = std::make_shared<ManualClock>(),
                  Logger logger = {})
      : clock{std::move(run_clock)},
        environment{std::make_shared<detail::RunEnvironment>(clock, std::move(logger))},
        state{std::make_shared<detail::RunState>(
            Run{.message = std::make_shared<TaskMessage>(
                    TaskMessage{.id = "t1", .queue = "default", .task = std::move(task)})},
            environment, clock->steady_now(), clock->now())},
        context{state} {}

  std::shared_ptr<Clock> clock;
  std::shared_ptr<detail::RunEnvironment> environment;
  std::shared_ptr<detail::RunState> state;
  Context context;
};

}  // namespace taskmux::test
