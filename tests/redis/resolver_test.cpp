#include "redis/net/resolver.hpp"

#include <atomic>
#include <chrono>
#include <latch>
#include <string>
#include <thread>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/route/router.hpp"
#include "support/no_threads.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

/// A resolver whose look-ups hang until they are let go, and then find the loopback.
struct Hanging {
  ~Hanging() { release(); }

  void release() {
    if (!released.try_wait()) released.count_down();
    CHECK(eventually([&] { return resolver.threads() == 0; }));
  }

  std::latch released{1};
  std::atomic<int> lookups{0};
  Resolver resolver{[this](const std::string&, Resolver::Addresses& addresses) {
    ++lookups;
    released.wait();
    std::string cause;
    addresses = Resolver{}.resolve("127.0.0.1", in(0ms), cause);
    return 0;
  }};
};

}  // namespace

TEST_CASE("a look-up in progress is shared", "[redis][resolver]") {
  Hanging t;
  std::string cause;
  for (int i = 0; i < 5; ++i) {
    CHECK_FALSE(t.resolver.resolve("redis.example", in(1ms), cause));
    CHECK(cause == "the host's name was not resolved in time");
  }
  CHECK(t.resolver.threads() == 1);
  std::atomic<int> found{0};
  {
    std::vector<std::jthread> waiting;
    for (int i = 0; i < 3; ++i) {
      waiting.emplace_back([&] {
        std::string reason;
        if (t.resolver.resolve("redis.example", in(30s), reason)) ++found;
      });
    }
    t.release();
  }
  CHECK(found == 3);
  t.release();
}

TEST_CASE("the number of threads with hanging look-ups is bounded", "[redis][resolver]") {
  Hanging t;
  std::string cause;
  for (std::size_t i = 0; i < 2 * Resolver::most_threads; ++i)
    CHECK_FALSE(t.resolver.resolve("host" + std::to_string(i) + ".example", in(1ms), cause));
  CHECK(t.resolver.threads() == Resolver::most_threads);
  CHECK(cause == "too many look-ups of other hosts hang");
  CHECK(t.resolver.resolve("127.0.0.1", in(1ms), cause));
  t.release();
  CHECK(t.resolver.resolve("host20.example", in(30s), cause));
}

TEST_CASE("names and numeric addresses are resolved", "[redis][resolver]") {
  Resolver resolver;
  std::string cause;
  CHECK(resolver.resolve("localhost", in(10s), cause));
  CHECK(resolver.resolve("::1", in(10s), cause));
  CHECK_FALSE(resolver.resolve("no host", in(10s), cause));
  CHECK(cause.starts_with("can't resolve the host: "));
  const NoThreads none;
  CHECK_FALSE(resolver.resolve("localhost", in(10s), cause));
  CHECK(cause.starts_with("can't start a thread to resolve the host: "));
  CHECK(resolver.threads() == 0);
}

TEST_CASE("a redirection leads to the host that it names, or else to the sender's",
          "[redis][resolver]") {
  RedisOptions options;
  options.mode = RedisMode::cluster;
  options.addresses = {{"127.0.0.1", 1}};
  std::atomic<std::uint64_t> epoch{1};
  const auto router = make_router(options, epoch);
  const auto led_to = [&](const std::string& sender, std::string_view address) {
    const Pool from{"sender", options, epoch, {}, {.host = sender, .port = 6379}};
    const auto pool = router->pool_at(address, from);
    return pool ? pool->endpoint() : Endpoint{};
  };
  CHECK(led_to("10.0.0.1", "10.0.0.2:6381") == Endpoint{.host = "10.0.0.2", .port = 6381});
  CHECK(led_to("10.0.0.1", ":6381") == Endpoint{.host = "10.0.0.1", .port = 6381});
  CHECK(led_to("fd00::1", ":6381") == Endpoint{.host = "fd00::1", .port = 6381});
  CHECK(led_to("fd00::1", "?:6381") == Endpoint{.host = "fd00::1", .port = 6381});
  CHECK(led_to("10.0.0.1", "fd00::2:6381") == Endpoint{.host = "fd00::2", .port = 6381});
  CHECK(led_to("10.0.0.1", "[fd00::2]:6381") == Endpoint{.host = "fd00::2", .port = 6381});
  CHECK(led_to("10.0.0.1", "redis-2:6381") == Endpoint{.host = "redis-2", .port = 6381});
  CHECK(led_to("10.0.0.1", "no port") == Endpoint{});
}
