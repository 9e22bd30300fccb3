#include <atomic>
#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "redis/scripts/scripts.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/hint_box.hpp"
#include "support/log_box.hpp"
#include "support/run.hpp"
#include "support/test.hpp"
#include "taskmux/taskmux.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

/// The words of the line of the README that grants the rights, "ACL" first.
std::vector<std::string> readme_rights() {
  std::ifstream readme{TASKMUX_README};
  for (std::string line; std::getline(readme, line);) {
    if (!line.starts_with("ACL SETUSER taskmux ")) continue;
    std::istringstream words{line};
    return {std::istream_iterator<std::string>{words}, {}};
  }
  return {};
}

/// A server with a user of the README's rights, and `changes` to them.
struct RightsFixture {
  explicit RightsFixture(const std::vector<std::string>& changes = {},
                         const std::vector<std::string>& server_arguments = {})
      : redis{{.arguments = server_arguments}} {
    std::vector<std::string> words = readme_rights();
    REQUIRE(words.size() > 10);
    words.insert(words.end(), changes.begin(), changes.end());
    redis.command(words);
  }

  RedisOptions options() {
    RedisOptions options = options_for(redis);
    options.user = "taskmux";
    options.password = "secret";
    options.logger = log.logger();
    return options;
  }

  RedisServer redis;
  LogBox log;
};

ServeMux email_mux() {
  ServeMux mux;
  mux.handle("email:", [](Context&, const Task&) {});
  return mux;
}

/// What start() throws with a user of the README's rights and `changes`.
std::string start_error(const std::vector<std::string>& changes, Errc expected) {
  RightsFixture t{changes};
  RedisBroker broker{t.options()};
  Server server{broker, email_mux(), {.concurrency = 1, .queues = {{"default", 1}}}};
  try {
    server.start();
  } catch (const Error& error) {
    CHECK(error.errc() == expected);
    return error.what();
  }
  return "nothing";
}

/// Serves a queue for a while: every operation, and one wake-up.
void use_all_of(RedisBroker& broker, RedisServer& redis) {
  HintBox box;
  const std::string queues[] = {"default"};
  broker.open(queues);
  const auto watch = broker.watch({"default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);
  EnqueueRequest locked = pending(message("t1"));
  locked.unique_for = 1h;
  EnqueueRequest later = pending(message("later"));
  later.process_in = 1h + 500ms;  // a fraction, and far enough
  for (const EnqueueReply& reply : broker.enqueue({locked, later})) CHECK_FALSE(reply.error);
  CHECK(box.ready());
  for (const char* id : {"t2", "t3", "t4", "t5", "t6", "bad"}) enqueue(broker, message(id, "default"));
  redis.command({"HSET", "asynq:{default}:t:bad", "msg", "\xff"});
  const auto runs = take(broker, "default", 10);
  REQUIRE(runs.size() == 6);
  CHECK(extend(broker, runs[0]).status == LeaseStatus::ok);
  broker.cancel("default", "t1", CancelMode::remove);
  CHECK(box.cancelled("t1"));
  Run kept = runs[1];
  CHECK(settle(broker, completed(runs[0])) == SettleStatus::applied);
  CHECK(settle(broker, completed(kept)) == SettleStatus::applied);
  CHECK(settle(broker, retried(runs[2], 20s)) == SettleStatus::applied);
  CHECK(settle(broker, archived(runs[3])) == SettleStatus::applied);
  CHECK(settle(broker, {.run = runs[4], .action = SettleAction::snooze, .delay = 1h + 500ms}) ==
        SettleStatus::applied);
  CHECK(settle(broker, {.run = runs[5], .action = SettleAction::give_back}) == SettleStatus::applied);
  broker.upkeep({.queues = queues});
  const ServerInfo server{.host = "h", .pid = 1, .id = "s"};
  broker.announce(server, 10s);
  CHECK(broker.servers().size() == 1);
  broker.retire(server);
  CHECK(broker.queues().size() == 1);
  broker.queue_info("default");
  broker.history("default", 2);
  for (const TaskState state : {TaskState::pending, TaskState::retry, TaskState::archived}) {
    CHECK(listed(broker, "default", state).size() >= 1);
  }
  CHECK(broker.find("default", "t4"));
  broker.update_payload("default", "t4", "x");
  broker.pause("default");
  broker.unpause("default");
  broker.act_all("default", TaskAction::run, TaskState::archived, 10);
  broker.delete_queue("default", true);
}

TEST_CASE("the rights that the README grants are enough, and nothing is refused", "[redis][rights]") {
  RightsFixture t;
  RedisBroker broker{t.options()};
  use_all_of(broker, t.redis);
  const redis::Reply denied = t.redis.command({"ACL", "LOG"});
  for (std::size_t i = 0; i < denied.size(); ++i) FAIL_CHECK(denied[i][7].as_string());
  CHECK(denied.size() == 0);
  CHECK(t.log.lines().size() == t.log.count("loses all tasks") + t.log.count("malformed"));
}

TEST_CASE("commands that a hosting service renames are not needed", "[redis][rights]") {
  const std::vector<std::string> gone = GENERATE(
      std::vector<std::string>{"INFO"}, std::vector<std::string>{"CONFIG"},
      std::vector<std::string>{"CLIENT"}, std::vector<std::string>{"SORT_RO"},
      std::vector<std::string>{"INFO", "CONFIG", "CLIENT", "SORT_RO"});
  CAPTURE(gone);
  std::vector<std::string> arguments;
  std::vector<std::string> rights;
  const bool by_acl = GENERATE(false, true);
  for (const std::string& command : gone) {
    if (by_acl) {
      rights.push_back("-" + command);
    } else {
      arguments.insert(arguments.end(), {"--rename-command", command, ""});
    }
  }
  RightsFixture t{rights, arguments};
  RedisBroker broker{t.options()};
  use_all_of(broker, t.redis);
}

TEST_CASE("a server whose user lacks rights does not start, and reports why", "[redis][rights]") {
  const std::string refused = GENERATE("evalsha", "rpop", "lpush", "zadd", "hset", "unlink", "zmscore",
                                       "time");
  CAPTURE(refused);
  const std::string error = start_error({"-" + refused}, Errc::unauthorized);
  CAPTURE(error);
  CHECK(error.find("serve queue \"default\"") != std::string::npos);
  CHECK(error.find("run") != std::string::npos);
}

TEST_CASE("a server whose user has no rights does not start", "[redis][rights]") {
  start_error({"-@all"}, Errc::unauthorized);
  start_error({"resetkeys", "~other:*"}, Errc::unauthorized);
}

TEST_CASE("a server checks at its start the commands that its scripts run", "[redis][rights]") {
  const redis::Scripts& scripts = redis::scripts();
  const auto commands_of = [](std::string_view source) {
    std::set<std::string> names;
    for (std::size_t at = 0; (at = source.find('\'', at)) != std::string_view::npos; ++at) {
      const std::size_t end = source.find('\'', at + 1);
      const std::string name{source.substr(at + 1, end - at - 1)};
      if (name.size() > 2 && name.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_") == name.npos)
        names.insert(name);
    }
    return names;
  };
  std::set<std::string> needed;
  for (const redis::Script* script :
       {&scripts.acquire, &scripts.give_back, &scripts.settle, &scripts.extend, &scripts.quarantine,
        &scripts.upkeep, &scripts.look, &scripts.archives, &scripts.trim}) {
    needed.merge(commands_of(script->source));
  }
  const std::set<std::string> tried = commands_of(scripts.try_rights.source);
  // Words that are no commands, and a command that is optional.
  const std::set<std::string> others{"BY",      "DESC",       "LIMIT",
                                     "SORT_RO", "WITHSCORES", "WRONGTYPE"};
  for (const std::string& name : needed) {
    CAPTURE(name);
    CHECK((tried.contains(name) || others.contains(name)));
  }
}

TEST_CASE("a server stays healthy, and logs nothing, while Redis forgets its scripts",
          "[redis][rights]") {
  RedisFixture t;
  LogBox log;
  LogBox server_log;
  RedisOptions options = options_for(t.redis);
  options.logger = log.logger();
  RedisBroker broker{options};
  std::atomic<int> changes{0};
  Server server{broker,
                email_mux(),
                {.concurrency = 2,
                 .queues = {{"default", 1}},
                 .hooks = {.on_health_change = [&](const Health&) { ++changes; }},
                 .logger = server_log.logger()}};
  server.start();
  for (int i = 0; i < 200; ++i) {
    t.redis.command({"SCRIPT", "FLUSH"});
    enqueue(broker, message("t" + std::to_string(i)));
  }
  CHECK(eventually([&] { return server.stats().succeeded == 200; }));
  server.shutdown();
  CHECK(changes == 0);
  CHECK(server_log.lines().empty());
  CHECK(log.count("NOSCRIPT") == 0);
  CHECK(log.count("can't track") == 0);
}

TEST_CASE("an idle server sends little even if Redis can't track all of its keys",
          "[redis][rights]") {
  RedisServer redis{{.arguments = {"--tracking-table-max-keys", "50"}}};
  RedisBroker broker{options_for(redis)};
  ServerConfig config{.concurrency = 4, .queues = {}};
  for (int i = 0; i < 51; ++i) config.queues["q" + std::to_string(i)] = 1;
  Server server{broker, email_mux(), config};
  server.start();
  HintBox nothing;
  CHECK_FALSE(nothing.ready(3s));
  const std::string scripts = redis.info("commandstats", "cmdstat_evalsha");
  REQUIRE(scripts.starts_with("calls="));
  CHECK(std::stoi(scripts.substr(6)) < 200);
  enqueue(broker, message("t1", "q33"));
  CHECK(eventually([&] { return server.stats().succeeded == 1; }));
  server.shutdown();
}

TEST_CASE("opening queues leaves no keys", "[redis][rights]") {
  RedisFixture t;
  const std::string queues[] = {"default", "other"};
  enqueue(t.broker, message("t1"));
  const auto before = t.keys();
  CHECK(t.broker.open(queues).never_used == std::vector<std::string>{"other"});
  CHECK(t.keys() == before);
}

TEST_CASE("a server starts even if Redis is full", "[redis][rights]") {
  RightsFixture t;
  t.redis.command({"CONFIG", "SET", "maxmemory", "1"});
  RedisBroker broker{t.options()};
  const std::string queues[] = {"default"};
  CHECK_NOTHROW(broker.open(queues));
}

TEST_CASE("a missing right is reported even if Redis is full", "[redis][rights]") {
  RightsFixture t{{"-zmscore"}};
  t.redis.command({"CONFIG", "SET", "maxmemory", "1"});
  RedisBroker broker{t.options()};
  const std::string queues[] = {"default"};
  try {
    broker.open(queues);
    FAIL("it opened the queue");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::unauthorized);
    CHECK(std::string{error.what()}.find("ZMSCORE") != std::string::npos);
  }
}

TEST_CASE("without the right to publish, nothing is cancelled", "[redis][rights]") {
  RightsFixture t{{"resetchannels", "&__redis__:invalidate"}};
  RedisBroker broker{t.options()};
  enqueue(broker, message("t1"));
  const Run run = take_one(broker);
  CHECK(error_of([&] { broker.cancel("default", "t1", CancelMode::remove); }) == Errc::unauthorized);
  CHECK_FALSE(extend(broker, run).cancel);
}

TEST_CASE("a refused channel is logged once, with the effect", "[redis][rights]") {
  const auto [rights, channel, effect] = GENERATE(table<std::string, std::string, std::string>({
      {"&asynq:*", "__redis__:invalidate", "up to 1.5 s late"},
      {"&__redis__:invalidate &asynq:tmx:cancel", "asynq:cancel", "asynq's tools"},
      {"&__redis__:invalidate &asynq:cancel", "asynq:tmx:cancel", "next time"},
  }));
  std::vector<std::string> changes{"resetchannels"};
  std::istringstream words{rights};
  for (std::string word; words >> word;) changes.push_back(word);
  RightsFixture t{changes};
  RedisBroker broker{t.options()};
  HintBox box;
  const auto watch = broker.watch({"default"}, box.callback());
  watch->arm();
  t.redis.command({"CLIENT", "KILL", "TYPE", "pubsub"});
  REQUIRE(eventually([&] { return box.ready(); }));
  enqueue(broker, message("t1"));
  REQUIRE(eventually([&] { return !error_of([&] { watch->arm(); }); }));
  CHECK(t.log.count("\"" + channel + "\"") == 1);
  CHECK(t.log.count(effect) == 1);
  CHECK(t.log.count("cannot subscribe to channel") == 1);
}

TEST_CASE("a cancellation contains the queue and the database", "[redis][watch]") {
  RedisFixture t;
  HintBox here;
  HintBox there;
  RedisOptions options = options_for(t.redis);
  options.database = 1;
  RedisBroker elsewhere{options};
  const auto watch = t.broker.watch({"default"}, here.callback());
  const auto other = elsewhere.watch({"default"}, there.callback());
  enqueue(t.broker, message("same", "default"));
  enqueue(t.broker, message("same", "other"));
  const Run run = take_one(t.broker);
  take_one(t.broker, "other");
  SECTION("of a run of ours") {
    t.view.cancel("default", "same", CancelMode::remove);
    CHECK(here.cancelled("same"));
    CHECK(here.queue_of("same") == "default");
  }
  SECTION("of a run of a Go worker") {
    t.redis.command({"HDEL", "asynq:{default}:t:same", "tmx_run"});
    HintBox go;
    redis::Connection worker{t.redis.endpoint(), {}, std::chrono::steady_clock::now() + 20s};
    worker.command({"SUBSCRIBE", "asynq:cancel"}, std::chrono::steady_clock::now() + 20s);
    t.view.cancel("default", "same", CancelMode::retry);
    CHECK(here.cancelled("same"));
    CHECK(here.queue_of("same") == "default");
    const auto told = worker.receive(std::chrono::steady_clock::now() + 20s);
    REQUIRE(told);
    CHECK((*told)[2].as_string() == "same");
  }
  // What comes after it has arrived as well: neither watch heard of it twice or by mistake.
  t.redis.command({"PUBLISH", "asynq:cancel", "last"});
  REQUIRE(here.cancelled("last"));
  REQUIRE(there.cancelled("last"));
  CHECK(here.cancellations("same") == 1);
  CHECK(there.cancellations("same") == 0);
}

}  // namespace
}  // namespace taskmux::test
