#pragma once

#include <cstdint>
#include <string>

namespace taskmux::redis {

/// The address of one server.
struct Endpoint {
  std::string host{};  ///< Name, IPv4 or IPv6.
  std::uint16_t port = 0;
  std::string socket_path{};  ///< If not empty: a Unix socket; host and port are unused.

  bool operator==(const Endpoint&) const = default;
  /// Returns the address for error texts: `host:port`, `[::1]:port`, or the path.
  std::string to_string() const;
};

/// The settings for logging in to a server.
struct Login {
  std::string user{};
  std::string password{};
  int database = 0;
  std::string client_name{};  ///< Empty: no name is set.
};

/// What a server reports about itself at login.
struct ServerFacts {
  std::string version{};  ///< Such as "7.0.15"; empty if an ACL forbids INFO.
  std::string run_id{};   ///< Changes with each start of the server; empty if not known.
  std::string mode{};     ///< "standalone", "cluster" or "sentinel"; empty if not known.
};

}  // namespace taskmux::redis
