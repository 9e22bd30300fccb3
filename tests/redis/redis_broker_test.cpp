#include "taskmux/redis/redis_broker.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "golden_vectors.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/session/session.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/child.hpp"
#include "support/no_threads.hpp"
#include "support/test.hpp"
#include "taskmux/taskmux.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Fields = std::map<std::string, std::string>;
using Names = std::vector<std::string>;

// A broker that goes by Redis's own time.
struct RealTimeFixture {
  RedisServer& redis = shared_redis();
  RedisBroker broker{(redis.command({"FLUSHALL"}), options_for(redis))};
  QueueView& view = broker;
};

Fields hash(RedisServer& redis, const std::string& key) {
  const redis::Reply reply = redis.command({"HGETALL", key});
  Fields fields;
  for (std::size_t i = 0; i < reply.size(); i += 2)
    fields.emplace(reply[i].as_string(), reply[i + 1].as_string());
  return fields;
}

// Without our own fields, which Go ignores.
Fields asynq_hash(RedisServer& redis, const std::string& key) {
  Fields fields = hash(redis, key);
  std::erase_if(fields, [](const auto& field) { return field.first.starts_with("tmx_"); });
  return fields;
}

Names list_of(const redis::Reply& reply) {
  Names names;
  for (std::size_t i = 0; i < reply.size(); ++i) names.emplace_back(reply[i].as_string());
  return names;
}

std::string text_of(const redis::Reply& reply) {
  return std::string{reply.as_optional_string().value_or("(nil)")};
}

TaskMessage task_a() {
  TaskMessage a = message("0f8fad5b-d9cb-469f-a165-70867728950e", "default", "{\"user_id\":42}");
  a.max_retry = 25;
  return a;
}

TEST_CASE("a task's data in Redis is the same as asynq's in each state", "[redis]") {
  RedisServer& redis = shared_redis();
  redis.command({"FLUSHALL"});
  const auto clock = std::make_shared<ManualClock>(Time{1767225600123456us});
  RedisBroker broker{options_for(redis, clock)};
  const std::string id = task_a().id;
  const std::string key = "asynq:{default}:t:" + id;

  enqueue(broker, task_a());
  CHECK(list_of(redis.command({"SMEMBERS", "asynq:queues"})) == Names{"default"});
  CHECK(list_of(redis.command({"LRANGE", "asynq:{default}:pending", "0", "-1"})) == Names{id});
  CHECK(asynq_hash(redis, key) == Fields{{"msg", golden::from_hex(golden::plain)},
                                         {"state", "pending"},
                                         {"pending_since", "1767225600123456000"}});
  CHECK(hash(redis, key).at("tmx_facts") == "1767225600123456");

  clock->advance_to(Time{1767225601s});
  const Run run = take_one(broker, "default", 30s);
  CHECK(redis.command({"EXISTS", "asynq:{default}:pending"}).as_integer() == 0);
  CHECK(list_of(redis.command({"LRANGE", "asynq:{default}:active", "0", "-1"})) == Names{id});
  CHECK(list_of(redis.command({"ZRANGE", "asynq:{default}:lease", "0", "-1", "WITHSCORES"})) ==
        Names{id, "1767225631"});
  CHECK(asynq_hash(redis, key) ==
        Fields{{"msg", golden::from_hex(golden::plain)}, {"state", "active"}});

  clock->advance_to(Time{1767225602s});
  REQUIRE(settle(broker, retried(run, 20s)) == SettleStatus::applied);
  for (const char* gone : {"active", "lease", "tmx:due"}) {
    CHECK(redis.command({"EXISTS", "asynq:{default}:" + std::string{gone}}).as_integer() == 0);
  }
  CHECK(list_of(redis.command({"ZRANGE", "asynq:{default}:retry", "0", "-1", "WITHSCORES"})) ==
        Names{id, "1767225622"});
  CHECK(asynq_hash(redis, key) ==
        Fields{{"msg", golden::from_hex(golden::failed)}, {"state", "retry"}});
  for (const char* counter : {"processed", "failed", "processed:2026-01-01", "failed:2026-01-01"}) {
    CHECK(text_of(redis.command({"GET", "asynq:{default}:" + std::string{counter}})) == "1");
  }
  for (const char* counter : {"processed:2026-01-01", "failed:2026-01-01"}) {
    const auto ttl = redis.command({"TTL", "asynq:{default}:" + std::string{counter}}).as_integer();
    CHECK(ttl > 90 * 86400 - 60);
    CHECK(ttl <= 90 * 86400);
  }

  clock->advance_to(Time{1767225625500000us});
  CHECK(upkeep(broker).forwarded == 1);
  CHECK(redis.command({"EXISTS", "asynq:{default}:retry"}).as_integer() == 0);
  CHECK(list_of(redis.command({"LRANGE", "asynq:{default}:pending", "0", "-1"})) == Names{id});
  CHECK(asynq_hash(redis, key) == Fields{{"msg", golden::from_hex(golden::failed)},
                                         {"state", "pending"},
                                         {"pending_since", "1767225622000000000"}});

  REQUIRE(settle(broker, completed(take_one(broker))) == SettleStatus::applied);
  Names keys = list_of(redis.command({"KEYS", "*"}));
  std::sort(keys.begin(), keys.end());
  CHECK(keys == Names{"asynq:queues", "asynq:{default}:failed", "asynq:{default}:failed:2026-01-01",
                      "asynq:{default}:processed", "asynq:{default}:processed:2026-01-01"});
  CHECK(text_of(redis.command({"GET", "asynq:{default}:processed"})) == "2");
  CHECK(text_of(redis.command({"GET", "asynq:{default}:failed"})) == "1");
}

TEST_CASE("facts beyond the message are stored next to it", "[redis]") {
  RedisFixture t;
  const std::string now = redis::micros(t.clock.now());
  TaskMessage once = message("once");
  once.max_retry = 0;
  EnqueueRequest expiring = pending(message("expiring"));
  expiring.expires_in = 1h;
  t.broker.enqueue({pending(message("plain")), pending(once), expiring});
  const std::string expiry = redis::micros(t.clock.now() + 1h);
  CHECK(t.field("plain", "tmx_facts") == now);
  CHECK(t.field("once", "tmx_facts") == now + " 0 0");
  CHECK(t.field("expiring", "tmx_facts") == now + ' ' + expiry + " 0");

  std::vector<Run> runs = take(t.broker);
  REQUIRE(runs.size() == 3);
  for (const Run& run : runs) {
    Settlement crash = retried(run, 0s);
    crash.attempt = Attempt::crashed;
    REQUIRE(settle(t.broker, crash) == SettleStatus::applied);
  }
  CHECK(t.field("plain", "tmx_facts") == now + " 0 1");
  CHECK(t.field("expiring", "tmx_facts") == now + ' ' + expiry + " 1");
  runs = take(t.broker);
  REQUIRE(runs.size() == 3);
  CHECK(runs[0].message->id == "expiring");
  CHECK(runs[0].crashes == 1);
  CHECK(runs[0].message->expires_at == t.clock.now() + 1h);
  CHECK(runs[0].message->enqueued_at == t.clock.now());
  for (const Run& run : runs) settle(t.broker, retried(run, 0s));
  CHECK(t.field("expiring", "tmx_facts") == now + ' ' + expiry + " 0");
}

TEST_CASE("the fence is written by take and extend, and removed by every move out of active",
          "[redis]") {
  RedisFixture t;
  const std::int64_t now = t.clock.now().time_since_epoch() / 1s;
  Run run = started(t.broker, message("t1"));
  const std::string taken = t.field("t1", "tmx_run");
  const std::string since = std::to_string(now) + "000000";
  CHECK(taken.substr(16) == " " + std::to_string(now + 10) + " " + since);
  t.advance(5s);
  CHECK(extend(t.broker, run, 20s).status == LeaseStatus::ok);
  CHECK(t.field("t1", "tmx_run") == taken.substr(0, 17) + std::to_string(now + 25) + " " + since);
  CHECK(t.view.find("default", "t1")->started_at == Time{std::chrono::seconds{now}});

  const auto settlements = {given_back(run), retried(run, 1h), snoozed(run, 1h), archived(run)};
  for (Settlement end : settlements) {
    end.run = run;
    t.view.cancel("default", "t1", CancelMode::remove);
    REQUIRE(settle(t.broker, end) == SettleStatus::applied);
    CAPTURE(static_cast<int>(end.action));
    CHECK(t.field("t1", "tmx_run").empty());
    // A task that was given back must still be cancelled.
    CHECK(t.field("t1", "tmx_cancel").empty() == (end.action != SettleAction::give_back));
    const std::vector<std::string> ids{"t1"};
    if (end.action != SettleAction::give_back) {
      act(t.view, "default", TaskAction::run, ids, std::nullopt);
    }
    run = take_one(t.broker);
  }
}

TEST_CASE("a stale fence does not own a run that a Go server has taken", "[redis]") {
  RedisFixture t;
  const Run run = started(t.broker, message("t1"));
  // The state after asynq's dequeue that followed its recovery.
  t.redis.command({"ZADD", "asynq:{default}:lease", "4000000000", "t1"});
  CHECK(extend(t.broker, run).status == LeaseStatus::lost);
  CHECK(settle(t.broker, completed(run)) == SettleStatus::stale);
  CHECK(state_of(t.view, "t1") == TaskState::active);
}

TEST_CASE("sub-second due times are kept next to asynq's whole seconds", "[redis]") {
  RedisFixture t;
  const std::int64_t now = t.clock.now().time_since_epoch() / 1s;
  enqueue(t.broker, scheduled(message("t1"), 1500ms));
  enqueue(t.broker, scheduled(message("t2"), 3s));
  CHECK(text_of(t.redis.command({"ZSCORE", "asynq:{default}:scheduled", "t1"})) ==
        std::to_string(now + 2));
  CHECK(text_of(t.redis.command({"ZSCORE", "asynq:{default}:tmx:due", "t1"})) ==
        std::to_string(now * 1'000'000 + 1'500'000));
  CHECK(text_of(t.redis.command({"ZSCORE", "asynq:{default}:tmx:due", "t2"})) == "(nil)");

  t.clock.advance(1499999us);
  CHECK(take(t.broker).empty());
  t.clock.advance(1us);
  CHECK(ids(take(t.broker)) == Names{"t1"});
  CHECK(t.redis.command({"EXISTS", "asynq:{default}:tmx:due"}).as_integer() == 0);
}

TEST_CASE("a precise due time that contradicts the public score is ignored", "[redis]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1500ms));
  // A Go peer schedules it again, and there is an entry without a task.
  const std::int64_t later = t.clock.now().time_since_epoch() / 1s + 100;
  t.redis.command({"ZADD", "asynq:{default}:scheduled", std::to_string(later), "t1"});
  t.redis.command({"ZADD", "asynq:{default}:tmx:due", "5", "nobody"});
  t.clock.advance(2s);
  CHECK(take(t.broker).empty());
  CHECK(t.view.find("default", "t1")->next_process_at == Time{std::chrono::seconds{later}});
  CHECK(upkeep(t.broker).next_due == Time{std::chrono::seconds{later}});
  CHECK(t.redis.command({"EXISTS", "asynq:{default}:tmx:due"}).as_integer() == 0);
}

TEST_CASE("a lock is named as asynq names it, and lasts beyond the due time", "[redis]") {
  RedisFixture t;
  EnqueueRequest request = unique(message("t1", "default", "{\"user_id\":42}"), 50s);
  request.process_in = 100s;
  enqueue(t.broker, request);
  const std::string lock = "asynq:{default}:unique:email:welcome:1181f89307fa271072c095747d5813cc";
  CHECK(text_of(t.redis.command({"GET", lock})) == "t1");
  CHECK(t.redis.command({"TTL", lock}).as_integer() > 140);
  CHECK(t.redis.command({"TTL", lock}).as_integer() <= 150);
  CHECK(t.field("t1", "unique_key") == lock);

  enqueue(t.broker, unique(message("t2", "default", "")));
  CHECK(text_of(t.redis.command({"GET", "asynq:{default}:unique:email:welcome:"})) == "t2");
  EnqueueRequest present = unique(message("t3", "default", ""));
  present.unique_empty_payload = true;
  enqueue(t.broker, present);
  CHECK(text_of(t.redis.command({"GET",
                                 "asynq:{default}:unique:email:welcome:"
                                 "d41d8cd98f00b204e9800998ecf8427e"})) == "t3");
}

TEST_CASE("an id conflict leaves no lock behind", "[redis]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  CHECK(enqueue(t.broker, unique(message("t1"))).error == Errc::task_id_conflict);
  for (const std::string& key : t.keys()) CHECK(key.find(":unique:") == std::string::npos);
}

TEST_CASE("an enqueue after the deletion of a queue lists it again", "[redis]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"SREM", "asynq:queues", "default"});
  enqueue(t.broker, message("t2"));
  CHECK(t.view.queues() == Names{"default"});
}

TEST_CASE("unknown data of a peer's message is preserved by a rewrite", "[redis]") {
  RedisFixture t;
  const std::string sent = golden::from_hex(golden::plain) + std::string("\x80\x01\x07", 3);
  const std::string id = task_a().id;
  t.redis.command({"SADD", "asynq:queues", "default"});
  t.redis.command({"HSET", "asynq:{default}:t:" + id, "msg", sent, "state", "pending"});
  t.redis.command({"LPUSH", "asynq:{default}:pending", id});
  REQUIRE(settle(t.broker, retried(take_one(t.broker), 1h)) == SettleStatus::applied);
  const std::string kept = t.field(id, "msg");
  CHECK(kept.find(std::string("\x80\x01\x07", 3)) != std::string::npos);
  CHECK(t.view.find("default", id)->retried == 1);
  t.view.update_payload("default", id, "new");
  CHECK(t.field(id, "msg").find(std::string("\x80\x01\x07", 3)) != std::string::npos);
  CHECK(t.view.find("default", id)->task.payload == "new");
}

TEST_CASE("servers and workers are stored where asynq's tools read them", "[redis]") {
  RedisFixture t;
  ServerInfo server{.host = "web-1", .pid = 4242, .id = "s1", .concurrency = 10};
  server.queues = {{"default", 3}};
  server.status = ServerStatus::active;
  server.started_at = t.clock.now();
  server.workers.push_back({.task_id = "t1", .queue = "default", .task = {.type = "x"}});
  t.broker.registry().announce(server, 9500ms);
  const std::string until = std::to_string(t.clock.now().time_since_epoch() / 1s + 10);
  CHECK(list_of(t.redis.command({"ZRANGE", "asynq:servers", "0", "-1", "WITHSCORES"})) ==
        Names{"asynq:servers:{web-1:4242:s1}", until});
  CHECK(list_of(t.redis.command({"ZRANGE", "asynq:workers", "0", "-1", "WITHSCORES"})) ==
        Names{"asynq:workers:{web-1:4242:s1}", until});
  CHECK(t.redis.command({"TTL", "asynq:servers:{web-1:4242:s1}"}).as_integer() == 10);
  CHECK(t.redis.command({"TTL", "asynq:workers:{web-1:4242:s1}"}).as_integer() == 10);
  CHECK(text_of(t.redis.command({"GET", "asynq:servers:{web-1:4242:s1}"})) ==
        redis::encode_server(server));
  t.broker.registry().retire(server);
  CHECK(t.keys().empty());
}

TEST_CASE("large messages are read one by one, once they are known to be large", "[redis]") {
  RedisFixture t;
  for (int i = 1; i <= 6; ++i) {
    enqueue(t.broker, message("t" + std::to_string(i), "default", std::string(5u << 20, 'x')));
  }
  CHECK(ids(take(t.broker)) == Names{"t1"});
  // So that one command is visible for each message that is read.
  t.redis.command({"ACL", "SETUSER", "default", "-sort_ro"});
  t.redis.command({"CONFIG", "RESETSTAT"});
  for (const char* id : {"t2", "t3", "t4"}) CHECK(ids(take(t.broker)) == Names{id});
  CHECK(t.redis.info("commandstats", "cmdstat_hmget").starts_with("calls=3,"));
  t.redis.command({"ACL", "SETUSER", "default", "+sort_ro"});

  t.redis.command({"DEL", "asynq:{default}:pending"});
  t.broker.enqueue(many("s", 300));
  CHECK(take(t.broker, "default", 1000).size() == 300);
}

TEST_CASE("a heartbeat is short, however large the running tasks are", "[redis]") {
  RedisFixture t;
  ServerInfo server{.host = "web-1", .pid = 4242, .id = "s1"};
  for (int i = 0; i < 32; ++i) {
    const Task large{.type = "x", .payload = std::string(1u << 20, 'p')};
    server.workers.push_back({.task_id = std::to_string(i), .queue = "default", .task = large});
  }
  const auto bytes_in = [&t] {
    return redis::parse_number(t.redis.info("stats", "total_net_input_bytes")).value();
  };
  const std::int64_t before = bytes_in();
  t.broker.registry().announce(server, 10s);
  CHECK(bytes_in() - before < 32 * 5000);
  CHECK(t.broker.registry().servers().at(0).workers.size() == 32);
}

TEST_CASE("a settlement that can't be written is rejected, and delays no others", "[redis]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 2));
  std::vector<Run> runs = take(t.broker);
  auto broken = std::make_shared<TaskMessage>(*runs.at(0).message);
  broken->task.type = "\xff";
  runs[0].message = broken;
  const std::vector<Settlement> ends{retried(runs[0], 1h), retried(runs[1], 1h)};
  const std::vector<SettleReply> replies = t.broker.exchange({.settlements = ends}).settled;
  REQUIRE(statuses(replies) ==
          std::vector{SettleStatus::rejected, SettleStatus::applied});
  CHECK(replies[0].error == Errc::invalid_argument);
  CHECK(replies[0].detail.find("UTF-8") != std::string::npos);
  CHECK(state_of(t.view, "t1") == TaskState::active);

  runs[0].broker_data = "of another broker";
  CHECK(settle(t.broker, retried(runs[0], 1h)) == SettleStatus::rejected);

  Settlement end = archived(runs[0], "it can't be written");
  end.last_resort = true;
  CHECK(settle(t.broker, end) == SettleStatus::applied);
  const auto task = t.view.find("default", "t1");
  REQUIRE(task);
  CHECK(task->state == TaskState::archived);
  CHECK(task->last_error == "it can't be written");
  CHECK(task->last_failed_at == t.clock.now());
  CHECK(task->task.type == "email:welcome");
  CHECK(task->task.payload == "payload");
  t.advance(1min);
  CHECK(upkeep(t.broker).lost.empty());
}

TEST_CASE("an item that is longer than the server accepts is refused, and no other", "[redis]") {
  RedisServer server;
  RedisFixture t{server};
  // Calls carry more once the connection has proved to be fast.
  for (int i = 0; i < 8; ++i) {
    enqueue(t.broker, message("warm-up", "other", std::string(4'000'000, 'x')));
    t.view.act_all("other", TaskAction::remove, TaskState::pending, 1);
  }
  const std::string long_text(2'000'000, 'x');
  const auto shrink = [&] { server.command({"CONFIG", "SET", "proto-max-bulk-len", "1048576"}); };

  SECTION("a payload") {
    shrink();
    const auto replies = t.broker.enqueue(
        {pending(message("t1")), pending(message("t2", "default", long_text))});
    CHECK(replies.at(1).error == Errc::payload_too_large);
    CHECK_FALSE(replies.at(0).error);
    CHECK(ids(take(t.broker)) == Names{"t1"});
  }
  SECTION("several payloads") {
    shrink();
    const std::string longer(2'000'001, 'x');
    const auto replies =
        t.broker.enqueue({pending(message("t1", "default", long_text)), pending(message("t2")),
                          pending(message("t3", "default", longer)), pending(message("t4"))});
    CHECK(replies.at(0).error == Errc::payload_too_large);
    CHECK(replies.at(2).error == Errc::payload_too_large);
    CHECK_FALSE(replies.at(1).error);
    CHECK_FALSE(replies.at(3).error);
    CHECK(ids(take(t.broker)) == Names{"t2", "t4"});
  }
  SECTION("a result") {
    TaskMessage kept = message("t1");
    kept.retention = 1h;
    t.broker.enqueue({pending(kept), pending(message("t2"))});
    const std::vector<Run> runs = take(t.broker);
    shrink();
    CHECK(settle(t.broker, {completed(runs.at(0), long_text), completed(runs.at(1))}) ==
          std::vector{SettleStatus::too_large, SettleStatus::later});
    CHECK(settle(t.broker, {archived(runs[0]), completed(runs[1])}) ==
          std::vector{SettleStatus::applied, SettleStatus::applied});
  }
  SECTION("a message that an end rewrites") {
    t.broker.enqueue({pending(message("t1", "default", long_text)), pending(message("t2"))});
    const std::vector<Run> runs = take(t.broker);
    shrink();
    const std::vector<Settlement> ends{retried(runs.at(0), 1h), completed(runs.at(1))};
    const std::vector<SettleReply> replies = t.broker.exchange({.settlements = ends}).settled;
    REQUIRE(statuses(replies) == std::vector{SettleStatus::rejected, SettleStatus::later});
    CHECK(replies[0].error == Errc::payload_too_large);
    Settlement last = archived(runs[0]);
    last.last_resort = true;
    CHECK(settle(t.broker, {last, ends[1]}) ==
          std::vector{SettleStatus::applied, SettleStatus::applied});
    CHECK(t.view.find("default", "t1")->last_error == "boom");
    CHECK(t.view.find("default", "t1")->task.payload == long_text);
  }
}

TEST_CASE("many settlements and many runs need one round trip", "[redis]") {
  RedisFixture t;
  t.broker.enqueue(many("t", 700));
  t.broker.enqueue(many("u", 700, "other"));
  const QueueQuota quotas[] = {{"default", 600}, {"other", 600}};
  ExchangeReply reply = t.broker.exchange({.quotas = quotas});
  REQUIRE(reply.runs.size() == 1200);
  CHECK(reply.more);
  std::vector<Settlement> ends;
  for (Run& run : reply.runs) ends.push_back(completed(std::move(run)));

  t.redis.command({"CONFIG", "RESETSTAT"});
  reply = t.broker.exchange({.settlements = ends, .quotas = quotas});
  CHECK(t.redis.info("commandstats", "cmdstat_evalsha").starts_with("calls=5,"));
  CHECK(statuses(reply.settled) == std::vector(1200, SettleStatus::applied));
  CHECK(reply.runs.size() == 200);
}

TEST_CASE("large messages limit a take, but one is always taken", "[redis]") {
  RedisFixture t;
  for (const char* id : {"t1", "t2"}) {
    enqueue(t.broker, message(id, "default", std::string(5u << 20, 'x')));
  }
  const QueueQuota quotas[] = {{"default", 10}};
  ExchangeReply reply = t.broker.exchange({.quotas = quotas});
  CHECK(ids(reply.runs) == Names{"t1"});
  CHECK(reply.more);
  CHECK(ids(take(t.broker)) == Names{"t2"});
}

TEST_CASE("a page of large tasks is read in several calls, each of few bytes", "[redis]") {
  RedisFixture t;
  const std::string large(3u << 20, 'x');
  const auto calls = [&t] {
    const std::string stats = t.redis.info("commandstats", "cmdstat_evalsha");
    return stats.substr(0, stats.find(','));
  };
  for (const char* id : {"t1", "t2", "t3", "t4", "t5", "t6"}) {
    TaskMessage task = message(id, "default", large);
    task.retention = 1h;
    enqueue(t.broker, task);
  }
  t.redis.command({"CONFIG", "RESETSTAT"});
  std::vector<TaskInfo> page = listed(t.view, "default", TaskState::pending, 4);
  CHECK(calls() == "calls=2");
  CHECK(ids(page) == Names{"t1", "t2", "t3", "t4"});
  for (const TaskInfo& info : page) CHECK(info.task.payload == large);
  CHECK(listed(t.view, "default", TaskState::pending).size() == 6);

  for (int i = 0; i < 3; ++i) settle(t.broker, completed(take_one(t.broker), large));
  t.redis.command({"CONFIG", "RESETSTAT"});
  page = listed(t.view, "default", TaskState::completed);
  CHECK(calls() == "calls=3");
  CHECK(page.size() == 3);
  for (const TaskInfo& info : page) CHECK(info.result == large);
}

TEST_CASE("scripts that the server has forgotten are loaded again", "[redis]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"SCRIPT", "FLUSH"});
  enqueue(t.broker, message("t2"));
  std::vector<Run> runs = take(t.broker);
  REQUIRE(runs.size() == 2);
  t.redis.command({"SCRIPT", "FLUSH"});
  CHECK(settle(t.broker, std::vector{completed(runs[0]), completed(runs[1])}) ==
        std::vector(2, SettleStatus::applied));
}

TEST_CASE("a lease outlasts three slow calls", "[redis]") {
  RedisOptions options;
  CHECK(RedisBroker{options}.shortest_lease() == 9s);
  options.command_timeout = 1s;
  CHECK(RedisBroker{options}.shortest_lease() == 5s);
  CHECK(RedisBroker{options}.why_shortest_lease().empty());
}

TEST_CASE("a lease that is too short for the command timeout says what to change", "[redis]") {
  RedisBroker broker;
  ServeMux mux;
  mux.handle("test", [](Context&, const Task&) {});
  try {
    Server server{broker, std::move(mux), {.lease = 5s}};
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(
        error.what() ==
        std::string{"Server: lease is under 9 s, three times RedisOptions::command_timeout, which "
                    "is 3 s: lengthen the lease or shorten that timeout"});
  }
}

TEST_CASE("invalid options throw std::invalid_argument", "[redis]") {
  RedisOptions options;
  options.port = 0;
  CHECK_THROWS_AS(RedisBroker{options}, std::invalid_argument);
  CHECK_THROWS_AS(RedisBroker{"nonsense"}, std::invalid_argument);
}

TEST_CASE("the precise due times expire if no server serves their queue", "[redis]") {
  RedisFixture t;
  const char* const due = "asynq:{default}:tmx:due";
  const auto ttl = [&] { return t.redis.command({"TTL", due}).as_integer(); };
  const auto is_a_day = [](std::int64_t seconds) { return seconds > 86300 && seconds <= 86400; };
  enqueue(t.broker, scheduled(message("t1"), 1500ms));
  CHECK(is_a_day(ttl()));
  t.redis.command({"DEL", due});
  enqueue(t.broker, message("t2"));
  settle(t.broker, {.run = take_one(t.broker), .action = SettleAction::snooze, .delay = 1500ms});
  CHECK(is_a_day(ttl()));
  SECTION("upkeep renews their time") { t.redis.command({"EXPIRE", due, "43000"}); }
  SECTION("upkeep gives it to those of an older version") { t.redis.command({"PERSIST", due}); }
  upkeep(t.broker);
  CHECK(is_a_day(ttl()));
  t.redis.command({"EXPIRE", due, "50000"});
  upkeep(t.broker);
  CHECK(ttl() <= 50000);  // not in each step
}

TEST_CASE("an inspector's error names its operation once, and the state", "[redis][inspector]") {
  RedisFixture t;
  Inspector inspector{t.broker};
  enqueue(t.broker, message("t1"));
  enqueue(t.broker, message("t2"));
  take_one(t.broker);
  inspector.pause("default");
  const auto text_of = [](const auto& call) -> std::string {
    try {
      call();
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  CHECK(text_of([&] { inspector.pause("default"); }) == "pause: queue \"default\": already paused");
  CHECK(text_of([&] { inspector.unpause("none"); }) ==
        "unpause: queue \"none\": nothing was ever enqueued to it");
  CHECK(text_of([&] { inspector.cancel("default", "t2"); }) == "cancel: task t2: it is pending");
  CHECK(text_of([&] { inspector.update_payload("default", "t1", "x"); }) ==
        "update payload: task t1: it is active");
  CHECK(text_of([&] { inspector.run("default", "t1"); }) ==
        "run: task t1 (queue \"default\"): it is active");
  CHECK(text_of([&] { inspector.delete_queue("default"); }) ==
        "delete queue: queue \"default\": tasks of it are active");
}

TEST_CASE("with Redis's own time, a task passes through its states", "[redis][time]") {
  RealTimeFixture t;
  const Time before = t.view.now();
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  EnqueueRequest request = pending(kept);
  request.expires_in = 90s;
  REQUIRE_FALSE(enqueue(t.broker, request).error);
  const Run run = take_one(t.broker);
  CHECK(run.message->enqueued_at >= before);
  CHECK(run.message->enqueued_at <= t.view.now());
  CHECK(run.message->expires_at == run.message->enqueued_at + 90s);
  CHECK(extend(t.broker, run).status == LeaseStatus::ok);
  REQUIRE(settle(t.broker, retried(run, 0s)) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->last_failed_at >=
        std::chrono::floor<std::chrono::seconds>(before));
  REQUIRE(settle(t.broker, completed(take_one(t.broker), "done")) == SettleStatus::applied);
  const TaskInfo info = t.view.find("default", "t1").value();
  CHECK(info.state == TaskState::completed);
  CHECK(info.completed_at >= std::chrono::floor<std::chrono::seconds>(before));
  CHECK(info.completed_at <= t.view.now());
  std::uint64_t processed = 0;
  std::uint64_t failed = 0;
  for (const DailyStats& day : t.view.history("default", 2)) {  // midnight may have passed
    processed += day.processed;
    failed += day.failed;
  }
  CHECK(processed == 2);
  CHECK(failed == 1);
}

TEST_CASE("with Redis's own time, a delayed task does not start early", "[redis][time]") {
  RealTimeFixture t;
  const EnqueueReply reply = enqueue(t.broker, scheduled(message("t1"), 30ms));
  CHECK(reply.state == TaskState::scheduled);
  REQUIRE(reply.process_at);
  const QueueQuota quotas[] = {{"default", 1}};
  ExchangeReply taken;
  REQUIRE(eventually([&] {
    taken = t.broker.exchange({.quotas = quotas});
    CHECK((taken.runs.empty() ? taken.next_due == reply.process_at : true));
    return !taken.runs.empty();
  }));
  CHECK(taken.now >= *reply.process_at);
  REQUIRE(settle(t.broker, snoozed(taken.runs[0], 20ms)) == SettleStatus::applied);
  const Time due = t.view.find("default", "t1")->next_process_at.value();
  REQUIRE(eventually([&] {
    taken = t.broker.exchange({.quotas = quotas});
    return !taken.runs.empty();
  }));
  CHECK(taken.now >= due);
}

TEST_CASE("with Redis's own time, records of servers expire", "[redis][time]") {
  RealTimeFixture t;
  t.broker.registry().announce({.host = "h", .pid = 1, .id = "s1"}, 60s);
  CHECK(t.broker.registry().servers().size() == 1);
}

TEST_CASE("if the server can't be reached, each call and each item fails", "[redis]") {
  RedisOptions options;
  options.mode = RedisMode::unix_socket;
  options.socket_path = "/nonexistent/redis.sock";
  RedisBroker broker{options};
  const auto replies = broker.enqueue({pending(message("t1")), pending(message("t2"))});
  REQUIRE(replies.size() == 2);
  for (const EnqueueReply& reply : replies) {
    CHECK(reply.error == Errc::unavailable);
    CHECK_FALSE(reply.detail.empty());
  }
  CHECK(error_of([&] { take(broker); }) == Errc::unavailable);
  CHECK(error_of([&] { extend(broker, {.message = std::make_shared<TaskMessage>()}); }) ==
        Errc::unavailable);
  CHECK(error_of([&] { upkeep(broker); }) == Errc::unavailable);
  CHECK(error_of([&] { broker.ping(); }) == Errc::unavailable);
  CHECK(error_of([&] { broker.watch({"default"}, [](const Hint&) {}); }) == Errc::unavailable);
  CHECK(error_of([&] { broker.queues(); }) == Errc::unavailable);
}

TEST_CASE("if no thread can be started, each item still gets a reply", "[redis]") {
  RedisBroker broker{"redis://localhost:1"};
  const NoThreads none;
  CHECK(enqueue(broker, message("t1")).error == Errc::unavailable);
  CHECK(error_of([&] { take(broker); }) == Errc::unavailable);
}

TEST_CASE("a broker belongs to the process that made it", "[redis]") {
  RedisFixture t;
  const auto watch = t.broker.watch({"default"}, [](const Hint&) {});
  auto forked = std::make_unique<RedisBroker>(options_for(t.redis));
  auto forked_watch = forked->watch({"default"}, [](const Hint&) {});
  const pid_t child = fork();
  if (child == 0) {
    const bool refused = error_of([&] { take(*forked); }) == Errc::forked &&
                         error_of([&] { forked->ping(); }) == Errc::forked &&
                         error_of([&] { forked->watch({}, {}); }) == Errc::forked &&
                         error_of([&] { forked->enqueue({}); }) == Errc::forked;
    forked_watch.reset();
    forked.reset();
    _exit(refused ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK_NOTHROW(t.broker.ping());
}

TEST_CASE("a child of a process that is busy with Redis exits at once", "[redis]") {
  RedisFixture t;
  auto broker = std::make_unique<RedisBroker>(options_for(t.redis));
  auto client = std::make_unique<Client>(*broker);
  auto watch = broker->watch({"default"}, [](const Hint&) {});
  std::atomic<bool> stop{false};
  std::vector<std::thread> busy;
  for (int i = 0; i < 2; ++i) {
    busy.emplace_back([&] {
      while (!stop) client->enqueue({.type = "t"});
    });
  }
  int ended = 0;
  constexpr int rounds = 100;
  for (int round = 0; round < rounds; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      const bool refused = error_of([&] { client->enqueue({.type = "t"}); }) == Errc::forked &&
                           error_of([&] { broker->queue_info("default"); }) == Errc::forked;
      watch.reset();
      client.reset();
      broker.reset();
      _exit(refused ? 7 : 1);
    }
    if (exited_with(end_of(child), 7)) ++ended;
  }
  stop = true;
  for (std::thread& thread : busy) thread.join();
  CHECK(ended == rounds);
}

TEST_CASE("a batch of settlements removes only its own ids from active", "[redis]") {
  RedisFixture t;
  // The second name can't be used in a pattern of SORT.
  const auto* queue = GENERATE("default", "a*b");
  CAPTURE(queue);
  const std::string active = std::string{"asynq:{"} + queue + "}:active";
  std::vector<EnqueueRequest> batch;
  for (int i = 0; i < 100; ++i)
    batch.push_back({.message = message("t" + std::to_string(i), queue)});
  t.broker.enqueue(std::move(batch));
  const std::vector<Run> runs = take(t.broker, queue, 100);
  REQUIRE(runs.size() == 100);
  Names left = list_of(t.redis.command({"LRANGE", active, "0", "-1"}));
  REQUIRE(left.size() == 100);

  // Ids near the end, near the head, one twice, and one that is not in the list.
  std::vector<Settlement> settlements;
  for (const std::size_t i : {3u, 1u, 0u, 20u, 7u, 99u, 50u, 1u})
    settlements.push_back({.run = runs[i]});
  settlements.push_back({.run = runs[2]});
  settlements.back().run.token ^= 1;
  settlements.push_back({.run = runs[4], .action = SettleAction::give_back});
  const ExchangeReply reply = t.broker.exchange({.settlements = settlements});
  for (std::size_t i = 0; i < settlements.size(); ++i) {
    CAPTURE(i);
    const bool stale = i == 7 || i == 8;
    CHECK(reply.settled.at(i).status == (stale ? SettleStatus::stale : SettleStatus::applied));
  }
  for (const int gone : {3, 1, 0, 20, 7, 99, 50, 4}) std::erase(left, "t" + std::to_string(gone));
  CHECK(list_of(t.redis.command({"LRANGE", active, "0", "-1"})) == left);
  CHECK(t.redis.command({"ZCARD", std::string{"asynq:{"} + queue + "}:lease"}).as_integer() == 92);
}

TEST_CASE("a user without the right to SORT by patterns can work", "[redis]") {
  RedisFixture t;
  t.redis.command({"ACL", "SETUSER", "default", "-sort_ro"});
  std::vector<EnqueueRequest> batch;
  for (int i = 0; i < 20; ++i) batch.push_back({.message = message("t" + std::to_string(i))});
  t.broker.enqueue(std::move(batch));
  const std::vector<Run> runs = take(t.broker, "default", 20);
  t.redis.command({"ACL", "SETUSER", "default", "+sort_ro"});
  REQUIRE(runs.size() == 20);
  for (int i = 0; i < 20; ++i)
    CHECK(runs[static_cast<std::size_t>(i)].message->id == "t" + std::to_string(i));
}

TEST_CASE("a result is sent only if its task is kept", "[redis]") {
  RedisFixture t;
  const auto sent = [&](const Settlement& settlement) {
    bool found = false;
    for (const std::string& command : t.executed([&] { settle(t.broker, settlement); }))
      found = found || command.find("the result") != std::string::npos;
    return found;
  };
  CHECK_FALSE(sent(completed(started(t.broker, message("t1")), "the result")));
  TaskMessage kept = message("t2");
  kept.retention = 1h;
  CHECK(sent(completed(started(t.broker, kept), "the result")));
}

}  // namespace
}  // namespace taskmux::test
