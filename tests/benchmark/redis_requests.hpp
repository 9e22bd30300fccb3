#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace taskmux::bench {

/// How often the Redis server at `url` has read from its clients since it started: a command each
/// time, or a pipeline of them; nullopt where that can't be told (Sentinel, Cluster, refused). Sends
/// two commands of its own at most.
std::optional<std::uint64_t> redis_requests(const std::string& url);

}  // namespace taskmux::bench
