#pragma once

#include <vector>

#include "redis/session/session.hpp"
#include "taskmux/registry.hpp"

// The operations of Registry, implemented by scripts; see the contract there.
namespace taskmux::redis {

void announce(Session& session, const ServerInfo& server, Duration lifetime);
void retire(Session& session, const ServerInfo& server);
std::vector<ServerInfo> servers(Session& session);

}  // namespace taskmux::redis
