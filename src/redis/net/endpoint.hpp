#pragma once

#include <cstdint>
#include <string>

namespace taskmux::redis {

/// Where one server listens.
struct Endpoint {
  std::string host{};  ///< Name, IPv4 or IPv6.
  std::uint16_t port = 0;
  std::string socket_path{};  ///< Not empty: a Unix socket, and no host or port.

  bool operator==(const Endpoint&) const = default;
  /// For error texts: `host:port`, `[::1]:port`, or the path.
  std::string to_string() const;
};

/// How to log in to a server.
struct Login {
  std::string user{};
  std::string password{};
  int database = 0;
  std::string client_name{};  ///< Empty: none is set.
};

/// What a server says of itself at login.
struct ServerFacts {
  std::string version{};  ///< Such as "7.0.15"; empty if an ACL forbids INFO.
  std::string run_id{};   ///< Changes with each start of the server; empty if not known.
  std::string mode{};     ///< "standalone", "cluster" or "sentinel"; empty if not known.
};

}  // namespace taskmux::redis
