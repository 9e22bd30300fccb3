#include "plan.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

const Mix everyday{{WorkKind::quick, 40}, {WorkKind::medium, 30}, {WorkKind::slow, 1},
                   {WorkKind::large, 2},  {WorkKind::flaky, 5},   {WorkKind::doomed, 3},
                   {WorkKind::skip, 2},   {WorkKind::snooze, 4},  {WorkKind::result, 5},
                   {WorkKind::unique, 5}, {WorkKind::delayed, 5}, {WorkKind::once, 3}};

}  // namespace

std::string_view to_string(FaultKind kind) noexcept {
  switch (kind) {
    case FaultKind::kill_worker: return "kill worker";
    case FaultKind::kill_producer: return "kill producer";
    case FaultKind::end_worker: return "end worker";
    case FaultKind::stop_worker: return "stop worker";
    case FaultKind::stop_everybody: return "stop everybody";
    case FaultKind::kill_redis: return "kill Redis";
    case FaultKind::stop_redis: return "stop Redis";
    case FaultKind::kill_clients: return "kill connections";
    case FaultKind::flush_scripts: return "flush scripts";
    case FaultKind::cut_replies: return "cut replies";
    case FaultKind::delay_line: return "delay the line";
    case FaultKind::slow_line: return "slow the line down";
  }
  return "?";
}

const std::vector<Scenario>& scenarios() {
  static const std::vector<Scenario> all{
      {.name = "kill",
       .purpose = "workers and producers are killed, and workers end as they are asked to",
       .faults = {{FaultKind::kill_worker, 5},
                  {FaultKind::kill_producer, 2},
                  {FaultKind::end_worker, 2}},
       .mix = everyday},
  };
  return all;
}

const Scenario& scenario(std::string_view name) {
  for (const Scenario& each : scenarios()) {
    if (each.name == name) return each;
  }
  throw std::invalid_argument{"no such scenario: " + std::string{name}};
}

std::vector<Fault> make_plan(const Scenario& scenario, std::uint64_t seed) {
  Dice dice{seed};
  std::vector<Fault> plan;
  for (const FaultShare& share : scenario.faults) {
    for (unsigned i = 0; i < share.count; ++i) {
      Fault fault{.kind = share.kind};
      // The first moments are for work to come into being.
      fault.at = dice.between(500ms, scenario.length);
      fault.length = dice.between(share.least, share.most);
      const bool of_producer = share.kind == FaultKind::kill_producer;
      fault.target = dice.below(of_producer ? scenario.producers : scenario.workers);
      plan.push_back(fault);
    }
  }
  std::ranges::stable_sort(plan, {}, &Fault::at);
  return plan;
}

std::string to_text(const Fault& fault) {
  char time[32];
  std::snprintf(time, sizeof time, "%7.3f s: ", static_cast<double>(fault.at.count()) / 1000);
  std::string text = time + std::string{to_string(fault.kind)};
  switch (fault.kind) {
    case FaultKind::kill_worker:
    case FaultKind::kill_producer:
    case FaultKind::end_worker:
    case FaultKind::stop_worker: text += " " + std::to_string(fault.target); break;
    default: break;
  }
  if (fault.length > 0ms) text += " for " + std::to_string(fault.length.count()) + " ms";
  return text;
}

}  // namespace taskmux::chaos
