#include <atomic>
#include <chrono>
#include <latch>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/cutting_proxy.hpp"
#include "support/test.hpp"
#include "taskmux/server.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

RedisServer::Options replica_of(const RedisServer& master) {
  return {.tcp = true, .arguments = {"--replicaof", "127.0.0.1 " + std::to_string(master.port())}};
}

TEST_CASE("a task that no replica acknowledged is accepted, and marked", "[redis][replicas]") {
  RedisServer server{{.tcp = true}};
  RedisOptions options = options_for(server);
  options.wait_replicas = 1;
  options.wait_timeout = 100ms;
  RedisBroker broker{options};
  const auto enqueue_one = [&](const std::string& id) {
    const EnqueueReply reply = enqueue(broker, message(id));
    CHECK_FALSE(reply.error);
    CHECK(state_of(broker, id) == TaskState::pending);
    return reply.replicated;
  };
  CHECK_FALSE(enqueue_one("without"));

  RedisServer replica{replica_of(server)};
  REQUIRE(eventually([&] { return replica.info("replication", "master_link_status") == "up"; }));
  std::string id = "with";
  CHECK(eventually([&] { return enqueue_one(id += "+"); }));
  CHECK(replica.command({"EXISTS", "asynq:{default}:t:" + id}).as_integer() == 1);
  const auto replies =
      broker.enqueue({pending(message("batch")), pending(message(id)), unique(message("locked"))});
  CHECK((replies[0].replicated && replies[2].replicated));
  CHECK(replies[1].error == Errc::task_id_conflict);

  replica.pause();
  CHECK_FALSE(enqueue_one("paused"));
  replica.resume();
  CHECK(eventually([&] { return enqueue_one(id += "+"); }));
  replica.kill();
  CHECK_FALSE(enqueue_one("killed"));
  CHECK(broker.queue_info("default").pending == ids(broker, TaskState::pending).size());
}

TEST_CASE("a server that loads its data is waited for", "[redis][outage]") {
  RedisServer server{{.arguments = {"--key-load-delay", "500",
                                    "--loading-process-events-interval-bytes", "1024"}}};
  RedisOptions options = options_for(server);
  options.reconnect_max = 50ms;
  RedisBroker broker{options};
  const std::size_t count = 3000;
  broker.enqueue(many("t", count));
  const auto watch = broker.watch({"default"}, [](const Hint&) {});
  server.command({"SAVE"});
  server.kill();

  std::atomic<bool> started{false};
  std::set<Errc> errors;
  std::string told;
  std::thread producer{[&] {
    const auto refused = [&](const EnqueueReply& reply) {
      if (reply.error && *reply.error != Errc::task_id_conflict) errors.insert(*reply.error);
      if (reply.detail.find("LOADING") != std::string::npos) told = reply.detail;
      return reply.error.has_value();
    };
    while (!started) refused(enqueue(broker, message("new")));
  }};
  server.start();
  started = true;
  producer.join();
  INFO(told);
  CHECK(errors == std::set{Errc::unavailable});
  CHECK_FALSE(told.empty());

  CHECK(eventually([&] {
    const auto error = enqueue(broker, message("new")).error;
    return !error || *error == Errc::task_id_conflict;
  }));
  CHECK(eventually([&] { return !error_of([&] { watch->arm(); }); }));
  CHECK(broker.queue_info("default").pending == count + 1);
  CHECK(take(broker, "default", 5).size() == 5);
}

/// A server that stops for a while, longer than a call is waited for, and then does what it finds
/// in its sockets.
struct StuckServer {
  RedisServer server;
  RedisBroker broker{[this] {
    RedisOptions options = options_for(server);
    options.command_timeout = 1s;
    return options;
  }()};

  template <typename Call>
  void get_stuck_in(Call call) {
    server.pause();
    CHECK(error_of(call) == Errc::unavailable);
    // Nothing signals when the call's time has passed on the server's clock.
    std::this_thread::sleep_for(3s);
    server.resume();
    // When the second reply arrives, calls that waited together with the first have been executed.
    for (int i = 0; i < 2; ++i) server.command({"PING"});
  }
};

TEST_CASE("an abandoned take takes nothing when it is executed later", "[redis][outage]") {
  StuckServer t;
  enqueue(t.broker, message("t1"));
  CHECK(take(t.broker, "other").empty());
  t.get_stuck_in([&] { take(t.broker); });
  CHECK(t.server.command({"LLEN", "asynq:{default}:active"}).as_integer() == 0);
  CHECK(t.server.command({"LLEN", "asynq:{default}:pending"}).as_integer() == 1);
  std::vector<Run> runs;
  CHECK(eventually([&] {
    error_of([&] { runs = take(t.broker); });
    return runs.size() == 1;
  }));
}

TEST_CASE("tasks in a lost reply are run, and none counts as lost", "[redis][outage]") {
  RedisServer server{{.tcp = true}};
  // Every third reply with runs is lost.
  int replies = 0;
  CuttingProxy proxy{server.port(), [&](std::string_view bytes) {
                       return bytes.find("email:welcome") != std::string_view::npos &&
                              ++replies % 3 == 0;
                     }};
  RedisOptions options = parse_redis_url("redis://127.0.0.1:" + std::to_string(proxy.port()));
  options.reconnect_min = 1ms;
  options.reconnect_max = 10ms;
  RedisBroker broker{options};
  RedisBroker direct{options_for(server)};
  constexpr std::size_t count = 300;
  std::vector<EnqueueRequest> batch = many("t", count);
  for (std::size_t i = 0; i < count; i += 2) batch[i].message.max_retry = 0;
  for (const EnqueueReply& reply : direct.enqueue(std::move(batch))) CHECK_FALSE(reply.error);

  std::atomic<std::size_t> calls{0};
  std::atomic<int> retries{0};
  ServeMux mux;
  mux.handle("email:", [&](Context& context, const Task&) {
    retries += context.retry_count();
    ++calls;
  });
  Server worker{broker, std::move(mux), {.concurrency = 4}};
  worker.start();
  CHECK(eventually([&] { return direct.queue_info("default").processed_total == count; }, 60s));
  worker.shutdown();
  CHECK(proxy.cuts() > 10);
  CHECK(calls == count);
  CHECK(retries == 0);
  const QueueInfo info = direct.queue_info("default");
  CHECK(info.failed_total == 0);
  CHECK(info.archived + info.retry + info.active + info.pending == 0);
}

TEST_CASE("tasks prefetched behind a long task go to another server", "[redis][server]") {
  RedisServer server;
  RedisBroker broker{options_for(server)};
  const auto enqueue_some = [&](const std::string& prefix, std::size_t count) {
    broker.enqueue(many(prefix, count));
  };
  std::atomic<std::size_t> quick{0};
  std::latch leave{1};
  std::atomic<bool> entered{false};
  const auto handlers = [&] {
    ServeMux mux;
    mux.handle("email:", [&](Context&, const Task&) { ++quick; });
    mux.handle("long", [&](Context&, const Task&) {
      entered = true;
      leave.wait();
    });
    return mux;
  };
  Server one{broker, handlers(), {.concurrency = 1}};
  one.start();
  enqueue_some("learn", 3000);
  REQUIRE(eventually([&] { return quick == 3000; }));
  // In one batch, so that they are taken together.
  TaskMessage task = message("long");
  task.task.type = "long";
  std::vector<EnqueueRequest> batch = many("t", 20);
  batch.insert(batch.begin(), pending(task));
  broker.enqueue(std::move(batch));
  REQUIRE(eventually([&] { return entered.load(); }));
  Server four{broker, handlers(), {.concurrency = 4}};
  four.start();
  CHECK(eventually([&] { return quick == 3020; }, 5s));
  four.shutdown();

  enqueue_some("more", 300);
  CHECK(eventually([&] { return broker.queue_info("default").pending == 300; }));
  const auto scripts = [&] {
    const std::string calls = server.info("commandstats", "cmdstat_evalsha");
    return std::stoi(calls.substr(calls.find('=') + 1));
  };
  const int before = scripts();
  const auto later = std::chrono::steady_clock::now() + 300ms;
  REQUIRE(eventually([&] { return std::chrono::steady_clock::now() > later; }));
  CHECK(scripts() - before < 10);
  CHECK(broker.queue_info("default").pending == 300);
  leave.count_down();
  CHECK(eventually([&] { return quick == 3320; }));
  one.shutdown();
}

/// Commands that a lone task costs Redis while a server serves `queues` queues.
double cost_of_lone_task(int queues) {
  RedisServer server;
  RedisBroker broker{options_for(server)};
  ServeMux mux;
  std::atomic<int> done{0};
  mux.handle("email:", [&](Context&, const Task&) { ++done; });
  ServerConfig config{.concurrency = 2};
  config.queues.clear();
  for (int i = 0; i < queues; ++i) config.queues["q" + std::to_string(i)] = 1;
  config.heartbeat_interval = 1h;
  config.upkeep_interval = 1h;
  Server worker{broker, std::move(mux), std::move(config)};
  worker.start();
  const auto calls = [&] {
    const redis::Reply reply = server.command({"INFO", "commandstats"});
    std::istringstream lines{std::string{reply.as_string()}};
    int sum = 0;
    for (std::string line; std::getline(lines, line);) {
      const std::size_t at = line.find(":calls=");
      if (at != std::string::npos && !line.starts_with("cmdstat_info"))
        sum += std::stoi(line.substr(at + 7));
    }
    return sum;
  };
  // Until the queue is suspended again.
  const auto rest = [&] {
    int before = -1;
    int same = 0;
    REQUIRE(eventually([&] {
      const int now = calls();
      same = now == before ? same + 1 : 0;
      before = now;
      return same == 100;
    }));
    return before;
  };
  const int before = rest();
  constexpr int tasks = 5;
  for (int i = 0; i < tasks; ++i) {
    CHECK_FALSE(enqueue(broker, message("t" + std::to_string(i), "q0")).error);
    REQUIRE(eventually([&] { return done == i + 1; }));
    rest();
  }
  const int after = calls();
  worker.shutdown();
  return static_cast<double>(after - before) / tasks;
}

TEST_CASE("a lone task costs one look at each of the other queues", "[redis][server]") {
  const double of_one = cost_of_lone_task(1);
  const double of_many = cost_of_lone_task(41);
  CAPTURE(of_one, of_many);
  CHECK(of_one < 100);
  CHECK((of_many - of_one) / 40 < 8);
}

TEST_CASE("a shutdown gives back the tasks of its last call", "[redis][outage]") {
  RedisServer server{{.tcp = true}};
  std::atomic<bool> cuts{true};
  CuttingProxy proxy{server.port(), [&](std::string_view bytes) {
                       return cuts && bytes.find("email:welcome") != std::string_view::npos;
                     }};
  RedisOptions options = parse_redis_url("redis://127.0.0.1:" + std::to_string(proxy.port()));
  // Before that it does not connect again.
  options.reconnect_min = 300ms;
  RedisBroker broker{options};
  RedisBroker direct{options_for(server)};
  direct.enqueue(many("t", 3));
  ServeMux mux;
  mux.handle("email:", [](Context&, const Task&) {});
  Server worker{broker, std::move(mux), {.concurrency = 2}};
  worker.start();
  REQUIRE(eventually([&] { return proxy.cuts() > 0; }));
  worker.shutdown();
  const QueueInfo info = direct.queue_info("default");
  CHECK(info.pending == 3);
  CHECK(info.active == 0);
  CHECK(ids(direct, TaskState::pending) == std::vector<std::string>{"t1", "t2", "t3"});
}

TEST_CASE("an abandoned step of upkeep takes over no run when it is executed later",
          "[redis][outage]") {
  StuckServer t;
  const Run run = started(t.broker, message("t1"));
  // Its lease has expired; a worker that was stuck for the same time will extend it first.
  const std::string task = "asynq:{default}:t:t1";
  const std::string lease = "asynq:{default}:lease";
  const std::string end{t.server.command({"ZSCORE", lease, "t1"}).as_string()};
  const std::string ended = std::to_string(std::stoll(end) - 1000);
  std::string fence{t.server.command({"HGET", task, "tmx_run"}).as_string()};
  REQUIRE(fence.find(end) != std::string::npos);
  fence.replace(fence.find(end), end.size(), ended);
  t.server.command({"HSET", task, "tmx_run", fence});
  t.server.command({"ZADD", lease, ended, "t1"});

  const std::vector<std::string> queues{"default"};
  const auto upkeep = [&] { return t.broker.upkeep({.queues = queues, .lease = 1us}); };
  t.get_stuck_in([&] { upkeep(); });
  CHECK(t.server.command({"HGET", task, "tmx_run"}).as_string() == fence);
  std::size_t lost = 0;
  CHECK(eventually([&] {
    error_of([&] { lost = upkeep().lost.size(); });
    return lost == 1;
  }));
}

}  // namespace
}  // namespace taskmux::test
