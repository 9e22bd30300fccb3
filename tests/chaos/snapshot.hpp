#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/redis_server.hpp"

namespace taskmux::chaos {

/// The contents of one key of Redis.
struct Stored {
  std::string type{};                           ///< "string", "list", "set", "zset" or "hash".
  bool expires = false;                         ///< Whether it has a TTL.
  std::string text{};                           ///< Of a string.
  std::vector<std::string> members{};           ///< Of a list, a set or a sorted set.
  std::map<std::string, std::string> fields{};  ///< Of a hash.
};

/// The contents of a Redis database, by key. Not taken atomically.
using Snapshot = std::map<std::string, Stored>;

Snapshot take_snapshot(test::RedisServer& server);

}  // namespace taskmux::chaos
