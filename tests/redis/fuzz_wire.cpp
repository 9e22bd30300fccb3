#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "redis/asynq/wire.hpp"

// Whatever the bytes are: each decoder reads or refuses them, and what it reads is the same again
// once written.

using namespace taskmux::redis;

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

void message(std::string_view bytes) {
  const auto first = decode_message(bytes);
  if (!first) return;
  const auto unknown = unpack_unknown(pack_unknown(first->unknown));
  require(unknown && *unknown == first->unknown);

  const std::string written = encode_message(first->message, *unknown);
  const auto second = decode_message(written);
  require(bool{second});
  require(second->unknown == first->unknown);
  require(second->message.deadline == first->message.deadline);
  require(second->message.timeout == first->message.timeout);
  require(second->message.task.headers == first->message.task.headers);
  require(encode_message(second->message, second->unknown) == written);
}

void unknown_fields(std::string_view bytes) {
  const auto first = unpack_unknown(bytes);
  if (!first) return;
  const auto second = unpack_unknown(pack_unknown(*first));
  require(second && *second == *first);
}

void server(std::string_view bytes) {
  auto first = decode_server(bytes);
  if (!first) return;
  const std::string written = encode_server(first->server);
  const auto second = decode_server(written);
  require(second && encode_server(second->server) == written);
}

void worker(std::string_view bytes) {
  const auto first = decode_worker(bytes);
  if (!first) return;
  const taskmux::ServerInfo owner{.host = first->host, .pid = first->pid, .id = first->server_id};
  const std::string written = encode_worker(owner, first->worker);
  const auto second = decode_worker(written);
  require(second && encode_worker(owner, second->worker) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes{reinterpret_cast<const char*>(data), size};
  message(bytes);
  unknown_fields(bytes);
  server(bytes);
  worker(bytes);
  return 0;
}
