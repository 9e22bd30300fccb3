#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace taskmux::bench {

/// How often the Redis server at `url` has read from its clients since it started: a command each
/// time, or a pipeline of them; nullopt where that can't be told (Sentinel, Cluster, refused).
/// Counts its own, too: one, or two where there is a password.
std::optional<std::uint64_t> redis_requests(const std::string& url);

}  // namespace taskmux::bench
