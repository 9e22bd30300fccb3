#pragma once

#include <string>
#include <vector>

#include "redis/net/commands.hpp"
#include "redis/scripts/script.hpp"

namespace taskmux::redis {

/// One script run or command, as Transport takes it.
struct Call {
  /// Chooses the node in a cluster: any key of the call. Empty: whichever node.
  std::string slot_key{};
  /// Null: `args` is a command with its name, as {"LLEN", key}.
  const Script* script = nullptr;
  /// For a script what follows its SHA: the number of keys, the keys, the arguments.
  std::vector<std::string> args{};
};

/// Adds `call` to `commands`; a script by its SHA.
void encode(const Call& call, Commands& commands);
/// Adds `call`, which runs a script, with the script's source: for a server that forgot it.
void encode_with_source(const Call& call, Commands& commands);

}  // namespace taskmux::redis
