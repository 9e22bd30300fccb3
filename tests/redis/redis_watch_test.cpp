#include <algorithm>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "redis/session/session.hpp"
#include "redis/watch/watch_hub.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/hint_box.hpp"
#include "support/log_box.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

std::size_t connections(RedisServer& redis) {
  const std::string list{redis.command({"CLIENT", "LIST"}).as_string()};
  std::size_t count = 0;
  for (std::size_t at = 0; (at = list.find("name=taskmux", at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST_CASE("a change by any client is reported at once, long before a poll", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"default", "other"}, box.callback());
  const std::vector<std::vector<std::string>> changes = {
      {"LPUSH", "asynq:{other}:pending", "x"},
      {"SET", "asynq:{default}:paused", "1"},
      {"DEL", "asynq:{default}:paused"},
      {"ZADD", "asynq:{default}:scheduled", "4000000000", "y"},
      {"ZADD", "asynq:{default}:retry", "4000000000", "z"},
      {"ZADD", "asynq:{default}:tmx:due", "4000000000000000", "y"},
      {"EVAL", "redis.call('LPUSH', 'asynq:{default}:pending', 'x')", "0"},
      {"FLUSHALL"},
  };
  for (const auto& change : changes) {
    CAPTURE(change.at(0), change.at(1 % change.size()));
    t.redis.command({"DEL", "asynq:{other}:pending", "asynq:{default}:pending"});
    box.ready(0ms);
    REQUIRE_FALSE(watch->arm().ready);
    t.redis.command(change);
    CHECK(box.ready());  // The first poll comes later than this waits.
  }
}

TEST_CASE("a change of a watched task is told long before a poll, and to no watch on its queue",
          "[redis][watch]") {
  RedisFixture t;
  HintBox of_queue;
  const auto queue = t.broker.watch({"default"}, of_queue.callback());
  HintBox box;
  const auto watch =
      t.view.watch_tasks("default", {"t1", "t2"}, [call = box.callback()] { call({}); });
  for (const std::string id : {"t1", "t2"}) started(t.broker, message(id));
  const std::vector<std::vector<std::string>> changes = {
      {"HSET", "asynq:{default}:t:t2", "state", "completed"},
      {"DEL", "asynq:{default}:t:t1"},
      {"FLUSHALL"},
  };
  REQUIRE_FALSE(queue->arm().ready);
  for (const auto& change : changes) {
    CAPTURE(change.at(0));
    CHECK_FALSE(watch->arm().poll_after);
    CHECK(of_queue.count() == 0);
    t.redis.command(change);
    CHECK(box.ready());  // The first poll comes later than this waits.
  }
}

TEST_CASE("watches on tasks share two connections with all others", "[redis][watch]") {
  RedisFixture t;
  const std::size_t before = connections(t.redis);
  const auto first = t.view.watch_tasks("default", {"t1"}, [] {});
  const auto second = t.view.watch_tasks("other", {"t2"}, [] {});
  first->arm();
  second->arm();
  CHECK(connections(t.redis) == before + 2);
}

TEST_CASE("a hint is given once, and other queues give none", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  HintBox witness;
  const auto watch = t.broker.watch({"default"}, box.callback());
  const auto other = t.broker.watch({"other"}, witness.callback());
  REQUIRE_FALSE(watch->arm().ready);
  REQUIRE_FALSE(other->arm().ready);
  for (int i = 0; i < 100; ++i) enqueue(t.broker, message("t" + std::to_string(i)));
  CHECK(box.ready());
  REQUIRE_FALSE(other->arm().ready);
  enqueue(t.broker, message("x", "other"));
  CHECK(witness.ready());
  CHECK(box.count() == 0);
}

TEST_CASE("watches of any number of queues share two connections", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  std::vector<std::string> queues;
  for (int i = 0; i < 20; ++i) queues.push_back("q" + std::to_string(i));
  const auto first = t.broker.watch(queues, box.callback());
  const auto second = t.broker.watch({"default"}, box.callback());
  first->arm();
  second->arm();
  t.broker.ping();
  CHECK(connections(t.redis) == 3);  // the listener, the tracker, and one for commands
}

TEST_CASE("when the listening connection is lost, all watches get a hint, and it is restored",
          "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  t.redis.command({"CLIENT", "KILL", "TYPE", "pubsub"});
  CHECK(box.ready());
  REQUIRE_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t1"));
  CHECK(box.ready());
}

TEST_CASE("when the tracking connection is lost, all watches get a hint, and it is restored",
          "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  t.redis.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
  CHECK(box.ready());
  REQUIRE_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t1"));
  CHECK(box.ready());
}

TEST_CASE("when one watch restores the tracking connection, the others get a hint",
          "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  HintBox other;
  const auto watch = t.broker.watch({"default"}, box.callback());
  const auto waiting = t.broker.watch({"other"}, other.callback());
  REQUIRE_FALSE(waiting->arm().ready);
  t.redis.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
  REQUIRE_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t1", "other"));
  CHECK(other.ready());
}

TEST_CASE("if tracking is refused, watches are polled", "[redis][watch]") {
  RedisFixture t;
  t.redis.command({"ACL", "SETUSER", "default", "-client|tracking"});
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  CHECK_FALSE(watch->arm().ready);
  CHECK(box.ready());
  enqueue(t.broker, message("t1"));
  CHECK(watch->arm().ready);
  t.redis.command({"ACL", "SETUSER", "default", "+client|tracking"});
}

TEST_CASE("a watch does not spin if the table of tracked keys is too small", "[redis][watch]") {
  const char* const most_keys = GENERATE("50", "300");
  CAPTURE(most_keys);
  RedisServer server{{.arguments = {"--tracking-table-max-keys", most_keys}}};
  RedisFixture t{server};
  HintBox box;
  std::vector<std::string> queues;
  for (int i = 0; i < 51; ++i) queues.push_back("q" + std::to_string(i));  // 306 keys
  const auto watch = t.broker.watch(queues, box.callback());
  int hints = 0;
  for (const auto end = std::chrono::steady_clock::now() + 4s;;) {
    REQUIRE_FALSE(watch->arm().ready);
    if (!box.ready_by(end)) break;
    ++hints;
  }
  CHECK(hints < 200);
  watch->arm();
  enqueue(t.broker, message("t1", "q7"));
  CHECK(box.ready());
}

TEST_CASE("a lasting refusal to track is reported, with its effect", "[redis][watch]") {
  RedisFixture t;
  LogBox log;
  RedisOptions options = options_for(t.redis);
  options.logger = log.logger();
  RedisBroker broker{options};
  HintBox box;
  t.redis.command({"ACL", "SETUSER", "default", "-client|tracking"});
  const auto watch = broker.watch({"default"}, box.callback());
  watch->arm();
  CHECK(log.count("polls, since it can't track keys") == 0);
  CHECK(eventually([&] {
    watch->arm();
    return log.count("polls, since it can't track keys") > 0 || !box.ready();
  }));
  CHECK(log.count("polls, since it can't track keys") == 1);
  CHECK(log.count("up to 1.5 s late") == 1);
  t.redis.command({"ACL", "SETUSER", "default", "+client|tracking"});
}

TEST_CASE("faults that a watch recovers from are not logged", "[redis][watch]") {
  RedisFixture t;
  LogBox log;
  RedisOptions options = options_for(t.redis);
  options.logger = log.logger();
  RedisBroker broker{options};
  HintBox box;
  const auto watch = broker.watch({"default"}, box.callback());
  const std::vector<std::string> fault =
      GENERATE(std::vector<std::string>{"SCRIPT", "FLUSH"},
               std::vector<std::string>{"CLIENT", "KILL", "TYPE", "pubsub"});
  CAPTURE(fault);
  for (int i = 0; i < 20; ++i) {
    REQUIRE_FALSE(watch->arm().ready);
    t.redis.command(fault);
  }
  CHECK_FALSE(watch->arm().ready);
  CHECK(log.count("can't track") == 0);
  CHECK(log.count("NOSCRIPT") == 0);
}

TEST_CASE("a watch continues after a restart of the server", "[redis][watch]") {
  RedisServer server;
  RedisFixture t{server};
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  server.kill();
  server.start();
  CHECK(box.ready(10s));
  REQUIRE(eventually([&] { return !error_of([&] { watch->arm(); }); }));
  box.ready(0ms);
  REQUIRE_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t1"));
  CHECK(box.ready());
}

/// Whether a push to `server`'s default queue, watched and empty until then, is told before a poll
/// can be due.
bool told_at_once(Watch& watch, HintBox& box, RedisServer& server) {
  if (error_of([&] { server.command({"DEL", "asynq:{default}:pending"}); })) return false;
  bool ready = true;
  box.ready(0ms);
  if (error_of([&] { ready = watch.arm().ready; }) || ready) return false;
  server.command({"LPUSH", "asynq:{default}:pending", "x"});
  return box.ready(400ms);
}

/// Two servers, and the address by which the broker knows one of them at a time.
struct MovedServer {
  MovedServer() { std::filesystem::create_symlink(old.socket_path(), address); }

  RedisOptions options() const {
    RedisOptions options;
    options.mode = RedisMode::unix_socket;
    options.socket_path = address.string();
    options.max_idle_connections = 0;  // each call sees which server is there now
    return options;
  }

  /// From now on, new connections are to the other server; those that are open stay.
  void move() {
    std::filesystem::remove(address);
    std::filesystem::create_symlink(now.socket_path(), address);
  }

  bool left() { return connections(old) == 0; }

  RedisServer old;
  RedisServer now;
  TemporaryDirectory directory;
  std::filesystem::path address = directory.path() / "redis.sock";
};

TEST_CASE("watches follow when a call finds another server", "[redis][watch]") {
  MovedServer servers;
  RedisBroker broker{servers.options()};
  HintBox box;
  const auto watch = broker.watch({"default"}, box.callback());
  REQUIRE(eventually([&] { return told_at_once(*watch, box, servers.old); }));
  servers.move();
  broker.ping();
  CHECK(eventually([&] {
    const bool told = told_at_once(*watch, box, servers.now);
    return told && servers.left() && told_at_once(*watch, box, servers.now);
  }));
}

TEST_CASE("a watch's two connections do not stay on different servers", "[redis][watch]") {
  MovedServer servers;
  RedisBroker broker{servers.options()};
  HintBox box;
  const auto watch = broker.watch({"default"}, box.callback());
  REQUIRE(eventually([&] { return told_at_once(*watch, box, servers.old); }));
  servers.move();
  SECTION("the one that tracks is made anew") {
    servers.old.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
  }
  SECTION("the one that listens is made anew") {
    servers.old.command({"CLIENT", "KILL", "TYPE", "pubsub"});
  }
  CHECK(eventually([&] {
    const bool told = told_at_once(*watch, box, servers.now);
    return told && servers.left() && told_at_once(*watch, box, servers.now);
  }));
}

TEST_CASE("an idle watch sends almost nothing", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  t.redis.command({"CONFIG", "RESETSTAT"});
  CHECK_FALSE(box.ready(1s));
  const std::string before = t.redis.info("stats", "total_commands_processed");
  CHECK(std::stoi(before) <= 3);  // CONFIG, INFO and at most one of ours
}

TEST_CASE("the traffic of an idle server does not grow with its queues", "[redis][watch]") {
  RedisFixture t;
  const std::size_t count = GENERATE(std::size_t{1}, std::size_t{20}, std::size_t{250});
  CAPTURE(count);
  std::vector<std::string> queues;
  for (std::size_t i = 0; i < count; ++i) queues.push_back("q" + std::to_string(i));
  const ServerInfo server{.host = "h", .pid = 1, .id = "s"};
  const auto watch = t.broker.watch(queues, [](const Hint&) {});
  const auto idle = [&] {
    t.broker.registry().announce(server, 10s);
    t.broker.upkeep({.queues = queues});
    CHECK_FALSE(watch->rearm().ready);
  };
  idle();  // makes connections and loads scripts
  const auto reads = [&] { return std::stoi(t.redis.info("stats", "total_reads_processed")); };
  t.redis.command({"CONFIG", "RESETSTAT"});
  idle();
  const std::string calls = t.redis.info("commandstats", "cmdstat_evalsha");
  CHECK(calls.starts_with("calls=3,"));
  CHECK(reads() <= 3 + 3);  // ours, CONFIG and INFO
}

TEST_CASE("new keys in any of many queues are reported", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  std::vector<std::string> queues;
  for (int i = 0; i < 300; ++i) queues.push_back("q" + std::to_string(i));
  const auto watch = t.broker.watch(queues, box.callback());
  for (const auto* queue : {"q0", "q255", "q256", "q299"}) {
    CAPTURE(queue);
    REQUIRE_FALSE(watch->arm().ready);
    enqueue(t.broker, message(queue, queue));
    REQUIRE(box.ready());
    CHECK(watch->arm().ready);
    CHECK(take(t.broker, queue).size() == 1);
  }
}

TEST_CASE("a watch continues after the server's scripts are flushed", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  t.redis.command({"SCRIPT", "FLUSH"});
  REQUIRE_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t1"));
  CHECK(box.ready());
}

/// The queues of `abc` whose pending lists are looked at while `body` runs.
std::string looked_at(RedisFixture& t, const std::function<void()>& body) {
  std::string queues;
  for (const std::string& command : t.executed(body)) {
    for (const char queue : {'a', 'b', 'c'}) {
      if (command.find("\"EXISTS\" \"asynq:{" + std::string{queue} + "}:paused\" \"") !=
          std::string::npos)
        queues.push_back(queue);
    }
  }
  return queues;
}

TEST_CASE("rearm() looks only at queues that have changed", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"a", "b", "c"}, box.callback());
  // Until no notice of what the test did before is on its way any more: then one queue is looked at,
  // for the time. Armed after that.
  const auto calm_down = [&] {
    for (int calm = 0; calm < 2;)
      calm = looked_at(t, [&] { watch->rearm(); }) == "a" ? calm + 1 : 0;
    box.ready(0ms);
  };
  CHECK(looked_at(t, [&] { CHECK_FALSE(watch->arm().ready); }) == "abc");
  calm_down();

  enqueue(t.broker, message("t1", "b"));
  REQUIRE(box.ready());
  CHECK(looked_at(t, [&] { CHECK(watch->rearm().ready); }) == "b");
  CHECK(looked_at(t, [&] { CHECK(watch->rearm().ready); }) == "b");  // It is ready still.
  CHECK(take(t.broker, "b").size() == 1);
  calm_down();

  enqueue(t.broker, scheduled(message("t2", "c"), 1h));
  REQUIRE(box.ready());
  const std::optional<Time> due = watch->rearm().next_due;
  CHECK(due == t.clock.now() + 1h);
  calm_down();
  enqueue(t.broker, message("t3", "a"));
  REQUIRE(box.ready());
  CHECK(looked_at(t, [&] { CHECK(watch->rearm().next_due == due); }) == "a");
  CHECK(take(t.broker, "a").size() == 1);
  t.clock.advance(1h);
  CHECK(watch->rearm().ready);
  CHECK(looked_at(t, [&] { watch->arm(); }) == "abc");
}

TEST_CASE("rearm() looks at all queues if changes may have been missed", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  const auto watch = t.broker.watch({"a", "b", "c"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  SECTION("since the connection that listens was cut") {
    t.redis.command({"CLIENT", "KILL", "TYPE", "pubsub"});
  }
  SECTION("since the connection that looks was cut") {
    t.redis.command({"CLIENT", "KILL", "TYPE", "normal"});
  }
  SECTION("since all keys were deleted") { t.redis.command({"FLUSHALL"}); }
  REQUIRE(box.ready(20s));
  CHECK(looked_at(t, [&] { CHECK_FALSE(watch->rearm().ready); }) == "abc");
}

TEST_CASE("a watch is told if somebody finds a queue otherwise than its look did",
          "[redis][watch]") {
  RedisFixture t;
  redis::Session session{options_for(t.redis, t.manual_clock)};
  redis::WatchHub hub{session};
  HintBox box;
  enqueue(t.broker, scheduled(message("t1", "b"), 1h));
  const std::vector<std::string> queues{"a", "b", "c"};
  const std::vector<std::uint64_t> unknown(3, 0);
  CHECK(hub.looks(queues) == unknown);
  const auto watch = hub.watch({"a", "b"}, box.callback());
  CHECK(hub.looks(queues) == unknown);
  REQUIRE_FALSE(watch->arm().ready);
  const std::vector<std::uint64_t> looks = hub.looks(queues);
  CHECK(looks[0] != 0);
  CHECK(looks[1] != 0);
  CHECK(looks[2] == 0);
  const Time due = t.clock.now() + 1h;

  hub.check("a", looks[0], false, std::nullopt);
  hub.check("b", looks[1], false, due);
  hub.check("b", looks[1], false, due + 1s);
  hub.check("c", 0, true, std::nullopt);
  hub.check("a", looks[0] + 100, true, std::nullopt);
  CHECK(box.count() == 0);
  CHECK(hub.looks(queues) == looks);

  SECTION("ready") { hub.check("a", looks[0], true, std::nullopt); }
  SECTION("due") { hub.check("a", looks[0], false, due); }
  SECTION("due earlier") { hub.check("b", looks[1], false, due - 1s); }
  CHECK(box.count() == 1);
  CHECK(std::ranges::count(hub.looks(queues), 0U) == 2);
  REQUIRE_FALSE(watch->rearm().ready);
  CHECK(std::ranges::count(hub.looks(queues), 0U) == 1);
}

TEST_CASE("a key of the wrong type does not stop a watch of other queues", "[redis][watch]") {
  RedisFixture t;
  t.redis.command({"SET", "asynq:{broken}:pending", "x"});
  t.redis.command({"SET", "asynq:{broken}:scheduled", "x"});
  enqueue(t.broker, message("t1"));
  const auto watch = t.broker.watch({"broken", "default"}, [](const Hint&) {});
  CHECK(watch->arm().ready);
}

TEST_CASE("a queue with broken keys does not look ready while it is suspended", "[redis][watch]") {
  RedisFixture t;
  HintBox box;
  enqueue(t.broker, message("t1"));
  t.redis.command({"SET", "asynq:{default}:active", "x"});
  const auto watch = t.broker.watch({"default", "other"}, box.callback());
  const QueueQuota quotas[] = {{"default", 1}, {"other", 1}};
  CHECK(t.broker.exchange({.quotas = quotas}).runs.empty());
  // Its rest ends before any poll that is there in case a notice is lost: 2.5 s after arming. Tried
  // again, as a busy machine may be late.
  bool hinted = false;
  for (int tries = 0; tries < 3 && !hinted; ++tries) {
    CHECK_FALSE(watch->arm().ready);
    hinted = box.ready(2400ms);
  }
  CHECK(hinted);
  CHECK_FALSE(watch->arm().ready);
  t.advance(1s);
  CHECK(watch->arm().ready);
}

}  // namespace
}  // namespace taskmux::test
