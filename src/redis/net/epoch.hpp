#pragma once

#include <cstdint>

namespace taskmux::redis {

/// Added to Transport::epoch() when the server turns out to be a different one, or when slots of a
/// cluster have moved. The upper half of an epoch counts these events, so that they can be
/// distinguished from a connection that was merely cut.
inline constexpr std::uint64_t another_server = std::uint64_t{1} << 32;

constexpr std::uint64_t server_of(std::uint64_t epoch) noexcept { return epoch / another_server; }

}  // namespace taskmux::redis
