#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <limits>
#include <string>
#include <thread>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/log_box.hpp"
#include "support/slow_line.hpp"
#include "support/test.hpp"
#include "taskmux/server.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Seconds = std::chrono::duration<double>;

constexpr auto shutdown_timeout = 200ms;
constexpr auto abandon_after = 300ms;
constexpr auto lease = 5s;

/// A server of which one handler hangs, one outcome is not recorded yet, and all of whose calls are
/// repeated as often as may be.
struct Worker {
  explicit Worker(RedisOptions options) : broker{std::move(options)} {}
  ~Worker() { gates->released.count_down(); }

  static ServerConfig config() {
    ServerConfig config;
    config.concurrency = 2;
    config.shutdown_timeout = shutdown_timeout;
    config.abandon_after = abandon_after;
    config.lease = lease;
    config.upkeep_interval = 10ms;
    config.heartbeat_interval = 10ms;
    return config;
  }

  ServeMux mux() const {
    ServeMux mux;
    mux.handle("email:", [gates = gates](Context& context, const Task&) {
      ++gates->started;
      (context.task_id() == "hangs" ? gates->released : gates->ended).wait();
    });
    return mux;
  }

  /// Shared with the handler that hangs, since it outlives the server.
  struct Gates {
    std::latch released{1};
    std::latch ended{1};
    std::atomic<int> started{0};
  };
  const std::shared_ptr<Gates> gates = std::make_shared<Gates>();
  RedisBroker broker;
  Server server{broker, mux(), config()};
};

/// How long the shutdown takes of a server whose Redis says nothing more once `silence` was called.
template <typename Silence>
Seconds shutdown_after(Worker& worker, Broker& direct, Silence silence) {
  enqueue(direct, message("hangs"));
  enqueue(direct, message("ends"));
  worker.server.start();
  // No checks here, since this runs on other threads.
  constexpr Seconds never{std::numeric_limits<double>::infinity()};
  if (!eventually([&] { return worker.gates->started == 2; }, 30s)) return never;
  silence();
  // Until calls are in progress that get no reply, and an outcome waits.
  worker.gates->ended.count_down();
  if (!eventually([&] { return worker.server.stats().unsettled == 1; }, 30s)) return never;
  const auto start = std::chrono::steady_clock::now();
  worker.server.shutdown();
  return std::chrono::steady_clock::now() - start;
}

/// The one that is promised, and what a slow machine may add.
constexpr Seconds bound = shutdown_timeout + abandon_after + lease + abandon_after;
constexpr Seconds margin = 2s;

TEST_CASE("a shutdown is bounded while Redis does not answer", "[redis][shutdown]") {
  std::atomic<double> with_stopped_server{0};
  std::atomic<double> with_silent_line{0};
  {
    const std::jthread stopped{[&] {
      RedisServer redis;
      RedisBroker direct{options_for(redis)};
      RedisOptions options = options_for(redis);
      options.command_timeout = 1600ms;
      options.connect_timeout = 3s;
      Worker worker{options};
      with_stopped_server = shutdown_after(worker, direct, [&] { redis.pause(); }).count();
      redis.resume();
    }};
    RedisServer redis;
    RedisBroker direct{options_for(redis)};
    SlowLine line{redis.endpoint(), SlowLine::unlimited};
    RedisOptions options;
    options.port = line.port();
    options.command_timeout = 1600ms;
    options.connect_timeout = 3s;
    Worker worker{options};
    with_silent_line = shutdown_after(worker, direct, [&] { line.set_rate(0); }).count();
  }
  INFO(with_stopped_server << " s with a stopped server, " << with_silent_line << " s with a line");
  CHECK(with_stopped_server < (bound + margin).count());
  CHECK(with_silent_line < (bound + margin).count());
}

TEST_CASE("a waiting call is abandoned when its limit is set", "[redis][shutdown]") {
  RedisServer redis;
  SlowLine line{redis.endpoint(), SlowLine::unlimited};
  RedisOptions options;
  options.port = line.port();
  options.command_timeout = 60s;
  options.connect_timeout = 60s;
  LogBox log;
  options.logger = log.logger();
  RedisBroker broker{options};
  const bool connected = GENERATE(true, false);
  if (connected) broker.ping();
  line.set_rate(0);
  CallLimit limit;
  std::atomic<bool> calls{false};
  std::optional<Errc> error;
  const auto start = std::chrono::steady_clock::now();
  {
    const std::jthread caller{[&] {
      broker.limit_calls_of_this_thread(&limit);
      calls = true;
      error = error_of([&] { broker.ping(); });
    }};
    CHECK(eventually([&] { return calls.load(); }, 30s));
    limit.set(std::chrono::steady_clock::now() + 50ms);
  }
  CHECK(error == Errc::unavailable);
  CHECK(std::chrono::steady_clock::now() - start < 30s);
  // Redis is not at fault: calls of others continue.
  CHECK(log.count("is interrupted") == 0);
  line.set_rate(SlowLine::unlimited);
  CHECK(eventually([&] { return !error_of([&] { broker.ping(); }); }, 30s));
}

TEST_CASE("a server is healthy again soon after Redis is back", "[redis][shutdown]") {
  RedisServer redis;
  RedisBroker broker{options_for(redis)};
  ServeMux mux;
  mux.handle("email:", [](Context&, const Task&) {});
  Server server{broker, std::move(mux), {}};
  server.start();
  CHECK(eventually([&] { return server.health().healthy; }, 30s));
  redis.kill();
  // Long enough that all pauses between attempts have grown.
  CHECK(eventually([&] { return server.stats().broker_errors > 20; }, 60s));
  CHECK_FALSE(server.health().healthy);
  redis.start();
  const auto back = std::chrono::steady_clock::now();
  CHECK(eventually([&] { return server.health().healthy; }, 30s));
  // It should take a second.
  CHECK(std::chrono::steady_clock::now() - back < 2500ms);
  server.shutdown();
}

}  // namespace
}  // namespace taskmux::test
