#include "redis/route/call.hpp"

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace taskmux::redis {
namespace {

void encode_script(std::string_view name, std::string_view script, const Call& call,
                   Commands& commands) {
  const std::size_t count = call.args.size() + 2;
  std::size_t bytes = name.size() + script.size();
  for (const auto& each : call.args) bytes += each.size();
  commands.reserve(bytes, count);
  commands.begin(count).arg(name).arg(script);
  for (const auto& each : call.args) commands.arg(each);
}

}  // namespace

void encode(const Call& call, Commands& commands) {
  if (call.script == nullptr) {
    commands.add(std::span<const std::string>{call.args});
    return;
  }
  encode_script("EVALSHA", call.script->sha1, call, commands);
}

void encode_with_source(const Call& call, Commands& commands) {
  encode_script("EVAL", call.script->source, call, commands);
}

}  // namespace taskmux::redis
