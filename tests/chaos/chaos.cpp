// Kills and stops processes and Redis, and checks by a ledger that no task was lost.
//
//     chaos [--scenario <name>|all] [--seed <n>] [--directory <path>]
//     chaos --list
//
// Each trial prints its seed and the plan. A trial that fails keeps its ledger.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "driver.hpp"
#include "roles.hpp"

namespace taskmux::chaos {
namespace {

struct Settings {
  std::string scenario = "all";
  std::uint64_t seed = std::random_device{}();
  std::filesystem::path directory = std::filesystem::temp_directory_path();
  bool list = false;
};

Settings parse(const std::vector<std::string>& arguments) {
  Settings settings;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& name = arguments[i];
    if (name == "--list") {
      settings.list = true;
      continue;
    }
    if (i + 1 == arguments.size()) throw std::invalid_argument{name + ": unknown, or has no value"};
    const std::string& value = arguments[++i];
    if (name == "--scenario") {
      settings.scenario = value;
    } else if (name == "--seed") {
      settings.seed = std::stoull(value);
    } else if (name == "--directory") {
      settings.directory = value;
    } else {
      throw std::invalid_argument{"unknown option: " + name};
    }
  }
  return settings;
}

std::filesystem::path make_directory(const Settings& settings) {
  auto pattern = (settings.directory / "taskmux-chaos-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr) throw std::runtime_error{"can't make " + pattern};
  return pattern;
}

void print(const Verdict& verdict) {
  std::printf(
      "  %zu accepted, %zu succeeded, %zu archived, %zu runs of which %zu repeated, "
      "%zu faults and %zu hits\n",
      verdict.accepted, verdict.succeeded, verdict.archived, verdict.runs, verdict.repeated,
      verdict.faults, verdict.hits);
  constexpr std::size_t most = 30;
  for (std::size_t i = 0; i < verdict.findings.size() && i < most; ++i) {
    const Finding& finding = verdict.findings[i];
    std::printf("  broken: %s: %s\n", to_string(finding.rule).data(), finding.text.c_str());
  }
  if (verdict.findings.size() > most)
    std::printf("  ... and %zu more\n", verdict.findings.size() - most);
}

/// Returns whether all rules held.
bool run(const Scenario& scenario, const Settings& settings) {
  const auto directory = make_directory(settings);
  std::printf("scenario %s, seed %llu: %s\n", scenario.name.data(),
              static_cast<unsigned long long>(settings.seed), scenario.purpose.data());
  const Moment began = now();
  bool held = false;
  try {
    const Verdict verdict = run_trial(scenario, settings.seed, directory);
    print(verdict);
    held = verdict.findings.empty();
  } catch (const std::exception& error) {
    std::printf("  broken: %s\n", error.what());
  }
  const double took = static_cast<double>((now() - began).count()) / 1e6;
  if (held) {
    std::printf("  held, %.1f s\n", took);
    std::filesystem::remove_all(directory);
  } else {
    std::printf(
        "  FAILED after %.1f s; ledger and logs: %s\n  again: chaos --scenario %s --seed %llu\n",
        took, directory.c_str(), scenario.name.data(),
        static_cast<unsigned long long>(settings.seed));
  }
  std::fflush(stdout);
  return held;
}

int run(const Settings& settings) {
  if (settings.list) {
    for (const Scenario& each : scenarios())
      std::printf("%s: %s\n", each.name.data(), each.purpose.data());
    return 0;
  }
  bool held = true;
  for (const Scenario& each : scenarios()) {
    if (settings.scenario == "all" || settings.scenario == each.name)
      held = run(each, settings) && held;
  }
  if (settings.scenario != "all") scenario(settings.scenario);
  return held ? 0 : 1;
}

}  // namespace
}  // namespace taskmux::chaos

int main(int argc, char** argv) {
  using namespace taskmux::chaos;
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    if (!arguments.empty() && arguments[0] == worker_role) return run_worker(arguments);
    if (!arguments.empty() && arguments[0] == producer_role) return run_producer(arguments);
    return run(parse(arguments));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "chaos: %s\n", error.what());
    return 2;
  }
}
