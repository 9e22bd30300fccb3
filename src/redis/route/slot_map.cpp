#include "redis/route/slot_map.hpp"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <string>
#include <system_error>

namespace taskmux::redis {
namespace {

/// Returns the host that a node of a cluster named for another node. If the node does not know it
/// (`?` or empty), returns its own host, `asked`.
std::string host_of(std::string_view named, const Endpoint& asked) {
  if (named.starts_with('[') && named.ends_with(']')) named = named.substr(1, named.size() - 2);
  return named.empty() || named == "?" ? asked.host : std::string{named};
}

std::uint16_t index_of(std::vector<Endpoint>& nodes, const Endpoint& node) {
  const auto index = std::find(nodes.begin(), nodes.end(), node) - nodes.begin();
  if (index == std::ssize(nodes)) nodes.push_back(node);
  return static_cast<std::uint16_t>(index);
}

}  // namespace

std::shared_ptr<const SlotMap> parse_slots(ReplyView reply, const Endpoint& asked) {
  auto map = std::make_shared<SlotMap>();
  if (reply.size() > map->owners.size())
    throw Error{Errc::protocol,
                "CLUSTER SLOTS of Redis at " + asked.to_string() + ": more ranges than slots"};
  for (std::size_t i = 0; i < reply.size(); ++i) {
    const auto range = reply[i];
    const auto first = range[0].as_integer();
    const auto last = range[1].as_integer();
    const auto port = range[2][1].as_integer();
    if (first < 0 || last < first || last >= std::ssize(map->owners) || port < 1 || port > 65535)
      throw Error{Errc::protocol, "CLUSTER SLOTS of Redis at " + asked.to_string() +
                                      ": a slot or port is out of range"};
    const auto host = range[2][0].as_optional_string().value_or("");
    const auto owner = index_of(
        map->nodes, {.host = host_of(host, asked), .port = static_cast<std::uint16_t>(port)});
    std::fill(map->owners.begin() + first, map->owners.begin() + last + 1, owner);
  }
  if (map->nodes.empty())
    throw Error{Errc::unavailable,
                "CLUSTER SLOTS of Redis at " + asked.to_string() + ": no node serves any slot"};
  return map;
}

std::optional<Endpoint> parse_address(std::string_view text, const Endpoint& asked) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  Endpoint endpoint{.host = host_of(text.substr(0, colon), asked)};
  const auto port = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), endpoint.port);
  const bool is_number = error == std::errc{} && end == port.data() + port.size();
  if (!is_number || endpoint.port == 0) return std::nullopt;
  return endpoint;
}

}  // namespace taskmux::redis
