#include <hiredis/hiredis.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "redis/route/slot_map.hpp"

// A reply to CLUSTER SLOTS and the address in a redirection are read or refused, whatever the bytes
// are; and what is read names servers.

using namespace taskmux;
using namespace taskmux::redis;

namespace {

const Endpoint asked{.host = "asked", .port = 7000};

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const Endpoint& endpoint) { require(!endpoint.host.empty() && endpoint.port != 0); }

void slots(ReplyView reply) {
  try {
    const auto map = parse_slots(reply, asked);
    require(!map->nodes.empty());
    for (const Endpoint& node : map->nodes) check(node);
    for (const std::uint16_t owner : map->owners)
      require(owner == SlotMap::nobody || owner < map->nodes.size());
  } catch (const Error& error) {
    require(error.errc() == Errc::protocol || error.errc() == Errc::unavailable);
  }
}

void reply(std::string_view bytes) {
  const std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader{redisReaderCreate(),
                                                                        &redisReaderFree};
  if (redisReaderFeed(reader.get(), bytes.data(), bytes.size()) != REDIS_OK) return;
  void* parsed = nullptr;
  if (redisReaderGetReply(reader.get(), &parsed) != REDIS_OK || parsed == nullptr) return;
  slots(Reply{static_cast<redisReply*>(parsed)});
}

/// A reply of the right form, whose numbers and hosts `bytes` are.
void likely_reply(std::string_view bytes) {
  std::string text = "*1\r\n*3\r\n:";
  const auto word = [&bytes] {
    const std::string_view first = bytes.substr(0, bytes.find(' '));
    bytes.remove_prefix(std::min(bytes.size(), first.size() + 1));
    return std::string{first};
  };
  text += word() + "\r\n:" + word() + "\r\n*2\r\n$";
  const std::string host = word();
  text += std::to_string(host.size()) + "\r\n" + host + "\r\n:" + word() + "\r\n";
  reply(text);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  reply(bytes);
  likely_reply(bytes);
  if (const auto address = parse_address(bytes, asked)) check(*address);
  return 0;
}
