#include <cstdio>
#include <taskmux/redis/redis_broker.hpp>
#include <taskmux/taskmux.hpp>

// Links the compiled library: without a server, an enqueue has to fail with its own error.
int main() {
  taskmux::RedisBroker broker{
      {.mode = taskmux::RedisMode::unix_socket, .socket_path = "/nonexistent/redis.sock"}};
  taskmux::Client client{broker};
  try {
    client.enqueue({.type = "greet", .payload = "hello"});
  } catch (const taskmux::Error& error) {
    std::puts(error.what());
    return error.errc() == taskmux::Errc::unavailable ? 0 : 1;
  }
  std::fputs("an enqueue without a server succeeded\n", stderr);
  return 1;
}
