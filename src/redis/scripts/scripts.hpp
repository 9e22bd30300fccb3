#pragma once

#include <cstddef>
#include <vector>

#include "redis/scripts/script.hpp"

namespace taskmux::redis {

/// How much one script may do, so that Redis is never blocked for long.
namespace bound {
inline constexpr std::size_t items = 500;       ///< Settlements, enqueues, runs, ids of a call.
inline constexpr std::size_t bytes = 4u << 20;  ///< Of the arguments, or of messages taken.
inline constexpr std::size_t forward = 200;     ///< Due tasks moved per queue in an exchange.
inline constexpr std::size_t upkeep = 1000;     ///< The maximum of UpkeepRequest::limit.
inline constexpr std::size_t effort = 2000;     ///< Items of one call of upkeep, over its queues.
inline constexpr std::size_t queues = 256;      ///< Of one call, where it may have several.
}  // namespace bound

/// All Lua scripts. The arguments and the reply of each are described at the top of <name>.lua, and
/// what they have in common in README.md.
struct Scripts {
  Script enqueue;
  Script give_back;
  Script acquire;
  Script settle;
  Script extend;
  Script quarantine;
  Script upkeep;
  Script look;
  Script try_rights;
  Script heartbeat;
  Script register_server;
  Script write_server;
  Script live_servers;
  Script queue_info;
  Script groups;
  Script page;
  Script find;
  Script act;
  Script act_all;
  Script archives;
  Script trim;
  Script update_message;
  Script pause;
  Script cancel;
  Script empty_queue;

  Scripts();

  /// Returns all of them.
  std::vector<const Script*> all() const;
};

/// Returns the only instance, which is made at the first call.
const Scripts& scripts();

}  // namespace taskmux::redis
