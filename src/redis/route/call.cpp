#include "redis/route/call.hpp"

#include <span>
#include <string>

namespace taskmux::redis {

void encode(const Call& call, Commands& commands) {
  if (call.script == nullptr) {
    commands.add(std::span<const std::string>{call.args});
    return;
  }
  commands.begin(call.args.size() + 2).arg("EVALSHA").arg(call.script->sha1);
  for (const auto& each : call.args) commands.arg(each);
}

void encode_with_source(const Call& call, Commands& commands) {
  commands.begin(call.args.size() + 2).arg("EVAL").arg(call.script->source);
  for (const auto& each : call.args) commands.arg(each);
}

}  // namespace taskmux::redis
