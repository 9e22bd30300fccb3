#pragma once

#include <vector>

#include "redis/session/session.hpp"
#include "taskmux/registry.hpp"

// The operations of Registry, in terms of scripts; each as its contract there says.
namespace taskmux::redis {

void announce(Session& session, const ServerInfo& server, Duration lifetime);
void retire(Session& session, const ServerInfo& server);
std::vector<ServerInfo> servers(Session& session);

}  // namespace taskmux::redis
