#pragma once

#include "options.hpp"
#include "report.hpp"

namespace taskmux::bench {

/// Runs what the options ask for, `repeat` times. Throws std::exception if a task did not run
/// exactly once, or if nothing goes on.
Report run(const Options& options);

}  // namespace taskmux::bench
