#include "plan.hpp"

#include <algorithm>
#include <cstdio>
#include <stdexcept>

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

const Mix everyday{{WorkKind::quick, 40},  {WorkKind::medium, 30}, {WorkKind::slow, 1},
                   {WorkKind::large, 2},   {WorkKind::flaky, 5},   {WorkKind::doomed, 3},
                   {WorkKind::skip, 2},    {WorkKind::snooze, 4},  {WorkKind::result, 5},
                   {WorkKind::unique, 5},  {WorkKind::delayed, 5}, {WorkKind::once, 3},
                   {WorkKind::repeated, 5}};

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
      {.name = "redis",
       .purpose = "Redis is killed, stopped, loses its scripts and its connections",
       .faults = {{FaultKind::kill_redis, 2, 50ms, 1s},
                  {FaultKind::stop_redis, 2, 500ms, 2500ms},
                  {FaultKind::flush_scripts, 2},
                  {FaultKind::kill_clients, 2, 200ms, 1s}},
       .mix = everyday},
      {.name = "line",
       .purpose = "the line to Redis cuts replies, is slow, and carries little",
       .proxy = true,
       .faults = {{FaultKind::cut_replies, 3, 300ms, 1500ms},
                  {FaultKind::delay_line, 1, 1s, 2s},
                  {FaultKind::slow_line, 1, 1s, 3s},
                  {FaultKind::kill_worker, 1}},
       .mix = everyday},
      {.name = "pause",
       .purpose = "workers are stopped past their leases",
       .length = 10s,
       .faults = {{FaultKind::stop_worker, 3, 6s, 9s}},
       .mix = everyday},
      {.name = "suspend",
       .purpose = "everybody is stopped past all leases, and no run is lost by that",
       .workers = 2,
       .per_second = 15,
       // A server looks for lost runs after a whole lease of contact.
       .calm = 7s,
       .faults = {{FaultKind::stop_everybody, 1, 7s, 9s}},
       .mix = {{WorkKind::quick, 10},
               {WorkKind::medium, 10},
               {WorkKind::once, 20},
               {WorkKind::slow, 15}}},
      {.name = "poison",
       .purpose = "tasks kill their workers, and take no innocent ones along",
       .per_second = 60,
       .length = 3s,
       .faults = {{FaultKind::kill_worker, 1}},
       .mix = {{WorkKind::quick, 120},
               {WorkKind::medium, 120},
               {WorkKind::once, 5},
               {WorkKind::slow, 2},
               {WorkKind::poison, 1}}},
      {.name = "mixed",
       .purpose = "everything at once",
       .proxy = true,
       .length = 15s,
       .faults = {{FaultKind::kill_worker, 4},
                  {FaultKind::kill_producer, 2},
                  {FaultKind::end_worker, 2},
                  {FaultKind::stop_worker, 2, 100ms, 9s},
                  {FaultKind::kill_redis, 2, 50ms, 2s},
                  {FaultKind::stop_redis, 1, 500ms, 4s},
                  {FaultKind::kill_clients, 2, 200ms, 1s},
                  {FaultKind::flush_scripts, 1},
                  {FaultKind::cut_replies, 2, 300ms, 1500ms},
                  {FaultKind::delay_line, 1, 1s, 2s},
                  {FaultKind::slow_line, 1, 1s, 2s}},
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
      fault.at = dice.between(scenario.calm, scenario.length);
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
