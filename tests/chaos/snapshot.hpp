#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/redis_server.hpp"

namespace taskmux::chaos {

/// What lies under one key of Redis.
struct Stored {
  std::string type{};                           ///< "string", "list", "set", "zset" or "hash".
  bool expires = false;                         ///< Whether it has a TTL.
  std::string text{};                           ///< Of a string.
  std::vector<std::string> members{};           ///< Of a list, a set or a sorted set.
  std::map<std::string, std::string> fields{};  ///< Of a hash.
};

/// All that lies in a Redis database, by key. Not taken at one instant.
using Snapshot = std::map<std::string, Stored>;

Snapshot take_snapshot(test::RedisServer& server);

}  // namespace taskmux::chaos
