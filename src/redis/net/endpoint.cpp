#include "redis/net/endpoint.hpp"

#include <fmt/format.h>

#include "redis/net/reply.hpp"

namespace taskmux::redis {

std::string Endpoint::to_string() const {
  if (!socket_path.empty()) return printable(socket_path);
  const std::string name = printable(host);
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", name, port)
                                             : fmt::format("[{}]:{}", name, port);
}

}  // namespace taskmux::redis
