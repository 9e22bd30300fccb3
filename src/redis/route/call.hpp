#pragma once

#include <string>
#include <vector>

#include "redis/net/commands.hpp"
#include "redis/scripts/script.hpp"

namespace taskmux::redis {

/// One script call or command, as passed to Transport.
struct Call {
  /// Chooses the node in a cluster: any key of the call. Empty: any node.
  std::string slot_key{};
  /// Null: `args` is a command with its name, such as {"LLEN", key}.
  const Script* script = nullptr;
  /// For a script: the arguments after its SHA, that is, the number of keys, the keys and the
  /// arguments.
  std::vector<std::string> args{};
};

/// Adds `call` to `commands`; adds a script by its SHA.
void encode(const Call& call, Commands& commands);
/// Adds `call`, which runs a script, with the script's source: for a server that has lost the
/// script.
void encode_with_source(const Call& call, Commands& commands);

}  // namespace taskmux::redis
