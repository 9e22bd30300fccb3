#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/net/reply.hpp"

namespace taskmux::redis {

/// Which node serves which slot.
struct SlotMap {
  static constexpr std::uint16_t nobody = 0xffff;

  SlotMap() { owners.fill(nobody); }

  std::vector<Endpoint> nodes{};
  std::array<std::uint16_t, 16384> owners{};  ///< Index into `nodes`.

  bool operator==(const SlotMap&) const = default;
};

/// Decodes the reply to CLUSTER SLOTS: for each range its first and last slot, and the host and
/// port of its master. A host that the node itself does not know is the host that was asked. Throws
/// Error: protocol if the reply has another form, unavailable if no node serves any slot.
std::shared_ptr<const SlotMap> parse_slots(ReplyView reply, const Endpoint& asked);

/// Returns the endpoint that `asked` named in a redirection as `host:port`, where the host may
/// contain colons; nullopt if the text has another form.
std::optional<Endpoint> parse_address(std::string_view text, const Endpoint& asked);

}  // namespace taskmux::redis
