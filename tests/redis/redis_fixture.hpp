#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redis/net/connection.hpp"
#include "support/redis_server.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/redis/redis_broker.hpp"

namespace taskmux::test {

/// Returns the redis-server of this test program, which is started on first use.
inline RedisServer& shared_redis() {
  static RedisServer server;
  return server;
}

/// Returns options for a broker on `server`. Without a clock: Redis's own time.
inline RedisOptions options_for(const RedisServer& server, std::shared_ptr<Clock> clock = nullptr) {
  RedisOptions options = parse_redis_url(server.url());
  options.clock = std::move(clock);
  options.logger = Logger::none();
  return options;
}

/// An empty database of a redis-server, a clock that stands still, and a broker.
struct RedisFixture {
  explicit RedisFixture(RedisServer& on = shared_redis()) : redis{(on.command({"FLUSHALL"}), on)} {
    // Lost runs are looked for after a whole lease of contact, whatever its length.
    redis_broker.ping();
    clock.advance(std::chrono::hours{1});
  }

  RedisServer& redis;
  std::shared_ptr<ManualClock> manual_clock = std::make_shared<ManualClock>();
  ManualClock& clock = *manual_clock;
  RedisBroker redis_broker{options_for(redis, manual_clock)};
  Broker& broker = redis_broker;
  QueueView& view = redis_broker;

  /// Advances the clock, and shortens every TTL accordingly.
  void advance(Duration step) {
    clock.advance(step);
    const std::string milliseconds =
        std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(step).count());
    redis.command({"EVAL", R"lua(
      for _, key in ipairs(redis.call('KEYS', '*')) do
        local left = redis.call('PTTL', key)
        if left > 0 then redis.call('PEXPIRE', key, left - tonumber(ARGV[1])) end
      end)lua",
                   "0", milliseconds});
  }

  /// A string, the field of a hash.
  std::string field(std::string_view task, std::string_view name,
                    std::string_view queue = "default") {
    const std::string key = "asynq:{" + std::string{queue} + "}:t:" + std::string{task};
    const redis::Reply reply = redis.command({"HGET", key, name});
    return std::string{reply.as_optional_string().value_or("")};
  }

  /// Returns the commands that are executed while `body` runs, including those of scripts, as shown
  /// by MONITOR.
  std::vector<std::string> executed(const std::function<void()>& body) {
    using namespace std::chrono_literals;
    const auto soon = [] { return std::chrono::steady_clock::now() + 20s; };
    redis::Connection monitor{redis.endpoint(), {}, soon()};
    monitor.command({"MONITOR"}, soon());
    body();
    redis.command({"ECHO", "all told"});
    std::vector<std::string> commands;
    while (const auto told = monitor.receive(soon())) {
      commands.emplace_back(told->as_string());
      if (commands.back().find("all told") != std::string::npos) break;
    }
    return commands;
  }

  /// All keys, sorted.
  std::vector<std::string> keys() {
    const redis::Reply reply = redis.command({"KEYS", "*"});
    std::vector<std::string> names;
    for (std::size_t i = 0; i < reply.size(); ++i) names.emplace_back(reply[i].as_string());
    std::sort(names.begin(), names.end());
    return names;
  }
};

}  // namespace taskmux::test
