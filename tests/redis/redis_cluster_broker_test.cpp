#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cluster_fixture.hpp"
#include "redis/route/key_slot.hpp"
#include "redis/route/transport.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Names = std::vector<std::string>;

// Queues on each of the nodes, and a broker that goes by the cluster's own time.
struct ClusterFixture {
  RedisCluster cluster{3};
  RedisBroker broker{cluster.url()};
  QueueView& view = broker;
  const Names queues{"a", "b", "c", "d", "e", "f"};

  std::vector<QueueQuota> quotas(std::size_t count) const {
    std::vector<QueueQuota> all;
    for (const std::string& queue : queues) all.push_back({queue, count});
    return all;
  }
};

TEST_CASE("on a cluster, a queue name with braces is refused everywhere, with the reason",
          "[redis][cluster]") {
  ClusterFixture t;
  for (const std::string& queue : std::vector<std::string>{"}", "}a", "a{b", "{a}"}) {
    CAPTURE(queue);
    const auto replies = t.broker.enqueue({pending(message("t1", queue)), pending(message("t2", "a"))});
    CHECK(replies[0].error == Errc::invalid_argument);
    CHECK(replies[0].detail.find("braces") != std::string::npos);
    CHECK_FALSE(replies[1].error);
    settle(t.broker, completed(take_one(t.broker, "a")));
    const std::string queues[] = {queue};
    const QueueQuota quotas[] = {{queue, 1}};
    const std::vector<std::function<void()>> calls = {
        [&] { t.broker.open(queues); },
        [&] { t.broker.watch({queue}, [](const Hint&) {}); },
        [&] { t.broker.exchange({.quotas = quotas}); },
        [&] { t.broker.upkeep({.queues = queues}); },
        [&] { t.view.queue_info(queue); },
        [&] { listed(t.view, queue, TaskState::pending); },
        [&] { t.view.pause(queue); },
        [&] { act(t.view, queue, TaskAction::run, queues, std::nullopt); },
        [&] { t.view.delete_queue(queue, true); },
    };
    for (const auto& call : calls) CHECK(error_of(call) == Errc::invalid_argument);
  }
}

TEST_CASE("a broker works on a cluster", "[redis][cluster]") {
  ClusterFixture t;
  std::vector<EnqueueRequest> batch;
  for (const std::string& queue : t.queues) batch.push_back(unique(message("t1", queue)));
  for (const std::string& queue : t.queues) batch.push_back(scheduled(message("s1", queue), 1h));
  for (const EnqueueReply& reply : t.broker.enqueue(batch)) CHECK_FALSE(reply.error);
  CHECK(t.view.queues() == t.queues);

  ExchangeReply reply = t.broker.exchange({.quotas = t.quotas(1)});
  REQUIRE(reply.runs.size() == t.queues.size());
  CHECK(reply.next_due);
  std::set<std::uint64_t> tokens;
  for (const Run& run : reply.runs) tokens.insert(run.token);
  CHECK(tokens.size() == t.queues.size());
  for (const ExtendReply& extended : extend_all(t.broker, reply.runs, 20s)) {
    CHECK(extended.status == LeaseStatus::ok);
  }
  t.view.cancel("a", "t1", CancelMode::archive);
  CHECK(extend(t.broker, reply.runs[0]).cancel == CancelMode::archive);

  std::vector<Settlement> ends;
  for (const Run& run : reply.runs) ends.push_back(retried(run, 0s));
  CHECK(settle(t.broker, ends) == std::vector(t.queues.size(), SettleStatus::applied));
  CHECK(t.broker.upkeep({.queues = t.queues}).next_due);
  CHECK(t.view.act_all("a", TaskAction::archive, TaskState::pending, 10) == 1);
  CHECK(t.view.queue_info("a").archived == 1);
  const std::vector<DailyStats> days = t.view.history("a", 2);  // midnight may have passed
  CHECK(days.at(0).failed + days.at(1).failed == 1);
  t.broker.registry().announce({.host = "h", .pid = 1, .id = "s1"}, 60s);
  CHECK(t.broker.registry().servers().size() == 1);
  t.broker.registry().retire({.host = "h", .pid = 1, .id = "s1"});
  for (const std::string& queue : t.queues) t.view.delete_queue(queue, true);
  CHECK(t.view.queues().empty());
  for (std::size_t i = 0; i < t.cluster.size(); ++i) {
    CHECK(t.cluster.node(i).command({"DBSIZE"}).as_integer() == 0);
  }
}

TEST_CASE("in a cluster, tasks that one queue lacks are taken from the others",
          "[redis][cluster]") {
  ClusterFixture t;
  t.broker.enqueue(many("x", 10, "e"));
  t.broker.enqueue(many("y", 10, "b"));
  const ExchangeReply reply = t.broker.exchange({.quotas = t.quotas(2)});
  CHECK(reply.runs.size() == 12);
  CHECK(reply.runs.front().message->queue == "b");
  CHECK(reply.more);
}

TEST_CASE("in a cluster, workers that one queue does not use serve the others",
          "[redis][cluster]") {
  ClusterFixture t;
  for (int i = 0; i < 4; ++i) {
    TaskMessage once = message("t" + std::to_string(i), "b");
    once.max_retry = 0;  // Never prefetched.
    REQUIRE_FALSE(enqueue(t.broker, once).error);
  }
  const auto of_the_empty = GENERATE(std::size_t{12}, std::size_t{6});
  const QueueQuota quotas[] = {{"a", of_the_empty}, {"b", 4}};
  CHECK(t.broker.exchange({.quotas = quotas, .free_workers = 8}).runs.size() == 4);
}

/// What `function` returns once it has not thrown `unavailable`.
template <typename Function>
auto patiently(Function function) {
  std::optional<decltype(function())> result;
  REQUIRE(eventually([&] {
    const auto error = error_of([&] { result = function(); });
    if (error) CHECK(*error == Errc::unavailable);
    return !error;
  }));
  return *result;
}

TEST_CASE("a broker continues with the replica of a node that died", "[redis][cluster]") {
  RedisCluster cluster{3};
  NodeReplica replica{cluster, 0};

  RedisOptions options = parse_redis_url(cluster.url());
  options.wait_replicas = 1;
  options.command_timeout = 1s;
  options.reconnect_max = 100ms;
  RedisBroker broker{options};
  const std::string queue = queue_on(cluster, 0);
  const std::string other = queue_on(cluster, 1);
  bool replicated = true;
  for (const EnqueueReply& reply : broker.enqueue(many("t", 20, queue))) {
    CHECK_FALSE(reply.error);
    replicated = replicated && reply.replicated;
  }
  REQUIRE(replicated);
  CHECK_FALSE(enqueue(broker, message("o1", other)).error);
  enqueue(broker, scheduled(message("s1", queue), 1h));
  const std::vector<Run> runs = take(broker, queue, 5);
  REQUIRE(runs.size() == 5);
  CHECK(settle(broker, completed(runs[0])) == SettleStatus::applied);
  // WAIT covers only the writes of its own connection.
  cluster.node(0).command({"SET", "{" + queue + "}", "x"});
  REQUIRE(cluster.node(0).command({"WAIT", "1", "10000"}).as_integer() == 1);

  cluster.node(0).kill();
  CHECK(error_of([&] { settle(broker, completed(runs[1])); }) == Errc::unavailable);
  replica.take_over();

  const auto settled = [&](const Settlement& settlement) {
    SettleStatus status{};
    CHECK(eventually([&] {
      status = patiently([&] { return settle(broker, settlement); });
      return status != SettleStatus::unknown;
    }));
    return status;
  };
  for (std::size_t i = 1; i < runs.size(); ++i)
    CHECK(settled(completed(runs[i])) == SettleStatus::applied);
  CHECK(settled(completed(runs[0])) == SettleStatus::stale);
  CHECK(eventually([&] {
    const auto error = enqueue(broker, message("new", queue)).error;
    if (error && *error != Errc::task_id_conflict) CHECK(*error == Errc::unavailable);
    return !error || *error == Errc::task_id_conflict;
  }));
  CHECK(patiently([&] { return take(broker, other); }).size() == 1);
  std::set<std::string> taken;
  for (const Run& run : take(broker, queue)) {
    taken.insert(run.message->id);
    CHECK(settle(broker, completed(run)) == SettleStatus::applied);
  }
  CHECK(taken.size() == 16);
  CHECK(taken.count("new") == 1);
  CHECK(state_of(broker, "s1", queue) == TaskState::scheduled);
  CHECK(broker.queue_info(queue).size() == 1);
}

/// A slot on its way from node 0 to node 1, and what it holds.
struct MovingQueue {
  void begin() { begin_move(cluster, slot, 0, 1); }

  void move(const std::string& key) {
    const std::string port = std::to_string(cluster.node(1).port());
    const redis::Reply reply =
        cluster.node(0).command({"MIGRATE", "127.0.0.1", port, stem + key, "0", "5000"});
    REQUIRE(reply.as_string() == "OK");
  }

  /// Migrates the remaining keys, and all nodes know.
  void finish() {
    const redis::Reply keys = cluster.node(0).command({"CLUSTER", "GETKEYSINSLOT", slot, "1000"});
    for (std::size_t i = 0; i < keys.size(); ++i)
      move(std::string{keys[i].as_string()}.substr(stem.size()));
    end_move(cluster, slot, 0, 1);
  }

  std::set<std::string> all_ids() {
    std::set<std::string> found;
    for (const TaskState state : {TaskState::pending, TaskState::active, TaskState::scheduled,
                                  TaskState::retry, TaskState::archived, TaskState::completed})
      for (const std::string& id : ids(broker, state, queue)) found.insert(id);
    return found;
  }

  RedisCluster cluster{3};
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  RedisBroker broker{[this] {
    RedisOptions options = parse_redis_url(cluster.url());
    options.clock = clock;
    return options;
  }()};
  const std::string queue = queue_on(cluster, 0);
  const std::string slot = std::to_string(redis::slot_of(queue));
  const std::string stem = "asynq:{" + queue + "}:";
};

TEST_CASE("the migration of a slot for longer than a lease costs no live worker its run",
          "[redis][cluster]") {
  MovingQueue t;
  const std::vector<std::string> queues{t.queue};
  const auto upkeep = [&] {
    return patiently([&] { return t.broker.upkeep({.queues = queues, .lease = 10s}); });
  };
  const Run run = started(t.broker, message("run", t.queue));
  t.clock->advance(9s);
  CHECK(extend(t.broker, run, 10s).status == LeaseStatus::ok);
  t.begin();
  t.move("t:run");
  t.clock->advance(13s);
  CHECK(error_of([&] { extend(t.broker, run, 10s); }) == Errc::unavailable);
  t.finish();
  CHECK(upkeep().lost.empty());
  CHECK(patiently([&] { return extend(t.broker, run, 10s); }).status == LeaseStatus::ok);
  t.clock->advance(13s);
  CHECK(upkeep().lost.size() == 1);
}

TEST_CASE("the migration of a slot does not hide lost runs in other slots", "[redis][cluster]") {
  MovingQueue t;
  const std::string other = queue_on(t.cluster, 2);
  const std::vector<std::string> queues{t.queue, other};
  enqueue(t.broker, message("t1", t.queue));
  started(t.broker, message("lost", other));
  t.begin();
  t.move("pending");
  std::size_t lost = 0;
  for (int i = 0; i < 10 && lost == 0; ++i) {
    t.clock->advance(2s);
    lost = patiently([&] { return t.broker.upkeep({.queues = queues, .lease = 10s}); }).lost.size();
  }
  CHECK(lost == 1);
}

TEST_CASE("nothing of a queue is lost while its slot is being migrated", "[redis][cluster]") {
  MovingQueue t;
  RedisBroker& broker = t.broker;
  const auto acted = [&](TaskAction action, const std::vector<std::string>& tasks) {
    return test::act(broker, t.queue, action, tasks, std::nullopt);
  };
  // Tasks in every state; five of them are running and end in all possible ways.
  const std::vector<std::string> dead{"dead1", "dead2"};
  for (const std::string& id : dead) enqueue(broker, message(id, t.queue));
  for (const auto& error : acted(TaskAction::archive, dead)) REQUIRE_FALSE(error);
  TaskMessage kept = message("done", t.queue);
  kept.retention = 1h;
  CHECK(settle(broker, completed(started(broker, kept))) == SettleStatus::applied);
  CHECK(settle(broker, retried(started(broker, message("later", t.queue)), 1h)) ==
        SettleStatus::applied);
  enqueue(broker, scheduled(message("due1", t.queue), 1min));
  enqueue(broker, scheduled(message("due2", t.queue), 1min + 500ms));
  broker.enqueue(many("run", 5, t.queue));
  const std::vector<Run> runs = take(broker, t.queue, 5, 10min);
  REQUIRE(runs.size() == 5);
  broker.enqueue(many("next", 3, t.queue));
  const std::set<std::string> all = t.all_ids();
  REQUIRE(all.size() == 14);
  t.clock->advance(2min);

  const auto move_some = [&] {
    for (const char* id : {"due1", "dead1", "run1", "run5", "next1", "later"})
      t.move("t:" + std::string{id});
  };
  SECTION("nothing has left") { t.begin(); }
  SECTION("some of the tasks have left") {
    t.begin();
    move_some();
  }
  SECTION("some of the tasks of a paused queue have left") {
    broker.pause(t.queue);
    t.begin();
    move_some();
  }
  SECTION("all tasks have left") {
    t.begin();
    for (const std::string& id : all) t.move("t:" + id);
  }
  SECTION("the list of pending tasks has left") {
    t.begin();
    t.move("pending");
  }
  SECTION("sets and lists have left, one after the other") {
    const std::string key =
        GENERATE("active", "lease", "scheduled", "retry", "archived", "completed", "tmx:due");
    CAPTURE(key);
    t.begin();
    t.move(key);
  }

  // Operations in the meantime succeed, or are reported as unknown.
  const auto attempt = [&](auto call) {
    try {
      call();
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(error.errc() == Errc::unavailable);
    }
  };
  std::vector<Run> taken;
  const QueueQuota quotas[] = {{t.queue, 2}};
  for (int round = 0; round < 2; ++round) {
    attempt([&] {
      for (const ExtendReply& reply : extend_all(broker, runs, 10min))
        CHECK(reply.status == LeaseStatus::ok);
    });
    attempt([&] {
      const UpkeepReply kept_up = upkeep(broker, t.queue);
      CHECK(kept_up.lost.empty());
      CHECK(kept_up.repaired == 0);
    });
    attempt([&] {
      for (const Run& run : broker.exchange({.quotas = quotas, .lease = 10min}).runs)
        taken.push_back(run);
    });
    attempt([&] {
      for (const auto& error : acted(TaskAction::run, dead))
        if (error)
          CHECK((*error == Errc::unavailable || (round > 0 && *error == Errc::wrong_state)));
    });
  }
  const std::vector<Settlement> ends{completed(runs[0]), retried(runs[1], 1h), archived(runs[2]),
                                     snoozed(runs[3], 1h), given_back(runs[4])};
  std::vector<SettleStatus> statuses(ends.size(), SettleStatus::unknown);
  attempt([&] { statuses = settle(broker, ends); });
  CHECK(std::count(statuses.begin(), statuses.end(), SettleStatus::stale) == 0);

  t.finish();
  for (std::size_t i = 0; i < ends.size(); ++i) {
    if (statuses[i] == SettleStatus::unknown)
      statuses[i] = patiently([&] { return settle(broker, ends[i]); });
  }
  CHECK(statuses == std::vector(ends.size(), SettleStatus::applied));
  patiently([&] { return upkeep(broker, t.queue); });
  std::set<std::string> left = t.all_ids();
  CHECK(left.erase("run1") == 0);
  left.insert("run1");
  CHECK(left == all);

  if (broker.queue_info(t.queue).paused) broker.unpause(t.queue);
  acted(TaskAction::run, {"dead1", "dead2", "run2", "run3", "run4", "later", "done"});
  for (const Run& run : take(broker, t.queue)) taken.push_back(run);
  for (const Run& run : taken) CHECK(settle(broker, removed(run)) == SettleStatus::applied);
  CHECK(taken.size() == all.size() - 1);
  CHECK(t.all_ids().empty());
}

}  // namespace
}  // namespace taskmux::test
