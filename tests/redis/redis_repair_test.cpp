#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "golden_vectors.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/route/key_slot.hpp"
#include "redis/route/transport.hpp"
#include "redis/session/session.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/cutting_proxy.hpp"
#include "support/eventually.hpp"
#include "support/test.hpp"

// What a broker does about data that should not be there, and with a Redis that is full.
namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Names = std::vector<std::string>;

std::string key(const std::string& name) { return "asynq:{default}:" + name; }

std::int64_t seconds(Time time) { return time.time_since_epoch() / 1s; }

/// Puts a task there as a peer would, with whatever message.
void put_raw(RedisFixture& t, const std::string& id, const std::string& message) {
  t.redis.command({"SADD", "asynq:queues", "default"});
  t.redis.command({"HSET", key("t:" + id), "msg", message, "state", "pending"});
  t.redis.command({"LPUSH", key("pending"), id});
}

/// A broker like the fixture's that keeps its log lines.
struct LoggedBroker {
  explicit LoggedBroker(RedisFixture& t) : broker{options(t.redis, t.manual_clock)} {
    broker.ping();
    lines.clear();  // of the server's settings
  }

  RedisOptions options(const RedisServer& redis, std::shared_ptr<Clock> clock) {
    RedisOptions options = options_for(redis, std::move(clock));
    options.logger = Logger{LogLevel::info,
                            [this](LogLevel, std::string_view line) { lines.emplace_back(line); }};
    return options;
  }
  /// Returns how many lines contain `text`.
  std::ptrdiff_t told(std::string_view text) const {
    return std::count_if(lines.begin(), lines.end(), [text](const std::string& line) {
      return line.find(text) != std::string::npos;
    });
  }

  Names lines{};
  RedisBroker broker;
};

std::vector<std::string> malformed_messages() {
  TaskMessage elsewhere = message("bad", "elsewhere");
  return {"garbage\xff", golden::from_hex("3a01ff"), "", redis::encode_message(message("other")),
          redis::encode_message(elsewhere)};
}

TEST_CASE("a malformed message is archived, and the rest of the batch is processed",
          "[redis][repair]") {
  for (const std::string& bytes : malformed_messages()) {
    CAPTURE(bytes);
    RedisFixture t;
    enqueue(t.broker, message("t1"));
    put_raw(t, "bad", bytes);
    enqueue(t.broker, message("t2"));
    CHECK(ids(take(t.broker)) == Names{"t1", "t2"});
    CHECK(ids(t.view, TaskState::active) == Names{"t1", "t2"});
    const TaskInfo info = t.view.find("default", "bad").value();
    CHECK(info.state == TaskState::archived);
    CHECK(info.task.type == "taskmux:malformed");
    CHECK_FALSE(info.last_error.empty());
    CHECK(info.last_failed_at == std::chrono::floor<std::chrono::seconds>(t.clock.now()));
    CHECK(t.field("bad", "tmx_raw") == bytes);
    CHECK(t.field("bad", "tmx_run").empty());
    // Go's tools read it.
    const auto decoded = redis::decode_message(t.field("bad", "msg"));
    REQUIRE(decoded);
    CHECK(decoded->message.id == "bad");
    CHECK(decoded->message.queue == "default");
  }
}

TEST_CASE("a page with malformed messages is listed in full", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  int number = 0;
  for (const std::string& bytes : malformed_messages())
    put_raw(t, "bad" + std::to_string(number++), bytes);
  t.redis.command({"LPUSH", key("pending"), "nobody"});
  const std::vector<TaskInfo> infos = listed(t.view, "default", TaskState::pending);
  REQUIRE(infos.size() == 2 + malformed_messages().size());
  CHECK(infos[0].task.type == "email:welcome");
  for (std::size_t i = 1; i + 1 < infos.size(); ++i) {
    CHECK(infos[i].task.type == "taskmux:malformed");
    CHECK_FALSE(infos[i].last_error.empty());
  }
  CHECK(infos.back().id == "nobody");
  CHECK_FALSE(infos.back().last_error.empty());
  CHECK(error_of([&] { t.view.update_payload("default", "bad0", "x"); }) == Errc::malformed);
}

TEST_CASE("a lost run whose message is malformed is archived", "[redis][repair]") {
  RedisFixture t;
  started(t.broker, message("t1"));
  t.redis.command({"HSET", key("t:t1"), "msg", "garbage\xff"});
  t.advance(20s);
  const UpkeepReply reply = upkeep(t.broker);
  CHECK(reply.lost.empty());
  CHECK(reply.repaired == 1);
  CHECK(state_of(t.view, "t1") == TaskState::archived);
}

TEST_CASE("an id without a task is dropped, and the next one taken", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"RPUSH", key("pending"), "nobody"});
  t.redis.command({"HSET", key("t:ghost"), "state", "pending"});
  t.redis.command({"RPUSH", key("pending"), "ghost"});
  t.redis.command({"SET", key("t:string"), "not a hash"});
  t.redis.command({"RPUSH", key("pending"), "string"});
  CHECK(take_one(t.broker).message->id == "t1");
  CHECK(t.view.queue_info("default").active == 1);
  CHECK(t.redis.command({"EXISTS", key("pending")}).as_integer() == 0);
  CHECK(t.redis.command({"EXISTS", key("t:ghost")}).as_integer() == 0);
  CHECK(t.redis.command({"EXISTS", key("t:string")}).as_integer() == 1);
}

TEST_CASE("ids without tasks are logged in one line", "[redis][repair]") {
  RedisFixture t;
  LoggedBroker logged{t};
  t.redis.command({"SADD", "asynq:queues", "default"});
  t.redis.command({"RPUSH", key("pending"), "e", "d", "c", "b", "a"});
  CHECK(take(logged.broker).empty());
  CHECK(logged.lines ==
        Names{"queue \"default\": dropped 5 ids that have no task: \"a\", \"b\", \"c\", ..."});
}

TEST_CASE("an id without a task does not become pending", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1s));
  t.redis.command({"ZADD", key("scheduled"), "1", "nobody"});
  t.redis.command({"HSET", key("t:ghost"), "state", "retry"});
  t.redis.command({"ZADD", key("retry"), "1", "ghost"});
  t.advance(1s);
  const UpkeepReply reply = upkeep(t.broker);
  CHECK(reply.forwarded == 1);
  CHECK(reply.repaired == 2);
  CHECK(ids(take(t.broker)) == Names{"t1"});
  CHECK(t.redis.command({"EXISTS", key("t:ghost")}).as_integer() == 0);
}

TEST_CASE("fractional and invalid scores are due when they have passed", "[redis][repair]") {
  RedisFixture t;
  const Time now = std::chrono::floor<std::chrono::seconds>(t.clock.now());
  const std::string half = std::to_string(seconds(now)) + ".5";
  for (const char* id : {"half", "never", "long ago"}) {
    enqueue(t.broker, scheduled(message(id), 1h));
    t.redis.command({"ZREM", key("tmx:due"), id});
  }
  t.redis.command({"ZADD", key("scheduled"), half, "half"});
  t.redis.command({"ZADD", key("scheduled"), "+inf", "never"});
  CHECK(t.view.find("default", "half")->next_process_at == now + 1s);
  CHECK(t.view.find("default", "never")->next_process_at > now + 24h);

  // No task is reported as due that could not be taken.
  const auto watch = t.broker.watch({"default"}, [](const Hint&) {});
  t.redis.command({"ZREM", key("scheduled"), "long ago"});
  CHECK_FALSE(watch->arm().ready);
  CHECK(watch->arm().next_due == now + 1s);
  ExchangeReply reply = t.broker.exchange({.quotas = std::array{QueueQuota{"default", 1}}});
  CHECK(reply.runs.empty());
  CHECK(reply.next_due == now + 1s);

  t.redis.command({"ZADD", key("scheduled"), "-inf", "long ago"});
  CHECK(ids(take(t.broker)) == Names{"long ago"});
  t.advance(1s);
  CHECK(ids(take(t.broker)) == Names{"half"});
  t.advance(24h);
  CHECK(take(t.broker).empty());
  CHECK(state_of(t.view, "never") == TaskState::scheduled);
}

TEST_CASE("a server that refuses writes hands out no runs", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  enqueue(t.broker, message("t2", "other"));
  take(t.broker, "other");
  const std::array quotas{QueueQuota{"default", 1}, QueueQuota{"other", 1}};
  t.redis.command({"CONFIG", "SET", "min-replicas-to-write", "1"});
  CHECK(t.broker.exchange({.quotas = quotas}).runs.empty());

  // That queue is not asked again at once.
  const auto watch = t.broker.watch({"default", "other"}, [](const Hint&) {});
  CHECK_FALSE(watch->arm().ready);

  t.redis.command({"CONFIG", "SET", "min-replicas-to-write", "0"});
  t.advance(1s);
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Names{"t1"});
}

TEST_CASE("a broken queue without a quota costs the others no runs", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  enqueue(t.broker, message("t2", "broken"));
  t.redis.command({"DEL", "asynq:{broken}:pending"});
  t.redis.command({"SET", "asynq:{broken}:pending", "a string"});
  const std::array quotas{QueueQuota{"default", 1}, QueueQuota{"broken", 0}};
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Names{"t1"});
}

TEST_CASE("a due time without a task does not look ready forever", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1500ms));
  t.redis.command({"ZREM", key("scheduled"), "t1"});  // As Go forwards it.
  t.redis.command({"LPUSH", key("pending"), "t1"});
  t.advance(2s);
  CHECK(ids(take(t.broker)) == Names{"t1"});
  const auto watch = t.broker.watch({"default"}, [](const Hint&) {});
  take(t.broker);
  CHECK_FALSE(watch->arm().ready);
}

TEST_CASE("a task can't leave a group if the list of groups is broken", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"DEL", key("pending")});
  t.redis.command({"HSET", key("t:t1"), "state", "aggregating", "group", "g"});
  t.redis.command({"ZADD", key("g:g"), "1", "t1"});
  t.redis.command({"SET", key("groups"), "not a set"});
  CHECK(error_of(
      [&] { act(t.view, "default", TaskAction::remove, std::vector<std::string>{"t1"}, {}); }));
  CHECK(t.redis.command({"ZCARD", key("g:g")}).as_integer() == 1);
}

TEST_CASE("a call stays short however many ids have no task", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("behind"));
  for (int hundred = 0; hundred < 30; ++hundred) {
    std::vector<std::string> push{"RPUSH", key("pending")};
    for (int i = 0; i < 100; ++i) push.push_back("nobody " + std::to_string(100 * hundred + i));
    t.redis.command(push);
  }
  const ExchangeReply first = t.broker.exchange({.quotas = std::array{QueueQuota{"default", 1}}});
  CHECK(first.runs.empty());
  CHECK(first.more);
  const auto left = t.redis.command({"LLEN", key("pending")}).as_integer();
  CHECK(left <= 2001);
  CHECK(left >= 1500);
  Names taken;
  for (int call = 0; call < 4 && taken.empty(); ++call) taken = ids(take(t.broker));
  CHECK(taken == Names{"behind"});
}

TEST_CASE("an id that is in pending twice is taken once per call", "[redis][repair]") {
  RedisFixture t;
  for (int i = 0; i < 500; ++i) enqueue(t.broker, message("t" + std::to_string(i)));
  t.redis.command({"LPUSH", key("pending"), "t0"});
  const std::vector<Run> runs = take(t.broker, "default", 600);
  CHECK(runs.size() == 500);
  CHECK(settle(t.broker, completed(runs.front())) == SettleStatus::applied);
}

TEST_CASE("a hash without message is removed when all of its state are acted on",
          "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1h));
  t.redis.command({"HSET", key("t:ghost"), "state", "scheduled"});
  t.redis.command({"ZADD", key("scheduled"), "99999999999", "ghost"});
  CHECK(t.view.act_all("default", TaskAction::archive, TaskState::scheduled, 10) == 1);
  CHECK(t.redis.command({"EXISTS", key("t:ghost")}).as_integer() == 0);
  CHECK(t.view.queue_info("default").scheduled == 0);
}

TEST_CASE("an expired aggregation is not lost because of keys of the wrong type",
          "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("other"));
  const std::string set = key("g:g:set1");
  t.redis.command({"ZADD", set, "1", "t1"});
  t.redis.command({"ZADD", key("aggregation_sets"), "1", set});
  t.redis.command({"SET", key("g:g"), "not a sorted set"});
  upkeep(t.broker);
  CHECK(t.redis.command({"ZCARD", key("aggregation_sets")}).as_integer() == 1);
  t.redis.command({"DEL", key("g:g")});
  CHECK(upkeep(t.broker).repaired == 1);
  CHECK(t.redis.command({"ZCARD", key("g:g")}).as_integer() == 1);
}

TEST_CASE("a queue with a key of the wrong type loses nothing and blocks no other",
          "[redis][repair]") {
  for (const char* broken : {"pending", "active", "lease", "scheduled", "retry"}) {
    CAPTURE(broken);
    RedisFixture t;
    enqueue(t.broker, message("t1"));
    enqueue(t.broker, message("t2", "other"));
    t.redis.command({"RENAME", key("pending"), "kept"});
    if (std::string{broken} != "pending") t.redis.command({"RENAME", "kept", key("pending")});
    t.redis.command({"SET", key(broken), "a string"});

    const QueueQuota quotas[] = {{"default", 1}, {"other", 1}};
    CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Names{"t2"});
    CHECK(error_of([&] { take(t.broker); }) == Errc::protocol);
    t.redis.command({"DEL", key(broken)});
    if (std::string{broken} == "pending") t.redis.command({"RENAME", "kept", key("pending")});
    CHECK(ids(take(t.broker)) == Names{"t1"});
  }
}

TEST_CASE("a queue with a broken key is suspended for a second, and others get its share",
          "[redis][repair]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 2));
  for (int i = 1; i <= 4; ++i) enqueue(t.broker, message("o" + std::to_string(i), "other"));
  enqueue(t.broker, message("l1", "last"));
  const QueueQuota quotas[] = {{"default", 2}, {"other", 1}, {"last", 1}};
  t.redis.command({"SET", key("active"), "a string"});
  CHECK(ids(t.broker.exchange({.quotas = std::span{quotas}.first(2)}).runs) ==
        Names{"o1", "o2", "o3"});
  t.redis.command({"DEL", key("active")});
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Names{"o4", "l1"});
  t.advance(1s);
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Names{"t1", "t2"});
}

TEST_CASE("a single queue is asked even if it is suspended", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"SET", key("active"), "a string"});
  CHECK(error_of([&] { take(t.broker); }) == Errc::protocol);
  CHECK(error_of([&] { take(t.broker); }) == Errc::protocol);
  t.redis.command({"DEL", key("active")});
  CHECK(ids(take(t.broker)) == Names{"t1"});
}

TEST_CASE("a broken key is logged once a minute, and so is its repair", "[redis][repair]") {
  RedisFixture t;
  LoggedBroker logged{t};
  enqueue(t.broker, message("t1"));
  t.redis.command({"SET", key("active"), "a string"});
  const QueueQuota quotas[] = {{"default", 1}, {"other", 1}};
  const Names queues{"default", "other"};
  for (int second = 0; second < 60; ++second) {
    logged.broker.exchange({.quotas = quotas});
    logged.broker.upkeep({.queues = queues});
    t.advance(1s);
  }
  CHECK(logged.told("take from queue \"default\": WRONGTYPE") == 1);
  CHECK(logged.told("upkeep of queue \"default\": WRONGTYPE") == 1);
  CHECK(logged.lines.size() == 2);
  logged.broker.exchange({.quotas = quotas});
  CHECK(logged.lines.size() == 3);
  t.redis.command({"DEL", key("active")});
  t.advance(1s);
  for (int i = 0; i < 2; ++i) {
    logged.broker.exchange({.quotas = quotas});
    logged.broker.upkeep({.queues = queues});
  }
  CHECK(logged.told("queue \"default\": taking tasks works again") == 1);
  CHECK(logged.told("queue \"default\": upkeep works again") == 1);
  CHECK(logged.lines.size() == 5);
}

TEST_CASE("a failure to settle or extend is logged once a minute", "[redis][repair]") {
  RedisFixture t;
  LoggedBroker logged{t};
  const std::vector<Run> runs{started(t.broker, message("t1")),
                              started(t.broker, message("t2", "other"))};
  t.redis.command({"SET", key("lease"), "a string"});
  for (int i = 0; i < 5; ++i) {
    extend_all(logged.broker, runs, 20s);
    CHECK(error_of([&] { settle(logged.broker, completed(runs[0])); }) == Errc::protocol);
    t.advance(1s);
  }
  CHECK(logged.told("extend leases in queue \"default\"") == 1);
  CHECK(logged.told("settle in queue \"default\"") == 1);
  CHECK(logged.lines.size() == 2);
}

TEST_CASE("a slot that is being migrated is not the fault of its queue",
          "[redis][cluster][repair]") {
  RedisCluster cluster{2};
  RedisOptions options = parse_redis_url(cluster.url());
  Names lines;
  options.logger =
      Logger{LogLevel::error, [&](LogLevel, std::string_view line) { lines.emplace_back(line); }};
  RedisBroker broker{options};
  const auto slot_of = [](const std::string& queue) { return redis::slot_of("{" + queue + "}"); };
  const std::string moving = "a";
  std::string staying = "b";
  const std::size_t from = cluster.owner_of(slot_of(moving));
  while (cluster.owner_of(slot_of(staying)) == from) ++staying[0];
  enqueue(broker, message("t1", moving));
  enqueue(broker, message("t2", staying));
  const std::string slot = std::to_string(slot_of(moving));
  cluster.node(1 - from).command({"CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(from)});
  cluster.node(from).command({"CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(1 - from)});

  const QueueQuota quotas[] = {{moving, 1}, {staying, 1}};
  CHECK(ids(broker.exchange({.quotas = quotas}).runs) == Names{"t2"});
  const Names queues{moving, staying};
  broker.upkeep({.queues = queues});
  CHECK(error_of([&] { take(broker, moving); }) == Errc::unavailable);
  CHECK(lines == Names{});

  cluster.node(from).command({"CLUSTER", "SETSLOT", slot, "STABLE"});
  // After the suspension.
  CHECK(eventually([&] { return ids(broker.exchange({.quotas = quotas}).runs) == Names{"t1"}; }));
}

TEST_CASE("enqueue refuses the items of a queue whose keys are of the wrong type",
          "[redis][repair]") {
  RedisFixture t;
  t.redis.command({"SET", key("pending"), "a string"});
  const auto replies = t.broker.enqueue({pending(message("t1")), pending(message("t2", "other"))});
  CHECK(replies.at(0).error == Errc::protocol);
  CHECK(replies.at(0).detail.find("WRONGTYPE") != std::string::npos);
  CHECK_FALSE(replies.at(1).error);
  CHECK(t.redis.command({"EXISTS", key("t:t1")}).as_integer() == 0);
}

TEST_CASE("a settlement that a script can't apply is unknown, and changes nothing",
          "[redis][repair]") {
  RedisFixture t;
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  const Run run = started(t.broker, kept);
  const Run other = started(t.broker, message("t2", "other"));
  t.redis.command({"SET", key("completed"), "a string"});
  CHECK(settle(t.broker, std::vector{completed(run), completed(other)}) ==
        std::vector{SettleStatus::unknown, SettleStatus::applied});
  CHECK(error_of([&] { settle(t.broker, completed(run)); }) == Errc::protocol);
  t.redis.command({"DEL", key("completed")});
  CHECK(settle(t.broker, completed(run)) == SettleStatus::applied);
}

TEST_CASE("an extension that a script can't execute is unknown, and the others succeed",
          "[redis][repair]") {
  RedisFixture t;
  const Run run = started(t.broker, message("t1"));
  const Run other = started(t.broker, message("t2", "other"));
  const Run gone = started(t.broker, message("t3", "other"));
  settle(t.broker, completed(gone));
  t.redis.command({"RENAME", key("lease"), "kept"});
  t.redis.command({"SET", key("lease"), "a string"});
  const auto replies = extend_all(t.broker, std::vector{run, other, gone}, 20s);
  CHECK(replies.at(0).status == LeaseStatus::unknown);
  CHECK(replies.at(1).status == LeaseStatus::ok);
  CHECK(replies.at(2).status == LeaseStatus::lost);
  CHECK(error_of([&] { extend(t.broker, run); }) == Errc::protocol);
  t.redis.command({"RENAME", "kept", key("lease")});
  CHECK(extend(t.broker, run).status == LeaseStatus::ok);
}

TEST_CASE("extensions are known for the queues whose node answers", "[redis][cluster][repair]") {
  RedisCluster cluster{3};
  RedisOptions options = parse_redis_url(cluster.url());
  options.command_timeout = 500ms;
  RedisBroker broker{options};
  std::vector<Run> runs;
  for (const char* queue : {"a", "b", "c", "d", "e", "f"}) {
    runs.push_back(started(broker, message("t1", queue)));
  }
  const auto owner_of = [&](const Run& run) {
    return cluster.owner_of(redis::slot_of("{" + run.message->queue + "}"));
  };
  const std::size_t away = owner_of(runs[0]);
  cluster.node(away).kill();
  const auto replies = extend_all(broker, runs, 20s);
  REQUIRE(replies.size() == runs.size());
  for (std::size_t i = 0; i < runs.size(); ++i) {
    CHECK(replies[i].status ==
          (owner_of(runs[i]) == away ? LeaseStatus::unknown : LeaseStatus::ok));
  }
}

TEST_CASE("a counter of the wrong type is reported, and blocks nothing", "[redis][repair]") {
  RedisServer& redis = shared_redis();
  RedisFixture t{redis};
  std::string logged;
  RedisOptions options = options_for(redis, t.manual_clock);
  options.logger =
      Logger{LogLevel::error, [&](LogLevel, std::string_view text) { logged += text; }};
  RedisBroker broker{options};
  t.redis.command({"LPUSH", key("processed"), "x"});
  CHECK(settle(broker, completed(started(broker, message("t1")))) == SettleStatus::applied);
  CHECK(logged.find("WRONGTYPE") != std::string::npos);
  CHECK_FALSE(state_of(t.view, "t1"));
}

TEST_CASE("totals restart at the end of their range", "[redis][repair]") {
  RedisFixture t;
  t.redis.command({"SET", key("processed"), "9223372036854775807"});
  t.redis.command({"SET", key("failed"), "12"});
  settle(t.broker, archived(started(t.broker, message("t1"))));
  CHECK(t.view.queue_info("default").processed_total == 1);
  CHECK(t.view.queue_info("default").failed_total == 1);
}

TEST_CASE("upkeep does its other work if one part fails", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1s));
  t.redis.command({"SET", key("completed"), "a string"});
  t.redis.command({"SET", key("aggregation_sets"), "a string"});
  t.advance(1s);
  CHECK(upkeep(t.broker).forwarded == 1);
}

TEST_CASE("a peer's task may be prefetched if its own max retry allows it", "[redis][repair]") {
  RedisFixture t;
  TaskMessage retried = message("t1");
  retried.max_retry = 1;
  TaskMessage once = message("once");
  once.max_retry = 0;
  once.task.payload = "before " + redis::encode_message(retried) + " after";
  const std::string fields = golden::from_hex("0a0174") + "\x1a\x04once\x22\x07" + "default";
  const auto never = GENERATE_COPY(values<std::string>({
      redis::encode_message(once),
      fields,                                               // no field after the queue
      fields + golden::from_hex("2880808080f8ffffffff01"),  // a negative number
      fields + golden::from_hex("28012800"),                // the last one counts
      fields + golden::from_hex("40012801"),                // not in ascending order
  }));
  put_raw(t, "t1", redis::encode_message(retried));
  put_raw(t, "once", never);
  const QueueQuota quotas[] = {{"default", 2}};
  CHECK(ids(t.broker.exchange({.quotas = quotas, .free_workers = 0}).runs) == Names{"t1"});
  CHECK(t.broker.exchange({.quotas = quotas, .free_workers = 0}).runs.empty());
  CHECK(ids(t.broker.exchange({.quotas = quotas, .free_workers = 1}).runs) == Names{"once"});
}

TEST_CASE("a message truncated within its max retry waits for a worker, and blocks no other task",
          "[redis][repair]") {
  const auto cut = GENERATE(values<const char*>({"0a047479706528", "0a04747970652880"}));
  RedisFixture t;
  put_raw(t, "t1", redis::encode_message(message("t1")));
  put_raw(t, "bad", golden::from_hex(cut));
  put_raw(t, "t2", redis::encode_message(message("t2")));
  const QueueQuota quotas[] = {{"default", 3}};
  CHECK(ids(t.broker.exchange({.quotas = quotas, .free_workers = 1}).runs) == Names{"t1"});
  CHECK(ids(t.broker.exchange({.quotas = quotas, .free_workers = 1}).runs) == Names{"t2"});
  CHECK(t.view.find("default", "bad")->state == TaskState::archived);
  CHECK(t.field("bad", "tmx_facts").empty());
}

TEST_CASE("a fence that a Go server left does not match the new lease", "[redis][repair]") {
  RedisFixture t;
  const Run run = started(t.broker, message("t1"));
  t.advance(3s);
  // As Go requeues a task and takes it: it does not know the fence.
  t.redis.command({"LREM", key("active"), "0", "t1"});
  t.redis.command({"LPUSH", key("active"), "t1"});
  t.redis.command({"ZADD", key("lease"), std::to_string(seconds(t.clock.now()) + 30), "t1"});
  CHECK_FALSE(t.view.find("default", "t1")->started_at);
  CHECK(settle(t.broker, completed(run)) == SettleStatus::stale);
  t.advance(35s);
  CHECK(upkeep(t.broker).lost.empty());  // 30 s after the lease has ended, as Go does
  t.advance(25s);
  REQUIRE(ids(upkeep(t.broker).lost) == Names{"t1"});
  CHECK(t.view.find("default", "t1")->started_at == t.clock.now());
}

TEST_CASE("a settlement that fails leaves the others of its queue unchanged", "[redis][repair]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 2));
  const std::vector<Run> runs = take(t.broker);
  t.redis.command({"SET", key("retry"), "a string"});
  CHECK_THROWS_AS(settle(t.broker, {completed(runs[0]), retried(runs[1], 1h)}), Error);
  CHECK(t.redis.command({"LLEN", key("active")}).as_integer() == 2);
  CHECK(t.redis.command({"ZCARD", key("lease")}).as_integer() == 2);
  t.redis.command({"DEL", key("retry")});
  CHECK(settle(t.broker, {completed(runs[0]), retried(runs[1], 1h)}) ==
        std::vector{SettleStatus::applied, SettleStatus::applied});
}

TEST_CASE("a Go server's lost run is taken over when Go would take it", "[redis][repair]") {
  RedisFixture t;
  put_raw(t, "t1", redis::encode_message(message("t1")));
  t.redis.command({"RPOPLPUSH", key("pending"), key("active")});
  t.redis.command({"HSET", key("t:t1"), "state", "active"});
  t.redis.command({"ZADD", key("lease"), std::to_string(seconds(t.clock.now())), "t1"});
  t.advance(29s);
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(1s);
  const UpkeepReply reply = upkeep(t.broker);
  REQUIRE(ids(reply.lost) == Names{"t1"});
  CHECK(settle(t.broker, crashed(reply.lost[0])) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 1);
  CHECK(ids(take(t.broker)) == Names{"t1"});
}

TEST_CASE("an active task without a lease is taken over, and an id without a task removed",
          "[redis][repair]") {
  RedisFixture t;
  started(t.broker, message("t1"));
  t.redis.command({"ZREM", key("lease"), "t1"});
  t.redis.command({"LPUSH", key("active"), "nobody"});
  started(t.broker, message("t2"));
  t.redis.command({"DEL", key("t:t2")});
  enqueue(t.broker, message("t3"));
  t.redis.command({"LPUSH", key("active"), "t3"});  // it is pending
  t.advance(20s);

  const UpkeepReply reply = upkeep(t.broker);
  CHECK(ids(reply.lost) == Names{"t1"});
  CHECK(reply.repaired == 4);
  CHECK(ids(t.view, TaskState::active) == Names{"t1"});
  CHECK(ids(take(t.broker)) == Names{"t3"});
}

TEST_CASE("runs count as lost only after a whole lease of contact", "[redis][repair]") {
  RedisFixture t;
  started(t.broker, message("t1"));
  t.advance(1h);
  RedisOptions options = options_for(t.redis, t.manual_clock);
  options.command_timeout = 200ms;
  RedisBroker late{options};
  const auto lost = [&] { return upkeep(late).lost.size(); };
  CHECK(lost() == 0);
  t.advance(9s);
  CHECK(lost() == 0);

  const auto interrupt = [&](Duration length) {
    t.redis.pause();
    CHECK(error_of([&] { late.ping(); }) == Errc::unavailable);
    t.redis.resume();
    t.advance(length);
    REQUIRE(eventually([&] { return !error_of([&] { late.ping(); }); }));
  };
  SECTION("a long interruption begins it anew") {
    interrupt(4s);
    t.advance(9s);
    CHECK(lost() == 0);
    t.advance(1s);
    CHECK(lost() == 1);
  }
  SECTION("short ones do not, however many") {
    for (int i = 0; i < 3; ++i) interrupt(300ms);
    t.advance(100ms);
    CHECK(lost() == 1);
  }
}

TEST_CASE("a lost worker is detected although the connection is cut repeatedly",
          "[redis][repair]") {
  RedisServer server{{.tcp = true}};
  RedisFixture t{server};
  const Run held = started(t.broker, message("held"));
  started(t.broker, message("lost", "other"));
  std::atomic<int> replies{0};
  CuttingProxy proxy{server.port(), [&](std::string_view) { return ++replies % 7 == 0; }};
  RedisOptions options = parse_redis_url("redis://127.0.0.1:" + std::to_string(proxy.port()));
  options.clock = t.manual_clock;
  options.reconnect_min = 1ms;
  options.reconnect_max = 5ms;
  RedisBroker finder{options};
  const std::vector<std::string> queues{"default", "other"};
  Names lost;
  int failures = 0;
  for (int i = 0; i < 90 && lost.empty(); ++i) {  // Each 200 ms for 18 s.
    if (i % 10 == 0) CHECK(extend(t.broker, held).status == LeaseStatus::ok);
    if (const auto error = error_of([&] {
          const UpkeepReply reply = finder.upkeep({.queues = queues});
          for (const std::string& id : ids(reply.lost)) lost.push_back(id);
        })) {
      ++failures;
    }
    t.advance(200ms);
  }
  CHECK(failures > 5);
  CHECK(lost == Names{"lost"});
}

TEST_CASE("a failover or a restart resets contact", "[redis][repair]") {
  RedisServer server{{.arguments = {"--appendonly", "yes", "--appendfsync", "always"}}};
  RedisFixture t{server};
  started(t.broker, message("t1"));
  t.advance(20s);
  server.kill();
  server.start();
  REQUIRE(eventually([&] { return !error_of([&] { t.broker.ping(); }); }));
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(10s);
  CHECK(upkeep(t.broker).lost.size() == 1);
}

TEST_CASE("due times of tasks that others have moved are removed", "[redis][repair]") {
  RedisFixture t;
  for (int i = 0; i < 250; ++i) {
    enqueue(t.broker, scheduled(message("t" + std::to_string(i)), 1h + 1ms));
  }
  for (int i = 0; i < 250; i += 2) {
    t.redis.command({"ZREM", key("scheduled"), "t" + std::to_string(i)});
  }
  for (int i = 0; i < 4; ++i) upkeep(t.broker);
  CHECK(t.redis.command({"ZCARD", key("tmx:due")}).as_integer() == 125);
}

TEST_CASE("the tasks of an expired aggregation return to their group, which is listed",
          "[redis][repair]") {
  RedisFixture t;
  const std::string set = key("g:tenant:9:set-1");
  put_raw(t, "t1", redis::encode_message(message("t1")));
  t.redis.command({"DEL", key("pending")});
  t.redis.command({"HSET", key("t:t1"), "state", "aggregating", "group", "tenant:9"});
  t.redis.command({"ZADD", set, "1767225600", "t1"});
  t.redis.command({"ZADD", key("aggregation_sets"), "1767225700", set});
  const std::vector<std::string> ids_of_t1{"t1"};
  CHECK(act(t.view, "default", TaskAction::remove, ids_of_t1, std::nullopt) ==
        std::vector{std::optional{Errc::wrong_state}});

  CHECK(upkeep(t.broker).repaired == 1);
  CHECK(t.redis.command({"EXISTS", set}).as_integer() == 0);
  CHECK(t.redis.command({"EXISTS", key("aggregation_sets")}).as_integer() == 0);
  CHECK(ids(t.view, TaskState::aggregating) == Names{"t1"});
  CHECK(listed(t.view, "default", TaskState::aggregating).at(0).group == "tenant:9");
  CHECK(t.view.queue_info("default").aggregating == 1);

  CHECK(act(t.view, "default", TaskAction::remove, ids_of_t1, std::nullopt) ==
        std::vector{std::optional<Errc>{}});
  CHECK(t.view.queue_info("default").aggregating == 0);
  CHECK(t.redis.command({"EXISTS", key("groups")}).as_integer() == 0);
}

TEST_CASE("a task of a group returns to it when it is due", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1s));
  t.redis.command({"HSET", key("t:t1"), "group", "g"});
  t.advance(1s);
  CHECK(upkeep(t.broker).forwarded == 1);
  CHECK(ids(t.view, TaskState::aggregating) == Names{"t1"});
}

TEST_CASE("group keys of the wrong type lose no due task", "[redis][repair]") {
  RedisFixture t;
  for (const char* id : {"grouped", "lost group", "plain"})
    enqueue(t.broker, scheduled(message(id), 1s));
  t.redis.command({"HSET", key("t:grouped"), "group", "g"});
  t.redis.command({"HSET", key("t:lost group"), "group", "bad"});
  t.redis.command({"SET", key("groups"), "not a set"});
  t.redis.command({"SET", key("g:bad"), "not a sorted set"});
  t.advance(1s);
  CHECK(upkeep(t.broker).forwarded == 3);
  CHECK(t.redis.command({"ZCARD", key("g:g")}).as_integer() == 1);
  CHECK(t.redis.command({"LLEN", key("pending")}).as_integer() == 2);
  CHECK(take(t.broker).size() == 2);
}

TEST_CASE("a cancellation request ends with its run, whoever owned it", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  take_one(t.broker);
  t.view.cancel("default", "t1", CancelMode::remove);
  // As a Go worker requeues it: it does not know the cancellation request.
  t.redis.command({"LREM", key("active"), "0", "t1"});
  t.redis.command({"ZREM", key("lease"), "t1"});
  t.redis.command({"RPUSH", key("pending"), "t1"});
  t.redis.command({"HSET", key("t:t1"), "state", "pending"});
  const Run again = take_one(t.broker);
  const ExtendReply reply = extend(t.broker, again);
  CHECK(reply.status == LeaseStatus::ok);
  CHECK_FALSE(reply.cancel);
}

TEST_CASE("a cancellation request that a peer ignored ends with the next run", "[redis][repair]") {
  RedisFixture t;
  const SettleAction action = GENERATE(SettleAction::complete, SettleAction::retry,
                                       SettleAction::archive, SettleAction::snooze);
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  enqueue(t.broker, kept);
  const Run held = take_one(t.broker);
  t.view.cancel("default", "t1", CancelMode::remove);
  settle(t.broker, given_back(held));
  REQUIRE(t.redis.command({"HEXISTS", key("t:t1"), "tmx_wish"}).as_integer() == 1);
  // As a Go worker takes a task and requeues it.
  t.redis.command({"HDEL", key("t:t1"), "pending_since"});
  const Run run = take_one(t.broker);
  CHECK(settle(t.broker, {.run = run, .action = action, .delay = 1s}) == SettleStatus::applied);
  CHECK(t.redis.command({"HEXISTS", key("t:t1"), "tmx_wish"}).as_integer() == 0);
}

TEST_CASE("a lost take is found even after a jump of the clock", "[redis][repair]") {
  RedisServer server{{.tcp = true}};
  RedisFixture t{server};
  const Duration jump = GENERATE(Duration{-1h}, Duration{0}, Duration{1h});
  t.broker.enqueue(many("t", 251));
  std::atomic<bool> cuts{false};
  CuttingProxy proxy{server.port(), [&](std::string_view) { return cuts.load(); }};
  RedisOptions options = parse_redis_url("redis://127.0.0.1:" + std::to_string(proxy.port()));
  options.clock = t.manual_clock;
  options.reconnect_min = 1ms;
  options.reconnect_max = 1ms;
  RedisBroker broker{options};
  broker.ping();
  cuts = true;
  const QueueQuota quotas[] = {{"default", 1}};
  CHECK(error_of([&] { broker.exchange({.quotas = quotas, .token_block = 4711}); }));
  cuts = false;
  // Tasks that are taken later precede it in the list, and seem to have been taken before the lost
  // call.
  t.advance(1s);
  REQUIRE(take(t.broker, "default", 220).size() == 220);
  t.manual_clock->step_wall(jump);
  const LostTake lost[] = {{.token_block = 4711, .queues = {"default"}, .age = 2s}};
  CHECK(eventually([&] { return !error_of([&] { broker.exchange({.lost_takes = lost}); }); }));
  CHECK(ids(take(t.broker, "default", 2)) == Names{"t1", "t222"});
}

TEST_CASE("a deleted queue leaves no key", "[redis][repair]") {
  RedisFixture t;
  TaskMessage kept = message("kept");
  kept.retention = 1h;
  settle(t.broker, completed(started(t.broker, kept)));
  settle(t.broker, archived(started(t.broker, message("archived"))));
  for (int i = 0; i < 2500; i += 500) {
    t.broker.enqueue(many("t" + std::to_string(i) + "-", 500));
  }
  enqueue(t.broker, scheduled(message("later"), 1500ms));
  enqueue(t.broker, unique(message("locked", "default", "x")));
  t.redis.command({"HSET", key("t:grouped"), "msg", redis::encode_message(message("grouped")),
                   "state", "aggregating", "group", "g"});
  t.redis.command({"ZADD", key("g:g"), "1", "grouped"});
  t.redis.command({"SADD", key("groups"), "g"});
  t.redis.command({"HSET", key("t:staged"), "msg", redis::encode_message(message("staged")),
                   "state", "aggregating", "group", "g"});
  t.redis.command({"ZADD", key("g:g:set"), "1", "staged"});
  t.redis.command({"ZADD", key("aggregation_sets"), "4000000000", key("g:g:set")});
  t.view.pause("default");
  CHECK(error_of([&] { t.view.delete_queue("default", false); }) == Errc::queue_not_empty);
  t.view.delete_queue("default", true);
  CHECK(t.keys().empty());
}

TEST_CASE("removing a grouped task releases the lock that asynq leaks", "[redis][repair]") {
  RedisFixture t;
  TaskMessage grouped = message("t1");
  grouped.unique_key = key("unique:email:welcome:");
  put_raw(t, "t1", redis::encode_message(grouped));
  t.redis.command({"SET", grouped.unique_key, "t1"});
  t.redis.command({"DEL", key("pending")});
  t.redis.command({"HSET", key("t:t1"), "state", "aggregating", "group", "g"});
  t.redis.command({"ZADD", key("g:g"), "1", "t1"});
  t.redis.command({"SADD", key("groups"), "g"});
  CHECK(t.view.act_all("default", TaskAction::remove, TaskState::aggregating, 10) == 1);
  CHECK(t.redis.command({"EXISTS", grouped.unique_key}).as_integer() == 0);
}

TEST_CASE("tasks are removed without reading their messages", "[redis][repair]") {
  RedisFixture t;
  enqueue(t.broker, message("plain"));
  enqueue(t.broker, unique(message("locked")));
  enqueue(t.broker, scheduled(message("s1"), 1h));
  enqueue(t.broker, scheduled(message("s2"), 1h));
  enqueue(t.broker, scheduled(message("s3"), 1h));
  const std::vector<std::string> commands = t.executed([&] {
    const std::vector<std::string> ids{"plain", "locked"};
    act(t.view, "default", TaskAction::remove, ids, std::nullopt);
    CHECK(t.view.act_all("default", TaskAction::remove, TaskState::scheduled, 2) == 2);
    t.view.delete_queue("default", true);
  });
  CHECK(commands.size() > 10);
  const auto reads_message = [](const std::string& command) {
    return command.find("GET\"") != command.npos && command.ends_with("\"msg\"");
  };
  CHECK(std::count_if(commands.begin(), commands.end(), reads_message) == 0);
  CHECK(t.keys().empty());
}

// A full Redis

class Full {
 public:
  explicit Full(RedisServer& redis) : redis_{redis} {
    redis_.command({"CONFIG", "SET", "maxmemory-policy", "noeviction"});
    redis_.command({"CONFIG", "SET", "maxmemory", "1"});
  }
  ~Full() { redis_.command({"CONFIG", "SET", "maxmemory", "0"}); }

 private:
  RedisServer& redis_;
};

TEST_CASE("a full Redis refuses enqueues, each with its own error", "[redis][full]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  const Full full{t.redis};
  const auto replies = t.broker.enqueue({pending(message("t2")), scheduled(message("t3"), 1h),
                                         unique(message("t4")), pending(message("t5", "other"))});
  REQUIRE(replies.size() == 4);
  for (const EnqueueReply& reply : replies) CHECK(reply.error == Errc::queue_full);
  CHECK_FALSE(state_of(t.view, "t2"));
}

TEST_CASE("trimming drops ids without a task, and no foreign key", "[redis][repair]") {
  RedisFixture t;
  settle(t.broker, archived(started(t.broker, message("t1"))));
  t.redis.command({"ZADD", "asynq:{default}:archived", "1", "gone", "2", "foreign"});
  t.redis.command({"SET", "asynq:{default}:t:foreign", "x"});
  t.redis.command({"SET", "asynq:{broken}:archived", "x"});
  const std::vector<std::string> queues = {"broken", "default"};
  const Full full{t.redis};
  const auto looks = t.view.trim_archives(queues, {.max_tasks = 0, .max_age = 1h, .limit = 0});
  REQUIRE(looks.size() == 2);
  CHECK(looks[0].error);
  CHECK_FALSE(looks[1].error);
  CHECK(looks[1].excess == 3);
  const auto replies = t.view.trim_archives(queues, {.max_tasks = 0, .max_age = 1h, .limit = 10});
  REQUIRE(replies.size() == 2);
  CHECK(replies[0].error);
  CHECK_FALSE(replies[1].error);
  CHECK(replies[1].deleted == 1);
  CHECK(replies[1].excess == 0);
  CHECK(t.redis.command({"EXISTS", "asynq:{default}:t:foreign"}).as_integer() == 1);
  CHECK(t.redis.command({"EXISTS", "asynq:{default}:t:t1"}).as_integer() == 0);
}

TEST_CASE("checking the archives of many queues needs few calls", "[redis]") {
  RedisFixture t;
  std::vector<std::string> queues;
  for (int i = 0; i < 300; ++i) queues.push_back("q" + std::to_string(i));
  for (const std::string queue : {"q0", "q255", "q256", "q299"}) {
    settle(t.broker, archived(started(t.broker, message("t1", queue))));
  }
  const TrimRequest look{.max_tasks = 0, .max_age = 1h, .limit = 0};
  t.view.trim_archives(queues, look);  // Now the script is loaded.
  std::vector<TrimReply> replies;
  const auto commands = t.executed([&] { replies = t.view.trim_archives(queues, look); });
  CHECK(std::count_if(commands.begin(), commands.end(), [](const std::string& command) {
          return command.find("\"EVALSHA\"") != std::string::npos;
        }) == 2);
  REQUIRE(replies.size() == 300);
  for (std::size_t i = 0; i < 300; ++i) {
    CAPTURE(i);
    CHECK(replies[i].excess == (i == 0 || i == 255 || i == 256 || i == 299 ? 1 : 0));
  }
}

TEST_CASE("a full Redis recognises remembered ids", "[redis][full]") {
  RedisFixture t;
  enqueue(t.broker, idempotent(message("t1")));
  settle(t.broker, completed(take_one(t.broker)));
  enqueue(t.broker, idempotent(message("over"), 1s));
  t.advance(2s);
  const Full full{t.redis};
  const auto replies = t.broker.enqueue({idempotent(message("t2")), idempotent(message("t1")),
                                         pending(message("t3")), idempotent(message("t1")),
                                         idempotent(message("over"))});
  REQUIRE(replies.size() == 5);
  CHECK(replies[0].error == Errc::queue_full);
  CHECK(replies[1].accepted_before);
  CHECK(replies[2].error == Errc::queue_full);
  CHECK(replies[3].accepted_before);
  CHECK(replies[4].error == Errc::task_id_conflict);
  CHECK_FALSE(state_of(t.view, "t2"));
  CHECK_FALSE(state_of(t.view, "t3"));
}

TEST_CASE("remembered ids are removed from Redis when they expire", "[redis]") {
  RedisFixture t;
  const auto remembered = [&] {
    return t.redis.command({"ZCARD", "asynq:{default}:tmx:ids"}).as_integer();
  };
  std::vector<EnqueueRequest> batch = many("t", 250);
  for (EnqueueRequest& request : batch) request.idempotent_for = 10s;
  t.broker.enqueue(batch);
  enqueue(t.broker, idempotent(message("last"), 20s));
  CHECK(remembered() == 251);
  CHECK(t.redis.command({"PTTL", "asynq:{default}:tmx:ids"}).as_integer() > 19'000);
  CHECK(t.redis.command({"PTTL", "asynq:{default}:tmx:ids"}).as_integer() <= 20'000);
  t.advance(11s);
  enqueue(t.broker, idempotent(message("t1"), 1s));  // A conflict; two that are over go.
  CHECK(remembered() == 249);
  CHECK(upkeep(t.broker, "default", 100).more);
  CHECK(remembered() == 149);
  while (upkeep(t.broker, "default", 100).more) {
  }
  CHECK(remembered() == 1);
  t.advance(10s);
  CHECK(t.redis.command({"EXISTS", "asynq:{default}:tmx:ids"}).as_integer() == 0);
}

TEST_CASE("a key of another type in the place of remembered ids changes nothing",
          "[redis][repair]") {
  RedisFixture t;
  t.redis.command({"SET", "asynq:{default}:tmx:ids", "x"});
  CHECK_FALSE(enqueue(t.broker, message("t1")).error);
  const auto replies = t.broker.enqueue({pending(message("t2")), idempotent(message("t3"))});
  for (const EnqueueReply& reply : replies) CHECK(reply.error == Errc::protocol);
  CHECK(ids(t.view, TaskState::pending) == std::vector<std::string>{"t1"});
}

TEST_CASE("on a full Redis, existing tasks are processed, each once", "[redis][full]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 50));
  for (int i = 0; i < 50; ++i) {
    enqueue(t.broker, scheduled(message("s" + std::to_string(i)), 1500ms));
  }
  TaskMessage kept = message("kept");
  kept.retention = 1s;
  enqueue(t.broker, kept);
  const Full full{t.redis};
  t.redis.command({"SCRIPT", "FLUSH"});
  t.advance(2s);
  std::map<std::string, int> runs;
  for (std::vector<Run> batch; !(batch = take(t.broker, "default", 7)).empty();) {
    for (const ExtendReply& reply : extend_all(t.broker, batch, 20s)) {
      CHECK(reply.status == LeaseStatus::ok);
    }
    for (const Run& run : batch) {
      ++runs[run.message->id];
      CHECK(settle(t.broker, completed(run, "result")) == SettleStatus::applied);
    }
  }
  CHECK(runs.size() == 101);
  for (const auto& [id, count] : runs) CHECK(count == 1);
  t.advance(2s);
  CHECK(upkeep(t.broker).expired == 1);
  CHECK(t.view.queue_info("default").size() == 0);
  CHECK(t.view.queue_info("default").processed_total == 101);
}

TEST_CASE("on a full Redis, every settlement and every repair works", "[redis][full]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 8));
  enqueue(t.broker, scheduled(message("s1"), 1h));
  const std::vector<Run> runs = take(t.broker);
  const Full full{t.redis};
  CHECK(settle(t.broker,
               std::vector{retried(runs[0], 1500ms), archived(runs[1]), snoozed(runs[2], 1500ms),
                           given_back(runs[3]), removed(runs[4]), retried(runs[5], 0s)}) ==
        std::vector(6, SettleStatus::applied));
  t.view.cancel("default", "t7", CancelMode::remove);
  CHECK(extend(t.broker, runs[6]).cancel == CancelMode::remove);
  t.advance(20s);
  const UpkeepReply reply = upkeep(t.broker);
  CHECK(ids(reply.lost) == Names{"t7", "t8"});
  CHECK(reply.forwarded == 2);
  CHECK(settle(t.broker, crashed(reply.lost[1])) == SettleStatus::applied);

  t.view.pause("default");
  t.view.unpause("default");
  t.view.update_payload("default", "s1", "new");
  const std::vector<std::string> one{"t2"};
  const std::vector<std::optional<Errc>> done{std::nullopt};
  CHECK(act(t.view, "default", TaskAction::run, one, std::nullopt) == done);
  CHECK(act(t.view, "default", TaskAction::archive, one, std::nullopt) == done);
  CHECK(t.view.act_all("default", TaskAction::run, TaskState::scheduled, 10) == 1);
  CHECK(t.view.act_all("default", TaskAction::archive, TaskState::pending, 2) == 2);
  t.broker.registry().announce({.host = "h", .pid = 1, .id = "s1"}, 10s);
  CHECK(t.broker.registry().servers().size() == 1);
  CHECK(settle(t.broker, completed(reply.lost[0])) == SettleStatus::applied);
}

TEST_CASE("on a full Redis, malformed messages are archived", "[redis][full]") {
  RedisFixture t;
  put_raw(t, "bad", "garbage\xff");
  const Full full{t.redis};
  CHECK(take(t.broker).empty());
  CHECK(state_of(t.view, "bad") == TaskState::archived);
  t.view.delete_queue("default", true);
}

TEST_CASE("a step of upkeep covers all queues, in bounded calls", "[redis][repair]") {
  RedisFixture t;
  std::vector<std::string> queues;
  for (int q = 0; q < 6; ++q) {
    queues.push_back("q" + std::to_string(q));
    std::vector<EnqueueRequest> batch;
    for (int i = 0; i < 500; ++i) {
      batch.push_back({.message = message("t" + std::to_string(i), queues.back()),
                       .process_in = std::chrono::seconds{1}});
    }
    t.broker.enqueue(std::move(batch));
  }
  t.advance(std::chrono::seconds{1});
  t.broker.upkeep({.queues = queues, .limit = 1});  // loads the script
  t.redis.command({"CONFIG", "RESETSTAT"});
  const UpkeepReply reply = t.broker.upkeep({.queues = queues, .limit = 500});
  CHECK(t.redis.info("commandstats", "cmdstat_evalsha").starts_with("calls=2,"));
  CHECK(reply.forwarded == 6 * 499);
  CHECK_FALSE(reply.more);
  for (const std::string& queue : queues) CHECK(t.view.queue_info(queue).pending == 500);
}

TEST_CASE("a queue with a broken key does not stop the upkeep of others", "[redis][repair]") {
  RedisFixture t;
  t.redis.command({"SET", "asynq:{broken}:scheduled", "x"});
  t.redis.command({"SET", "asynq:{broken}:lease", "x"});
  t.broker.enqueue({{.message = message("t1"), .process_in = std::chrono::seconds{1}}});
  t.advance(std::chrono::seconds{1});
  const std::vector<std::string> queues{"broken", "default"};
  CHECK(t.broker.upkeep({.queues = queues}).forwarded == 1);
}

TEST_CASE("a failure to list queues is logged, and blocks no task", "[redis][repair]") {
  RedisFixture t;
  LoggedBroker logged{t};
  t.redis.command({"SET", "asynq:queues", "a string"});
  for (const char* id : {"t1", "t2"}) {
    CHECK_FALSE(logged.broker.enqueue({pending(message(id))}).at(0).error);
  }
  CHECK(logged.told("enqueue: add to the set of queues: WRONGTYPE") == 1);
  CHECK(ids(take(logged.broker)) == Names{"t1", "t2"});
  CHECK(error_of([&] { t.view.queues(); }) == Errc::protocol);

  t.redis.command({"DEL", "asynq:queues"});
  enqueue(logged.broker, message("t3"));
  CHECK(logged.told("adding to the set of queues works again") == 1);
  CHECK(logged.lines.size() == 2);
  CHECK(t.view.queues() == Names{"default"});
}

// Private fields that another version wrote: with words that this one does not know, or without
// words that it would write.

void append(RedisFixture& t, const std::string& id, const std::string& name,
            const std::string& words) {
  t.redis.command({"HSET", key("t:" + id), name, t.field(id, name) + words});
}

TEST_CASE("further words of tmx_run are ignored, and kept while the run lasts",
          "[redis][repair][versions]") {
  RedisFixture t;
  const std::string mark = GENERATE("", " a", " s", " b", " x");
  const Run run = started(t.broker, message("t1"));
  const Time taken = t.clock.now();
  append(t, "t1", "tmx_run", mark + (mark.empty() ? "" : " later 2"));
  CHECK(t.view.find("default", "t1")->started_at == taken);
  CHECK(listed(t.view, "default", TaskState::active).at(0).started_at == taken);

  SECTION("extended and settled") {
    t.advance(3s);
    CHECK(extend(t.broker, run, 20s).status == LeaseStatus::ok);
    CHECK(t.field("t1", "tmx_run").ends_with(mark + (mark.empty() ? "" : " later 2")));
    CHECK(t.view.find("default", "t1")->started_at == taken);
    CHECK(extend(t.broker, run, 20s, true).status == LeaseStatus::ok);
    CHECK((mark.empty() || t.field("t1", "tmx_run").ends_with(" later 2")));
    CHECK(t.field("t1", "tmx_run").find(" a ") == std::string::npos);
    CHECK(t.field("t1", "tmx_run").find(" s ") == std::string::npos);
    CHECK(settle(t.broker, completed(run)) == SettleStatus::applied);
  }
  SECTION("recovered") {
    t.advance(12s);
    const UpkeepReply reply = upkeep(t.broker);
    REQUIRE(ids(reply.lost) == Names{"t1"});
    CHECK(reply.lost[0].begun == (mark == " a"   ? Begun::perhaps
                                     : mark == " s" ? Begun::no
                                                    : Begun::yes));
    CHECK(t.field("t1", "tmx_run").ends_with(mark + (mark.empty() ? "" : " later 2")));
    CHECK(settle(t.broker, crashed(reply.lost[0])) == SettleStatus::applied);
  }
  SECTION("cancelled") {
    t.view.cancel("default", "t1", CancelMode::remove);
    CHECK(extend(t.broker, run).cancel == CancelMode::remove);
  }
  SECTION("given back, since the reply was lost") {
    const LostTake lost{.token_block = run.token >> 16, .queues = {"default"}, .age = 1s};
    t.broker.exchange({.lost_takes = std::span{&lost, 1}});
    CHECK(state_of(t.view, "t1") == TaskState::pending);
  }
}

TEST_CASE("further words of tmx_facts are ignored, and kept when the facts change",
          "[redis][repair][versions]") {
  RedisFixture t;
  const std::string now = redis::micros(t.clock.now());
  const std::string expiry = redis::micros(t.clock.now() + 1h);
  const QueueQuota quotas[] = {{"default", 1}};
  enqueue(t.broker, message("t1"));
  t.redis.command({"HSET", key("t:t1"), "tmx_facts", now + ' ' + expiry + " 2 later 7"});
  CHECK(t.view.find("default", "t1")->crashes == 2);
  CHECK(t.view.find("default", "t1")->expires_at == t.clock.now() + 1h);
  CHECK(t.broker.exchange({.quotas = quotas, .free_workers = 0}).runs.empty());
  Run run = take_one(t.broker);
  CHECK(run.crashes == 2);
  CHECK(run.message->enqueued_at == t.clock.now());
  CHECK(run.message->expires_at == t.clock.now() + 1h);

  CHECK(settle(t.broker, crashed(run, 1s)) == SettleStatus::applied);
  CHECK(t.field("t1", "tmx_facts") == now + ' ' + expiry + " 3 later 7");
  enqueue(t.broker, message("t2"));
  t.advance(3s);
  upkeep(t.broker);
  CHECK(ids(t.view, TaskState::pending) == Names{"t1", "t2"});  // First, after its crashes.
  act(t.view, "default", TaskAction::archive, Names{"t1"}, {});
  act(t.view, "default", TaskAction::run, Names{"t1"}, {});
  CHECK(t.field("t1", "tmx_facts") == now + ' ' + expiry + " 0 later 7");
  CHECK(t.view.find("default", "t1")->crashes == 0);
}

TEST_CASE("further words of tmx_cancel are ignored", "[redis][repair][versions]") {
  RedisFixture t;
  const Run run = started(t.broker, message("t1"));
  t.view.cancel("default", "t1", CancelMode::archive);
  append(t, "t1", "tmx_cancel", " later 3");
  CHECK(extend(t.broker, run).cancel == CancelMode::archive);
}

TEST_CASE("data of an earlier version is taken, extended, recovered and settled",
          "[redis][repair][versions]") {
  RedisFixture t;
  const std::string now = redis::micros(t.clock.now());
  // The facts of a plain task, of a task with crashes, and none, as in a task of Go's.
  t.broker.enqueue(many("t", 3));
  t.redis.command({"HSET", key("t:t1"), "tmx_facts", now});
  t.redis.command({"HSET", key("t:t2"), "tmx_facts", now + " 0 1"});
  t.redis.command({"HDEL", key("t:t3"), "tmx_facts"});
  const std::vector<Run> runs = take(t.broker);
  REQUIRE(runs.size() == 3);
  CHECK(runs[1].crashes == 1);
  // Fences without a mark, and, after a fence with a mark was extended, without the time.
  for (const Run& run : runs) {
    const std::string& id = run.message->id;
    const std::string fence = t.field(id, "tmx_run");
    const std::size_t score = fence.find(' ') + 1;
    const std::size_t taken = fence.find(' ', score) + 1;
    t.redis.command({"HSET", key("t:" + id), "tmx_run",
                     id == "t3" ? fence.substr(0, taken) : fence.substr(0, taken) + now});
  }
  SECTION("extended and settled") {
    for (const Run& run : runs) {
      CHECK(extend(t.broker, run, 20s, true).status == LeaseStatus::ok);
      CHECK(extend(t.broker, run, 30s).status == LeaseStatus::ok);
      CHECK(settle(t.broker, completed(run)) == SettleStatus::applied);
    }
    CHECK(t.view.queue_info("default").size() == 0);
  }
  SECTION("recovered") {
    t.advance(12s);
    const UpkeepReply reply = upkeep(t.broker);
    REQUIRE(reply.lost.size() == 3);
    for (const Run& run : reply.lost) {
      CHECK(run.begun == Begun::yes);
      CHECK(settle(t.broker, crashed(run)) == SettleStatus::applied);
    }
    CHECK(t.view.find("default", "t2")->crashes == 2);
    CHECK(take(t.broker).size() == 3);
  }
}

}  // namespace
}  // namespace taskmux::test
