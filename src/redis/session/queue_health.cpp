#include "redis/session/queue_health.hpp"

#include <chrono>

#include "redis/net/reply.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr auto between_lines = 1min;
constexpr auto length_of_rest = 1s;

std::string_view name_of(QueueOperation operation) noexcept {
  switch (operation) {
    case QueueOperation::list: return "adding to the set of queues";
    case QueueOperation::take: return "taking tasks";
    case QueueOperation::settle: return "settling runs";
    case QueueOperation::count: return "counting attempts";
    case QueueOperation::extend: return "extending leases";
    case QueueOperation::upkeep: return "upkeep";
  }
  return "unknown";
}

}  // namespace

QueueHealth::QueueHealth(const Logger& logger, std::shared_ptr<Clock> clock)
    : logger_{logger}, clock_{std::move(clock)} {}

SteadyTime QueueHealth::now() const {
  return clock_ ? clock_->steady_now() : std::chrono::steady_clock::now();
}

void QueueHealth::failed(QueueOperation operation, std::string_view queue, const Error& error) {
  if (error.errc() == Errc::unavailable) return;
  const SteadyTime at = now();
  {
    detail::MutexLock lock{mutex_};
    // A fault that has ended matters only while its log line suppresses the next one.
    std::erase_if(queue_health_, [&](const auto& entry) {
      return !entry.second.lasts && at - entry.second.told_at >= between_lines;
    });
    Fault& fault = lasting(operation, queue, at);
    if (operation == QueueOperation::take) fault.asleep_until = at + length_of_rest;
    if (at - fault.told_at < between_lines) return;
    fault.told = true;
    fault.told_at = at;
  }
  logger_(LogLevel::error, error.what());
}

void QueueHealth::rest(std::string_view queue) {
  const SteadyTime at = now();
  detail::MutexLock lock{mutex_};
  lasting(QueueOperation::take, queue, at).asleep_until = at + length_of_rest;
}

QueueHealth::Fault& QueueHealth::lasting(QueueOperation operation, std::string_view queue, SteadyTime at) {
  // A fault that was never logged is logged at once.
  const auto entry =
      queue_health_.try_emplace({operation, std::string{queue}}, Fault{.told_at = at - between_lines}).first;
  if (!std::exchange(entry->second.lasts, true)) lasting_.fetch_add(1, std::memory_order_release);
  return entry->second;
}

void QueueHealth::worked(QueueOperation operation, std::string_view queue) {
  if (lasting_.load(std::memory_order_acquire) == 0) return;
  {
    detail::MutexLock lock{mutex_};
    const auto entry = queue_health_.find({operation, std::string{queue}});
    if (entry == queue_health_.end() || !entry->second.lasts) return;
    entry->second.lasts = false;
    entry->second.asleep_until = {};
    lasting_.fetch_sub(1, std::memory_order_release);
    if (!std::exchange(entry->second.told, false)) return;
  }
  const std::string subject = queue.empty() ? "" : "queue \"" + printable(queue) + "\": ";
  logger_(LogLevel::info, subject + std::string{name_of(operation)} + " works again");
}

std::optional<SteadyTime::duration> QueueHealth::rest_of(std::string_view queue, SteadyTime now) const {
  const auto entry = queue_health_.find({QueueOperation::take, std::string{queue}});
  if (entry == queue_health_.end() || entry->second.asleep_until <= now) return std::nullopt;
  return entry->second.asleep_until - now;
}

bool QueueHealth::rests(std::string_view queue) const {
  if (lasting_.load(std::memory_order_acquire) == 0) return false;
  const SteadyTime at = now();
  detail::MutexLock lock{mutex_};
  return rest_of(queue, at).has_value();
}

std::optional<SteadyTime::duration> QueueHealth::shortest_rest(
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
