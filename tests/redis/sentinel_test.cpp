#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "redis/route/transport.hpp"
#include "support/builders.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"
#include "taskmux/redis/redis_broker.hpp"
#include "taskmux/server.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

const Script increment{"increment", "return redis.call('INCR', KEYS[1])"};

/// A master with one replica, which a Sentinel guards. All of them ask for a password.
struct Fleet {
  Fleet() : master{server_options({})}, replica{server_options(replica_of(master))} {
    sentinel =
        std::make_unique<RedisSentinel>(RedisSentinel::Options{.master_name = "queue",
                                                               .master_port = master.port(),
                                                               .master_password = "server-secret",
                                                               .password = "sentinel-secret"});
    REQUIRE(eventually([this] {
      return replica.info("replication", "master_link_status") == "up" &&
             sentinel->command({"SENTINEL", "REPLICAS", "queue"}).size() == 1;
    }));
  }

  static RedisServer::Options server_options(std::vector<std::string> more) {
    std::vector<std::string> arguments{"--requirepass", "server-secret", "--masterauth",
                                       "server-secret"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return {.tcp = true, .arguments = arguments, .admin = {.password = "server-secret"}};
  }

  static std::vector<std::string> replica_of(const RedisServer& server) {
    return {"--replicaof", "127.0.0.1 " + std::to_string(server.port())};
  }

  /// Returns whether the replica is the master by now; if not, requests it. The Sentinel refuses
  /// while it knows too little about the replica, and gives up a failover that takes longer than
  /// its failover-timeout, which may happen on a busy machine.
  bool failed_over() {
    const auto named = sentinel->command({"SENTINEL", "get-master-addr-by-name", "queue"});
    if (named[1].as_number() == replica.port()) return true;
    try {
      sentinel->command({"SENTINEL", "FAILOVER", "queue"});
    } catch (const Error&) {
      // Not yet, or in progress.
    }
    return false;
  }

  RedisOptions options() const {
    RedisOptions result;
    result.mode = RedisMode::sentinel;
    result.addresses = {{"127.0.0.1", free_port()}, {"127.0.0.1", sentinel->port()}};
    result.master_name = "queue";
    result.sentinel_password = "sentinel-secret";
    result.password = "server-secret";
    result.reconnect_min = 20ms;
    result.reconnect_max = 100ms;
    return result;
  }

  RedisServer master;
  RedisServer replica;
  std::unique_ptr<RedisSentinel> sentinel;
};

std::vector<Call> count(const std::string& key) {
  return {{.slot_key = key, .script = &increment, .args = {"1", key}}};
}

bool is_answered(Transport& transport, const std::vector<Call>& calls) {
  try {
    return !transport.run(calls).front().is_error();
  } catch (const Error&) {
    return false;
  }
}

Error failure(const RedisOptions& options) {
  Transport transport{options};
  try {
    transport.run(count("k"));
  } catch (const Error& error) {
    return error;
  }
  throw std::logic_error{"it worked"};
}

bool contains(const Error& error, std::string_view text) {
  return std::string_view{error.what()}.find(text) != std::string_view::npos;
}

}  // namespace

TEST_CASE("the master that the Sentinels name is used, and followed when it changes",
          "[redis][sentinel]") {
  Fleet fleet;
  Transport transport{fleet.options()};
  CHECK(transport.run(count("k"))[0].as_integer() == 1);
  CHECK(fleet.master.command({"GET", "k"}).as_string() == "1");
  REQUIRE(eventually([&] { return fleet.replica.command({"GET", "k"}).is_string(); }));
  const auto before = transport.epoch();

  SECTION("it dies") { fleet.master.kill(); }
  SECTION("an operator changes it, and the old one goes on for a while") {
    // Sentinel tolerates an old master for eight seconds after it has named the new one.
    REQUIRE(eventually([&] { return fleet.failed_over(); }));
    CHECK(eventually(
        [&] {
          is_answered(transport, count("noise"));
          return transport.epoch() > before;
        },
        6s));
    CHECK(fleet.master.info("replication", "role") == "master");
  }
  CHECK(eventually([&] { return is_answered(transport, count("k")); }));
  CHECK(eventually([&] { return fleet.replica.info("replication", "role") == "master"; }));
  CHECK(fleet.replica.command({"GET", "k"}).as_string() == "2");
  CHECK(transport.epoch() > before);

  const auto stable = transport.epoch();
  CHECK(transport.run(count("k"))[0].as_integer() == 3);
  CHECK(transport.epoch() == stable);
}

TEST_CASE("watches follow a new master even before the old one is demoted",
          "[redis][sentinel][watch]") {
  Fleet fleet;
  RedisBroker broker{fleet.options()};
  std::mutex mutex;
  std::condition_variable arrived;
  bool hinted = false;
  const auto watch = broker.watch({"default"}, [&](const Hint&) {
    std::lock_guard lock{mutex};
    hinted = true;
    arrived.notify_all();
  });
  // Returns whether a push to `server` is reported before a poll can be due.
  const auto told_at_once = [&](RedisServer& server) {
    try {
      server.command({"DEL", "asynq:{default}:pending"});
      {
        std::lock_guard lock{mutex};
        hinted = false;
      }
      if (watch->arm().ready) return false;
      server.command({"LPUSH", "asynq:{default}:pending", "x"});
    } catch (const Error&) {
      return false;
    }
    std::unique_lock lock{mutex};
    return arrived.wait_for(lock, 400ms, [&] { return hinted; });
  };
  REQUIRE(eventually([&] { return told_at_once(fleet.master); }));
  REQUIRE(eventually([&] { return fleet.failed_over(); }));
  // One may be the hint of a restored connection.
  CHECK(eventually([&] { return told_at_once(fleet.replica) && told_at_once(fleet.replica); }, 6s));
  CHECK(fleet.master.info("replication", "role") == "master");  // for eight seconds
}

namespace {

/// Sees to it that the task of `id` is with the master and, while there is one, its replica.
void ensure_accepted(Broker& broker, const std::string& id) {
  TaskMessage wanted = message(id);
  wanted.retention = 1h;  // so that one that is done is still known by its id
  REQUIRE(eventually([&] {
    const EnqueueReply reply = enqueue(broker, wanted);
    if (reply.error == Errc::task_id_conflict) return true;
    if (reply.error) CHECK(*reply.error == Errc::unavailable);
    return !reply.error && reply.replicated;
  }));
}

}  // namespace

TEST_CASE("a server works through a failover, and no task is lost", "[redis][sentinel]") {
  Fleet fleet;
  auto options = fleet.options();
  options.command_timeout = 1s;
  options.wait_replicas = 1;
  RedisBroker producer{options};
  RedisBroker broker{options};

  std::mutex mutex;
  std::condition_variable changed;
  std::set<std::string> ran;
  bool held = true;  // runs that are active when the master dies
  ServeMux mux;
  mux.handle("email:", [&](Context& context, const Task&) {
    const std::string id{context.task_id()};
    std::unique_lock lock{mutex};
    ran.insert(id);
    changed.notify_all();
    if (id.starts_with("held")) changed.wait(lock, [&] { return !held; });
  });
  Server server{broker, std::move(mux), {.concurrency = 4, .lease = broker.shortest_lease()}};
  server.start();

  std::set<std::string> wanted;
  const auto add = [&](const std::string& id) {
    ensure_accepted(producer, id);
    wanted.insert(id);
  };
  const auto have_run = [&](const std::set<std::string>& ids) {
    std::lock_guard lock{mutex};
    return std::includes(ran.begin(), ran.end(), ids.begin(), ids.end());
  };
  for (int i = 0; i < 2; ++i) add("held" + std::to_string(i));
  REQUIRE(eventually([&] { return have_run(wanted); }));

  // From before until after: the producer repeats tasks that may not have been accepted.
  bool killed = false;
  std::thread failover{[&] {
    killed = eventually([&] { return have_run({"during50"}); });
    fleet.master.kill();
  }};
  for (int i = 0; fleet.replica.info("replication", "role") != "master"; ++i)
    add("during" + std::to_string(i));
  failover.join();
  CHECK(killed);
  add("after");
  {
    std::lock_guard lock{mutex};
    held = false;
    changed.notify_all();
  }
  CHECK(eventually([&] { return have_run(wanted); }, 60s));
  CHECK(eventually([&] { return producer.queue_info("default").completed == wanted.size(); }, 60s));
  CHECK(producer.queue_info("default").size() == wanted.size());
  server.shutdown();
}

TEST_CASE("the reason why no master is found is reported without a password", "[redis][sentinel]") {
  Fleet fleet;
  auto options = fleet.options();
  SECTION("no such master") {
    options.master_name = "other";
    const auto error = failure(options);
    CHECK(error.errc() == Errc::unavailable);
    CHECK(contains(error, "\"other\""));
  }
  SECTION("no Sentinel") {
    options.addresses.pop_back();
    const auto error = failure(options);
    CHECK(error.errc() == Errc::unavailable);
    CHECK(contains(error, "connection refused"));
  }
  SECTION("a wrong password for the Sentinels") {
    options.addresses.erase(options.addresses.begin());
    options.sentinel_password = "wrong-secret";
    const auto error = failure(options);
    CHECK(error.errc() == Errc::unauthorized);
    CHECK_FALSE(contains(error, "secret"));
  }
  SECTION("a wrong password for the master") {
    options.password = "wrong-secret";
    const auto error = failure(options);
    CHECK(error.errc() == Errc::unauthorized);
    CHECK_FALSE(contains(error, "secret"));
  }
}

TEST_CASE("a master that is known stays in use while no Sentinel answers", "[redis][sentinel]") {
  Fleet fleet;
  Transport transport{fleet.options()};
  transport.run(count("k"));
  fleet.sentinel.reset();
  fleet.master.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
  CHECK(transport.run(count("k"))[0].as_integer() == 2);
}

TEST_CASE("a server that is not a master is not used, even if the Sentinels name it",
          "[redis][sentinel]") {
  Fleet fleet;
  // A Sentinel that monitors a replica as if it were a master: its information is wrong until it
  // notices.
  RedisSentinel wrong{{.master_port = fleet.replica.port(), .master_password = "none"}};
  auto options = fleet.options();
  options.addresses = {{"127.0.0.1", wrong.port()}};
  options.master_name = "mymaster";
  options.sentinel_password = "";
  const auto error = failure(options);
  CHECK(error.errc() == Errc::unavailable);
  CHECK(contains(error, "slave"));
}
