#pragma once

#include <cstddef>

#include "taskmux/broker.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Whether a retry uses one of the task's retries, and counts as processed and failed.
constexpr bool uses_retry(Attempt attempt) noexcept {
  return attempt == Attempt::counts || attempt == Attempt::crashed;
}

/// Whether the task stays in the store when `settlement` is applied, and its result with it.
inline bool keeps_task(const Settlement& settlement) noexcept {
  if (settlement.action == SettleAction::remove) return false;
  if (settlement.action != SettleAction::complete) return true;
  return settlement.run.message && settlement.run.message->retention.count() > 0;
}

/// About how many bytes a broker has to be sent for `settlement`: the result if that is kept, and the
/// message where it is written anew.
inline std::size_t bytes_of(const Settlement& settlement) noexcept {
  constexpr std::size_t rest = 80;
  if (!keeps_task(settlement)) return rest;
  std::size_t bytes = rest + settlement.error.size();
  if (settlement.result) bytes += settlement.result->size();
  const bool rewritten =
      settlement.action != SettleAction::give_back && settlement.action != SettleAction::snooze;
  if (!rewritten || !settlement.run.message) return bytes;
  const TaskMessage& message = *settlement.run.message;
  bytes += message.task.payload.size() + message.task.type.size() + message.last_error.size();
  for (const auto& [key, value] : message.task.headers) bytes += key.size() + value.size();
  return bytes;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
