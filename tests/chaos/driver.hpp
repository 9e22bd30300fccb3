#pragma once

#include <cstdint>
#include <filesystem>

#include "judge.hpp"
#include "plan.hpp"

namespace taskmux::chaos {

/// Runs one trial: a Redis server, workers and producers as processes, and the faults of the plan
/// that is generated from `scenario` and `seed`. Waits until no work is left, stops everything, and
/// judges the trial by the ledger, which it writes to `directory`. Prints the plan and the result.
/// Throws std::runtime_error if the work does not end in time.
Verdict run_trial(const Scenario& scenario, std::uint64_t seed,
                  const std::filesystem::path& directory);

}  // namespace taskmux::chaos
