#include "redis/faults.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "redis/reply.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr auto between_lines = 1min;
constexpr auto length_of_rest = 1s;

std::string_view name_of(Duty duty) noexcept {
  switch (duty) {
    case Duty::list: return "adding to the set of queues";
    case Duty::take: return "taking tasks";
    case Duty::settle: return "settling runs";
    case Duty::count: return "counting attempts";
    case Duty::extend: return "extending leases";
    case Duty::upkeep: return "upkeep";
  }
  return "unknown";
}

}  // namespace

Faults::Faults(const Logger& logger, std::shared_ptr<Clock> clock)
    : logger_{logger}, clock_{std::move(clock)} {}

SteadyTime Faults::now() const {
  return clock_ ? clock_->steady_now() : std::chrono::steady_clock::now();
}

void Faults::failed(Duty duty, std::string_view queue, const Error& error) {
  if (error.errc() == Errc::unavailable) return;
  const SteadyTime at = now();
  {
    detail::MutexLock lock{mutex_};
    // What is over matters only for as long as its line keeps the next from being written.
    std::erase_if(faults_, [&](const auto& entry) {
      return !entry.second.lasts && at - entry.second.told_at >= between_lines;
    });
    Fault& fault = lasting(duty, queue, at);
    if (duty == Duty::take) fault.asleep_until = at + length_of_rest;
    if (at - fault.told_at < between_lines) return;
    fault.told = true;
    fault.told_at = at;
  }
  logger_(LogLevel::error, error.what());
}

void Faults::rest(std::string_view queue) {
  const SteadyTime at = now();
  detail::MutexLock lock{mutex_};
  lasting(Duty::take, queue, at).asleep_until = at + length_of_rest;
}

Faults::Fault& Faults::lasting(Duty duty, std::string_view queue, SteadyTime at) {
  // A fault that was never logged is logged at once.
  const auto entry =
      faults_.try_emplace({duty, std::string{queue}}, Fault{.told_at = at - between_lines}).first;
  if (!std::exchange(entry->second.lasts, true)) lasting_.fetch_add(1, std::memory_order_release);
  return entry->second;
}

void Faults::worked(Duty duty, std::string_view queue) {
  if (lasting_.load(std::memory_order_acquire) == 0) return;
  {
    detail::MutexLock lock{mutex_};
    const auto entry = faults_.find({duty, std::string{queue}});
    if (entry == faults_.end() || !entry->second.lasts) return;
    entry->second.lasts = false;
    entry->second.asleep_until = {};
    lasting_.fetch_sub(1, std::memory_order_release);
    if (!std::exchange(entry->second.told, false)) return;
  }
  const std::string subject = queue.empty() ? "" : "queue \"" + printable(queue) + "\": ";
  logger_(LogLevel::info, subject + std::string{name_of(duty)} + " works again");
}

std::optional<SteadyTime::duration> Faults::rest_of(std::string_view queue, SteadyTime now) const {
  const auto entry = faults_.find({Duty::take, std::string{queue}});
  if (entry == faults_.end() || entry->second.asleep_until <= now) return std::nullopt;
  return entry->second.asleep_until - now;
}

bool Faults::rests(std::string_view queue) const {
  if (lasting_.load(std::memory_order_acquire) == 0) return false;
  const SteadyTime at = now();
  detail::MutexLock lock{mutex_};
  return rest_of(queue, at).has_value();
}

std::vector<std::string> Faults::awake(std::span<const std::string> queues) const {
  std::vector<std::string> names;
  names.reserve(queues.size());
  std::copy_if(queues.begin(), queues.end(), std::back_inserter(names),
               [this](const std::string& queue) { return !rests(queue); });
  return names;
}

std::optional<SteadyTime::duration> Faults::shortest_rest(
    std::span<const std::string> queues) const {
  std::optional<SteadyTime::duration> shortest;
  if (lasting_.load(std::memory_order_acquire) == 0) return shortest;
  const SteadyTime at = now();
  detail::MutexLock lock{mutex_};
  for (const std::string& queue : queues) {
    const auto left = rest_of(queue, at);
    if (left && (!shortest || *left < *shortest)) shortest = left;
  }
  return shortest;
}

}  // namespace taskmux::redis
