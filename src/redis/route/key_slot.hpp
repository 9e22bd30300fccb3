#pragma once

#include <cstdint>
#include <string_view>

namespace taskmux::redis {

/// Returns the hash slot of `key` in Redis Cluster: CRC16 of the part between the first '{' and the
/// next '}' if that is not empty, else of the whole key.
std::uint16_t slot_of(std::string_view key) noexcept;

}  // namespace taskmux::redis
