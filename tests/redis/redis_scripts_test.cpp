#include "redis/scripts/scripts.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lua_arguments.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Dump = std::map<std::string, std::string>;

TEST_CASE("all scripts are among all()", "[redis][scripts]") {
  CHECK(redis::scripts().all().size() == sizeof(redis::Scripts) / sizeof(redis::Script));
}

/// Whether an `Args` can be made from arguments of the types `Given`.
template <typename Args, typename... Given>
concept MadeOf = requires(Given... given) { Args{given...}; };

TEST_CASE("a script's arguments can only be made with all of them", "[redis][scripts]") {
  using redis::Argument;
  using Run = redis::lua::Extend::Run;
  STATIC_REQUIRE(MadeOf<Run, Argument, Argument, Argument>);
  STATIC_REQUIRE_FALSE(MadeOf<Run, Argument, Argument>);
  STATIC_REQUIRE_FALSE(MadeOf<Run>);
  STATIC_REQUIRE_FALSE(MadeOf<redis::lua::Extend>);
  STATIC_REQUIRE_FALSE(MadeOf<redis::lua::Heartbeat::Keys, Argument, Argument, Argument>);
}

TEST_CASE("arguments are appended as the script reads them", "[redis][scripts]") {
  using Strings = std::vector<std::string>;
  Strings args{"first"};
  redis::lua::Extend::Run{.id = "task", .token = std::string{"token"}, .begun = true}.append_to(args);
  CHECK(args == Strings{"first", "task", "token", "1"});
  args.clear();
  redis::lua::Settle::Complete{
      .id = "task", .token = "token", .facts = "", .head = "h", .tail = "t", .retention_seconds = -7}
      .append_to(args);
  CHECK(args == Strings{"c", "task", "token", "", "h", "t", "-7"});
}

TEST_CASE("a Redis server accepts each script", "[redis][scripts]") {
  RedisServer& server = shared_redis();
  for (const redis::Script* script : redis::scripts().all()) {
    CAPTURE(script->name);
    CHECK(server.command({"SCRIPT", "LOAD", script->source}).as_string() == script->sha1);
  }
}

/// What a program prints; nullopt if it fails.
std::optional<std::string> output_of(const std::string& command) {
  FILE* const pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  for (int c = 0; (c = std::fgetc(pipe)) != EOF;) output.push_back(static_cast<char>(c));
  return pclose(pipe) == 0 ? std::optional{output} : std::nullopt;
}

TEST_CASE("scripts use no globals but Redis's own", "[redis][scripts]") {
  if (!output_of("command -v luac5.1")) {
    WARN("luac5.1 is not installed: the globals of the scripts are not checked");
    return;
  }
  const std::set<std::string> known{"redis", "KEYS",     "ARGV",     "string", "table",  "math",
                                    "pairs", "tonumber", "tostring", "ipairs", "unpack", "type",
                                    "pcall", "error",    "next"};
  const TemporaryDirectory directory;
  const std::string path = (directory.path() / "script.lua").string();
  for (const redis::Script* script : redis::scripts().all()) {
    CAPTURE(script->name);
    std::ofstream{path} << script->source;
    const auto listing = output_of("luac5.1 -l -l -p " + path);
    REQUIRE(listing);
    CHECK(listing->find("SETGLOBAL") == std::string::npos);
    for (std::size_t at = 0; (at = listing->find("GETGLOBAL", at)) != std::string::npos; ++at) {
      const std::size_t name = listing->find("; ", at) + 2;
      const std::string global = listing->substr(name, listing->find_first_of("\n\t ", name) - name);
      CAPTURE(global);
      CHECK(known.contains(global));
    }
  }
}

/// A queue with a task in each state, and operations that use all of it.
struct WrongTypeFixture {
  WrongTypeFixture() {
    // So that the bytes of a hash are in a fixed order.
    t.redis.command({"CONFIG", "SET", "hash-max-ziplist-value", "10000"});
    for (const char* id : {"active", "failed", "archived", "completed"}) enqueue(t.broker, message(id));
    const std::vector<Run> runs = take(t.broker, "default", 4);
    run = runs.at(0);
    settle(t.broker, retried(runs.at(1), 3600500ms));
    settle(t.broker, archived(runs.at(2)));
    TaskMessage kept = *runs.at(3).message;
    kept.retention = 1h;
    Run completed_run = runs.at(3);
    completed_run.message = std::make_shared<TaskMessage>(kept);
    settle(t.broker, completed(completed_run, "result"));
    enqueue(t.broker, unique(message("pending", "default", "locked")));
    enqueue(t.broker, scheduled(message("scheduled"), 3600500ms));
    t.redis.command({"SET", "asynq:{default}:paused", "1"});
    t.redis.command({"DEL", "asynq:{default}:paused"});
    whole = dump();
  }

  /// All keys with their bytes.
  Dump dump() {
    Dump all;
    for (const std::string& key : t.keys()) {
      if (const redis::Reply reply = t.redis.command({"DUMP", key}); reply.is_string())
        all.emplace(key, reply.as_string());
    }
    return all;
  }

  void restore() {
    t.redis.command({"FLUSHALL"});
    for (const auto& [key, bytes] : whole) t.redis.command({"RESTORE", key, "0", bytes});
  }

  RedisFixture t;
  Run run;
  Dump whole;
};

/// The keys in which two dumps differ.
std::string changed(const Dump& before, const Dump& after) {
  std::string keys;
  for (const auto& [key, bytes] : before) {
    if (!after.contains(key) || after.at(key) != bytes) keys += key + ' ';
  }
  for (const auto& [key, bytes] : after) {
    if (!before.contains(key)) keys += key + ' ';
  }
  return keys;
}

TEST_CASE("an operation that fails on a key of the wrong type changes nothing",
          "[redis][scripts]") {
  using Operation = std::function<bool(Broker&, QueueView&)>;  // whether it failed
  WrongTypeFixture f;
  const auto fails = [](auto&& call) { return error_of(call).has_value(); };
  const auto settles = [&](SettleAction action, Duration delay = {}) -> Operation {
    return [&f, action, delay, fails](Broker& broker, QueueView&) {
      Settlement end{.run = f.run, .action = action, .delay = delay};
      if (action == SettleAction::complete) end.result = "r";
      return fails([&] { broker.exchange({.settlements = std::span{&end, 1}}); });
    };
  };
  const auto acts = [&](TaskAction action, const std::string& id) -> Operation {
    return [action, id, fails](Broker&, QueueView& view) {
      const std::string ids[] = {id};
      return fails([&] { act(view, "default", action, ids, std::nullopt); });
    };
  };
  const std::vector<std::pair<std::string, Operation>> operations = {
      {"enqueue", [](Broker& b, QueueView&) { return enqueue(b, pending(message("n"))).error.has_value(); }},
      {"schedule",
       [](Broker& b, QueueView&) { return enqueue(b, scheduled(message("n"), 1500ms)).error.has_value(); }},
      {"enqueue uniquely",
       [](Broker& b, QueueView&) {
         return enqueue(b, unique(message("n", "default", "locked"))).error.has_value();
       }},
      {"take", [&](Broker& b, QueueView&) {
         const QueueQuota quota[] = {{"default", 1}};
         return fails([&] { b.exchange({.quotas = quota}); });
       }},
      {"complete", settles(SettleAction::complete)},
      {"remove", settles(SettleAction::remove)},
      {"retry", settles(SettleAction::retry, 1500ms)},
      {"retry at once", settles(SettleAction::retry)},
      {"archive", settles(SettleAction::archive)},
      {"give back", settles(SettleAction::give_back)},
      {"snooze", settles(SettleAction::snooze, 1500ms)},
      {"extend", [&](Broker& b, QueueView&) {
         return fails([&] { extend(b, f.run, 20s); });
       }},
      {"info", [&](Broker&, QueueView& v) { return fails([&] { v.queue_info("default"); }); }},
      {"list", [&](Broker&, QueueView& v) {
         return fails([&] {
           for (const TaskState state : {TaskState::pending, TaskState::active, TaskState::scheduled,
                                         TaskState::aggregating})
             listed(v, "default", state);
         });
       }},
      {"find", [&](Broker&, QueueView& v) { return fails([&] { v.find("default", "active"); }); }},
      {"run scheduled", acts(TaskAction::run, "scheduled")},
      {"run archived", acts(TaskAction::run, "archived")},
      {"archive pending", acts(TaskAction::archive, "pending")},
      {"archive retry", acts(TaskAction::archive, "failed")},
      {"remove pending", acts(TaskAction::remove, "pending")},
      {"remove completed", acts(TaskAction::remove, "completed")},
      {"run all", [&](Broker&, QueueView& v) {
         return fails([&] { v.act_all("default", TaskAction::run, TaskState::archived, 10); });
       }},
      {"archive all", [&](Broker&, QueueView& v) {
         return fails([&] { v.act_all("default", TaskAction::archive, TaskState::pending, 10); });
       }},
      {"update", [&](Broker&, QueueView& v) {
         return fails([&] { v.update_payload("default", "pending", "x"); });
       }},
      {"pause", [&](Broker&, QueueView& v) { return fails([&] { v.pause("default"); }); }},
      {"cancel", [&](Broker&, QueueView& v) {
         return fails([&] { v.cancel("default", "active", CancelMode::remove); });
       }},
      {"delete", [&](Broker&, QueueView& v) { return fails([&] { v.delete_queue("default", true); }); }},
  };
  const std::vector<std::string> names = {
      "pending",   "active",     "lease",        "scheduled",       "retry",     "archived",
      "completed", "tmx:due",    "groups",       "aggregation_sets", "paused",   "processed",
      "t:active",  "t:pending",  "t:scheduled",  "t:failed",        "t:archived", "t:n",
      "t:completed", "unique:email:welcome:" };
  for (const std::string& name : names) {
    const std::string key = "asynq:{default}:" + name;
    for (const auto& [what, operation] : operations) {
      CAPTURE(key, what);
      f.restore();
      const bool is_string =
          !f.whole.contains(key) || f.t.redis.command({"TYPE", key}).as_string() == "string";
      f.t.redis.command({"DEL", key});
      if (is_string) {
        f.t.redis.command({"RPUSH", key, "x"});
      } else {
        f.t.redis.command({"SET", key, "x"});
      }
      const Dump before = f.dump();
      RedisBroker broker{options_for(f.t.redis, f.t.manual_clock)};
      if (operation(broker, broker)) CHECK(changed(before, f.dump()) == "");
    }
  }
}

TEST_CASE("removing many tasks from a long list takes many short calls", "[redis][scripts]") {
  RedisFixture t;
  std::vector<std::string> ids;
  for (int i = 0; i < 20; ++i) {
    ids.push_back("t" + std::to_string(i));
    enqueue(t.broker, message(ids.back()));
  }
  t.redis.command({"EVAL",
                   "for n = 1, 100000 do redis.call('LPUSH', 'asynq:{default}:pending', n) end", "0"});
  act(t.view, "default", TaskAction::remove, std::vector<std::string>{"none"}, std::nullopt);
  t.redis.command({"CONFIG", "RESETSTAT"});
  const auto refusals = act(t.view, "default", TaskAction::remove, ids, std::nullopt);
  CHECK(refusals == std::vector<std::optional<Errc>>(20));
  CHECK(t.redis.info("commandstats", "cmdstat_evalsha").starts_with("calls=2,"));
  CHECK(t.redis.command({"LLEN", "asynq:{default}:pending"}).as_integer() == 100000);
}

TEST_CASE("many groups are counted and listed in bounded calls", "[redis][scripts]") {
  RedisFixture t;
  enqueue(t.broker, message("t"));
  t.redis.command({"EVAL", R"lua(
      for n = 1000, 2999 do
        redis.call('SADD', 'asynq:{default}:groups', n)
        redis.call('ZADD', 'asynq:{default}:g:' .. n, 1, 'a' .. n, 2, 'b' .. n)
        for _, id in ipairs({'a' .. n, 'b' .. n}) do
          redis.call('HSET', 'asynq:{default}:t:' .. id, 'state', 'aggregating', 'msg', '', 'group', n)
        end
      end)lua",
                   "0"});
  CHECK(t.view.queue_info("default").groups == 2000);
  CHECK(t.view.queue_info("default").aggregating == 2000);  // of 1000 groups
  CHECK(t.view.groups("default").size() == 1000);
  CHECK(t.view.groups("default").at(0).size == 2);
  const TaskPage page = t.view.list(
      {.queue = "default", .state = TaskState::aggregating, .group = "2251", .limit = 1});
  CHECK(ids(page.tasks) == std::vector<std::string>{"a2251"});
  CHECK(page.tasks[0].group == "2251");
  CHECK(ids(t.view
                .list({.queue = "default",
                       .state = TaskState::aggregating,
                       .group = "2251",
                       .cursor = page.next})
                .tasks) == std::vector<std::string>{"b2251"});
}

TEST_CASE("a large aggregation returns to its group in parts", "[redis][scripts]") {
  RedisFixture t;
  enqueue(t.broker, message("t"));
  t.redis.command({"EVAL", R"lua(
      for n = 1, 2500 do redis.call('ZADD', 'asynq:{default}:g:x:set', n, n) end
      redis.call('ZADD', 'asynq:{default}:g:x', 1, 7, 9, 8)
      redis.call('ZADD', 'asynq:{default}:aggregation_sets', 1, 'asynq:{default}:g:x:set'))lua",
                   "0"});
  const auto size = [&](const char* key) { return t.redis.command({"ZCARD", key}).as_integer(); };
  CHECK(upkeep(t.broker).more);
  CHECK(size("asynq:{default}:g:x:set") == 1500);
  CHECK(size("asynq:{default}:g:x") == 1000);
  CHECK(upkeep(t.broker).more);
  CHECK_FALSE(upkeep(t.broker).more);
  CHECK(size("asynq:{default}:g:x:set") == 0);
  CHECK(size("asynq:{default}:g:x") == 2500);
  CHECK(size("asynq:{default}:aggregation_sets") == 0);
  CHECK(t.redis.command({"ZSCORE", "asynq:{default}:g:x", "7"}).as_string() == "1");
  CHECK(t.redis.command({"ZSCORE", "asynq:{default}:g:x", "8"}).as_string() == "8");
}

}  // namespace
}  // namespace taskmux::test
