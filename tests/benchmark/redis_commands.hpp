#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace taskmux::bench {

/// How many commands the Redis server at `url` has dealt with since it started, those within
/// scripts included; nullopt where that can't be told (Sentinel, Cluster, refused). Sends two
/// commands of its own at most.
std::optional<std::uint64_t> redis_commands(const std::string& url);

}  // namespace taskmux::bench
