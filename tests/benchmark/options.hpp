#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace taskmux::bench {

enum class Scenario {
  enqueue,     ///< Only producers.
  process,     ///< All tasks are enqueued first; processing is timed.
  throughput,  ///< Enqueueing and processing at the same time.
  latency,     ///< How soon an idle server starts a task that is enqueued.
  fleet,       ///< The same with many idle servers on one queue, at a steady rate.
  schedule,    ///< How late a scheduled task starts.
  idle,        ///< The cost of an idle server.
  memory,      ///< The memory of a pending task without its payload; memory broker only.
};

std::string_view to_string(Scenario scenario) noexcept;

/// The command line cannot be understood; the text says why.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string broker = "memory";  ///< Or a URL of Redis.
  Scenario scenario = Scenario::throughput;
  std::size_t tasks = 0;  ///< 0: a suitable number for the scenario.
  std::size_t concurrency = 2;
  std::size_t producers = 1;
  std::size_t batch = 100;
  std::size_t payload = 100;  ///< Bytes; at least 8, which hold the task's number.
  std::size_t repeat = 5;
  std::size_t servers = 50;                  ///< Of `fleet`.
  std::size_t rate = 500;                    ///< Tasks a second, of `fleet`.
  std::chrono::milliseconds duration{5000};  ///< Of `idle`.
  bool json = false;

  bool memory_broker() const noexcept { return broker == "memory"; }
};

extern const std::string_view usage;

/// None if help was asked for. Throws UsageError.
std::optional<Options> parse_options(std::span<const char* const> arguments);

}  // namespace taskmux::bench
