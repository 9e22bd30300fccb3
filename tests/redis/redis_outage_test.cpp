#include <atomic>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

RedisServer::Options replica_of(const RedisServer& master) {
  return {.tcp = true, .arguments = {"--replicaof", "127.0.0.1 " + std::to_string(master.port())}};
}

TEST_CASE("a task that no replica acknowledged is accepted and marked", "[redis][replicas]") {
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

}  // namespace
}  // namespace taskmux::test
