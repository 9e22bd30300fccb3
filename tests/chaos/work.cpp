#include "work.hpp"

#include <array>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

constexpr std::array kinds{
    WorkKind::quick,   WorkKind::medium,   WorkKind::slow,   WorkKind::large,  WorkKind::flaky,
    WorkKind::doomed,  WorkKind::skip,     WorkKind::snooze, WorkKind::result, WorkKind::unique,
    WorkKind::delayed, WorkKind::repeated, WorkKind::once,   WorkKind::poison};

}  // namespace

std::string_view to_string(WorkKind kind) noexcept {
  switch (kind) {
    case WorkKind::quick: return "quick";
    case WorkKind::medium: return "medium";
    case WorkKind::slow: return "slow";
    case WorkKind::large: return "large";
    case WorkKind::flaky: return "flaky";
    case WorkKind::doomed: return "doomed";
    case WorkKind::skip: return "skip";
    case WorkKind::snooze: return "snooze";
    case WorkKind::result: return "result";
    case WorkKind::unique: return "unique";
    case WorkKind::delayed: return "delayed";
    case WorkKind::repeated: return "repeated";
    case WorkKind::once: return "once";
    case WorkKind::poison: return "poison";
  }
  return "?";
}

WorkKind work_kind(std::string_view name) {
  for (const WorkKind kind : kinds) {
    if (to_string(kind) == name) return kind;
  }
  throw std::invalid_argument{"no such kind of work: " + std::string{name}};
}

std::string to_text(const Order& order) {
  return std::string{to_string(order.kind)} + " " + order.queue + " " +
         std::to_string(order.delay.count()) + " " + order.lock;
}

Order parse_order(const std::string& text) {
  std::istringstream words{text};
  std::string kind;
  Order order;
  std::int64_t delay = 0;
  if (!(words >> kind >> order.queue >> delay >> order.lock))
    throw std::runtime_error{"not an order: " + text};
  order.kind = work_kind(kind);
  order.delay = std::chrono::milliseconds{delay};
  return order;
}

std::string to_text(const Mix& mix) {
  std::string text;
  for (const Share& share : mix) {
    if (!text.empty()) text += ",";
    text.append(to_string(share.kind)).append(":").append(std::to_string(share.weight));
  }
  return text;
}

Mix parse_mix(std::string_view text) {
  Mix mix;
  std::istringstream parts{std::string{text}};
  for (std::string part; std::getline(parts, part, ',');) {
    const auto colon = part.find(':');
    if (colon == part.npos) throw std::invalid_argument{"not a share of a mix: " + part};
    mix.push_back({work_kind(part.substr(0, colon)),
                   static_cast<unsigned>(std::stoul(part.substr(colon + 1)))});
  }
  if (mix.empty()) throw std::invalid_argument{"an empty mix"};
  return mix;
}

// SplitMix64.
std::uint64_t Dice::next() {
  std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

std::chrono::milliseconds Dice::between(std::chrono::milliseconds least,
                                        std::chrono::milliseconds most) {
  const auto span = static_cast<std::uint64_t>((most - least).count()) + 1;
  return least + std::chrono::milliseconds{static_cast<std::int64_t>(below(span))};
}

Order draw(Dice& dice, const Mix& mix) {
  std::uint64_t total = 0;
  for (const Share& share : mix) total += share.weight;
  std::uint64_t drawn = dice.below(total);
  Order order;
  for (const Share& share : mix) {
    order.kind = share.kind;
    if (drawn < share.weight) break;
    drawn -= share.weight;
  }
  order.queue = dice.below(4) == 0 ? "low" : "default";
  if (order.kind == WorkKind::delayed) order.delay = dice.between(100ms, 3s);
  if (order.kind == WorkKind::unique) order.lock = "lock-" + std::to_string(dice.below(20));
  return order;
}

NewTask new_task(const Order& order, std::string id) {
  NewTask task;
  task.task.type = to_string(order.kind);
  // The unique lock consists of queue, type and payload.
  task.task.payload = order.kind == WorkKind::unique ? order.lock : id;
  if (order.kind == WorkKind::large) task.task.payload.resize(100'000, '.');
  EnqueueOptions& options = task.options;
  options.queue = order.queue;
  options.task_id = std::move(id);
  // Tasks of other kinds must never run out of retries, however many faults hit them.
  options.max_retry = 1000;
  if (order.kind == WorkKind::doomed) options.max_retry = doomed_retries;
  if (order.kind == WorkKind::once) options.max_retry = 0;
  if (order.kind == WorkKind::result) options.retention = 1h;
  if (order.kind == WorkKind::unique) options.unique_for = 1h;
  if (order.kind == WorkKind::repeated) options.idempotent_for = 1h;
  if (order.delay > 0ms) options.process_in = order.delay;
  return task;
}

std::string result_of(std::string_view id) { return "result of " + std::string{id}; }

}  // namespace taskmux::chaos
