#include "options.hpp"

#include <array>
#include <charconv>
#include <limits>
#include <system_error>

namespace taskmux::bench {
namespace {

constexpr std::array scenarios{Scenario::enqueue, Scenario::process, Scenario::throughput,
                               Scenario::latency, Scenario::fleet,   Scenario::schedule,
                               Scenario::idle,    Scenario::memory};

Scenario parse_scenario(std::string_view name) {
  for (const Scenario scenario : scenarios) {
    if (to_string(scenario) == name) return scenario;
  }
  throw UsageError{"no such scenario: " + std::string{name}};
}

std::size_t parse_number(std::string_view option, std::string_view text, std::size_t least) {
  constexpr std::size_t most = std::numeric_limits<std::uint32_t>::max();
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number < least || number > most) {
    throw UsageError{std::string{option} + " takes a number from " + std::to_string(least) +
                     " to " + std::to_string(most) + ", not \"" + std::string{text} + '"'};
  }
  return number;
}

std::size_t default_tasks(const Options& options) {
  switch (options.scenario) {
    case Scenario::enqueue:
    case Scenario::process:
    case Scenario::throughput: return options.memory_broker() ? 1'000'000 : 100'000;
    case Scenario::memory: return 100'000;
    case Scenario::latency:
    case Scenario::fleet:
    case Scenario::schedule: return 1000;
    case Scenario::idle: return 0;
  }
  return 0;
}

void set_option(Options& options, std::string_view option, std::string_view value) {
  if (option == "--broker") {
    options.broker = value;
  } else if (option == "--scenario") {
    options.scenario = parse_scenario(value);
  } else if (option == "--tasks") {
    options.tasks = parse_number(option, value, 1);
  } else if (option == "--concurrency") {
    options.concurrency = parse_number(option, value, 1);
  } else if (option == "--producers") {
    options.producers = parse_number(option, value, 1);
  } else if (option == "--batch") {
    options.batch = parse_number(option, value, 1);
  } else if (option == "--payload") {
    options.payload = parse_number(option, value, 8);
  } else if (option == "--repeat") {
    options.repeat = parse_number(option, value, 1);
  } else if (option == "--servers") {
    options.servers = parse_number(option, value, 1);
  } else if (option == "--rate") {
    options.rate = parse_number(option, value, 1);
  } else if (option == "--duration-ms") {
    options.duration = std::chrono::milliseconds{parse_number(option, value, 1)};
  } else {
    throw UsageError{"no such option: " + std::string{option}};
  }
}

}  // namespace

const std::string_view usage =
    R"(taskmux_bench measures taskmux: medians over the repeats, with their spread.

  --broker B        memory (default), or a URL of Redis: redis://host:port/db, redis-socket:///path
  --scenario S      enqueue     producers alone
                    process     everything is enqueued first; the working off is timed
                    throughput  full lives (default): enqueue, take, handle, settle, side by side
                    latency     how soon an idle server starts a task that is enqueued
                    fleet       the same with many idle servers on one queue, at a steady rate
                    schedule    how late a scheduled task starts
                    idle        what a server costs that has nothing to do
                    memory      what a pending task costs beside its payload (memory broker alone)
  --tasks N         of one repeat; a number that suits the scenario, unless given
  --concurrency C   handlers at once (2)
  --producers P     enqueuing threads (1)
  --batch B         tasks enqueued in one call (100)
  --payload BYTES   of one task, at least 8 (100)
  --repeat R        (5)
  --servers N       of fleet (50)
  --rate R          tasks a second of fleet (500)
  --duration-ms T   of one repeat of idle (5000)
  --json            one JSON object a line

Handlers do nothing but count. Ends with 1 unless every task ran exactly once.
)";

std::string_view to_string(Scenario scenario) noexcept {
  switch (scenario) {
    case Scenario::enqueue: return "enqueue";
    case Scenario::process: return "process";
    case Scenario::throughput: return "throughput";
    case Scenario::latency: return "latency";
    case Scenario::fleet: return "fleet";
    case Scenario::schedule: return "schedule";
    case Scenario::idle: return "idle";
    case Scenario::memory: return "memory";
  }
  return "unknown";
}

std::optional<Options> parse_options(std::span<const char* const> arguments) {
  Options options;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string_view option = arguments[i];
    if (option == "--help" || option == "-h") return std::nullopt;
    if (option == "--json") {
      options.json = true;
      continue;
    }
    if (i + 1 == arguments.size()) throw UsageError{std::string{option} + " takes a value"};
    set_option(options, option, arguments[++i]);
  }
  if (options.scenario == Scenario::memory && !options.memory_broker())
    throw UsageError{"the scenario memory measures the memory broker alone"};
  if (options.tasks == 0) options.tasks = default_tasks(options);
  return options;
}

}  // namespace taskmux::bench
