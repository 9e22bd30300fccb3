#pragma once

#include <cstddef>

#include "taskmux/broker.hpp"
#include "taskmux/detail/run/transition.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Returns about how many bytes have to be sent to a broker for `settlement`: the result if it is
/// stored, and the message if it is rewritten.
inline std::size_t bytes_of(const Settlement& settlement) noexcept {
  constexpr std::size_t rest = 80;
  const Transition next = transition_of(settlement);
  if (!next.to) return rest;
  std::size_t bytes = rest + settlement.error.size();
  if (settlement.result) bytes += settlement.result->size();
  if (!next.rewrites() || settlement.last_resort || !settlement.run.message) return bytes;
  const TaskMessage& message = *settlement.run.message;
  bytes += message.task.payload.size() + message.task.type.size() + message.last_error.size();
  for (const auto& [key, value] : message.task.headers) bytes += key.size() + value.size();
  return bytes;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
