#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "taskmux/error.hpp"
#include "taskmux/redis/redis_options.hpp"

// A URL is read or refused, whatever its bytes are, and what is read names a server.

using namespace taskmux;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void check(const RedisOptions& options) {
  switch (options.mode) {
    case RedisMode::standalone: require(!options.host.empty() && options.port != 0); break;
    case RedisMode::unix_socket: require(options.socket_path.starts_with('/')); break;
    case RedisMode::sentinel: require(!options.master_name.empty()); [[fallthrough]];
    case RedisMode::cluster:
      require(!options.addresses.empty());
      for (const RedisAddress& address : options.addresses)
        require(!address.host.empty() && address.port != 0);
      break;
  }
  require(options.database >= 0);
}

void parse(std::string_view url) {
  try {
    check(parse_redis_url(url));
  } catch (const std::invalid_argument&) {
    // Refused.
  } catch (const Error& error) {
    require(error.errc() == Errc::unsupported);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  parse(bytes);
  for (const char* scheme :
       {"redis://", "redis-socket://", "redis-sentinel://", "redis-cluster://"})
    parse(scheme + std::string{bytes});
  return 0;
}
