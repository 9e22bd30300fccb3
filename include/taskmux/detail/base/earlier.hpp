#pragma once

#include <optional>
#include <type_traits>

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Returns the earlier of two instants. One that is not set counts as never.
template <typename Instant>
constexpr std::optional<Instant> earlier(std::optional<Instant> one,
                                         std::type_identity_t<std::optional<Instant>> other) {
  if (!one || (other && *other < *one)) return other;
  return one;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
