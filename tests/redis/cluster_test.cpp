#include <chrono>
#include <string>
#include <vector>

#include "redis/route/key_slot.hpp"
#include "redis/route/transport.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

const Script look{"look", "return redis.call('GET', ARGV[1])"};
const Script increment{"increment", "return redis.call('INCRBY', KEYS[1], ARGV[1])"};

Call add_to(const std::string& key, int number) {
  return {.slot_key = key, .script = &increment, .args = {"1", key, std::to_string(number)}};
}

Call get(const std::string& key) { return {.slot_key = key, .args = {"GET", key}}; }

/// A key that `node` serves; another one for each `name`.
std::string key_on(const RedisCluster& cluster, std::size_t node, const std::string& name) {
  for (int i = 0;; ++i) {
    auto key = "q:{" + name + std::to_string(i) + "}";
    if (cluster.owner_of(slot_of(key)) == node) return key;
  }
}

RedisOptions options_for(const RedisCluster& cluster) {
  auto options = parse_redis_url(cluster.url());
  options.addresses.insert(options.addresses.begin(), {"127.0.0.1", free_port()});  // a dead seed
  options.reconnect_min = 20ms;
  options.reconnect_max = 100ms;
  return options;
}

std::string redirections(RedisServer& node, const std::string& code) {
  return node.info("errorstats", "errorstat_" + code);
}

}  // namespace

TEST_CASE("a key's slot is the one that Redis Cluster computes", "[redis][cluster]") {
  CHECK(slot_of("123456789") == 12739);
  CHECK(slot_of("foo") == 12182);
  CHECK(slot_of("asynq:{default}:pending") == slot_of("default"));
  CHECK(slot_of("{user1000}.following") == slot_of("{user1000}.followers"));
  CHECK(slot_of("foo{}{bar}") != slot_of("bar"));
  CHECK(slot_of("foo{{bar}}zap") == slot_of("{bar"));
  CHECK(slot_of("foo{bar}{zap}") == slot_of("bar"));
  CHECK(slot_of("") == 0);
}

TEST_CASE("calls go to the nodes that serve their keys, and follow a slot that moves",
          "[redis][cluster]") {
  RedisCluster cluster;
  Transport transport{options_for(cluster)};

  std::vector<Call> calls;
  for (std::size_t node = 0; node < 3; ++node) {
    calls.push_back(add_to(key_on(cluster, node, "a"), 1));
    calls.push_back(add_to(key_on(cluster, node, "b"), 2));
    calls.push_back(get(key_on(cluster, node, "a")));
  }
  calls.push_back({.args = {"PING"}});
  for (int round = 1; round <= 3; ++round) {
    const auto replies = transport.run(calls);
    REQUIRE(replies.size() == calls.size());
    for (std::size_t node = 0; node < 3; ++node) {
      CHECK(replies[3 * node].as_integer() == round);
      CHECK(replies[3 * node + 1].as_integer() == 2 * round);
      CHECK(replies[3 * node + 2].as_number() == round);
    }
    CHECK(replies.back().as_string() == "PONG");
  }
  for (std::size_t node = 0; node < 3; ++node) {
    CHECK(redirections(cluster.node(node), "MOVED").empty());
    CHECK(cluster.node(node).info("commandstats", "cmdstat_script|load").starts_with("calls=1,"));
  }
  CHECK(transport.node_of(key_on(cluster, 0, "a")) == transport.node_of(key_on(cluster, 0, "b")));
  CHECK(transport.node_of(key_on(cluster, 0, "a")) != transport.node_of(key_on(cluster, 1, "a")));
  const auto own = transport.dedicate(transport.node_of(key_on(cluster, 2, "a")));
  CHECK(own->endpoint().port == cluster.node(2).port());

  const auto moving = key_on(cluster, 0, "moving");
  const auto slot = std::to_string(slot_of(moving));
  const auto staying = moving + ":staying";
  transport.run(std::vector<Call>{add_to(staying, 1)});
  const auto from = cluster.id(0);
  const auto to = cluster.id(1);

  // During a migration, keys that the old node does not have are requested from the new one; but a
  // script, whose keys may be on both, waits until they are on one.
  cluster.node(1).command({"CLUSTER", "SETSLOT", slot, "IMPORTING", from});
  cluster.node(0).command({"CLUSTER", "SETSLOT", slot, "MIGRATING", to});
  const auto asked = transport.run(
      std::vector<Call>{add_to(moving, 5), add_to(key_on(cluster, 0, "a"), 1),
                        Call{.slot_key = moving, .args = {"INCRBY", moving, "5"}}, get(moving)});
  CHECK(errc_of(asked[0]) == Errc::unavailable);
  // The same holds for a script of which only the first key is here; the node can still be used.
  const auto calm = transport.epoch();
  const auto halves = transport.run(std::vector<Call>{
      {.slot_key = staying, .script = &look, .args = {"1", staying, staying}},
      {.slot_key = staying, .script = &look, .args = {"1", staying, moving + ":absent"}}});
  CHECK(halves[0].as_string() == "1");
  CHECK(errc_of(halves[1]) == Errc::unavailable);
  CHECK(transport.epoch() == calm);
  cluster.node(0).command({"DEL", staying});
  CHECK(asked[1].as_integer() == 4);
  CHECK(asked[2].as_integer() == 5);
  CHECK(asked[3].as_string() == "5");
  CHECK(redirections(cluster.node(0), "ASK") == "count=3");

  // After the migration: one redirection, and then everybody knows.
  const auto before = transport.epoch();
  for (const std::size_t node : {1u, 0u, 2u})
    cluster.node(node).command({"CLUSTER", "SETSLOT", slot, "NODE", to});
  for (int i = 6; i < 10; ++i)
    CHECK(transport.run(std::vector<Call>{add_to(moving, 1)})[0].as_integer() == i);
  CHECK(redirections(cluster.node(0), "MOVED") == "count=1");
  CHECK(transport.node_of(moving) == transport.node_of(key_on(cluster, 1, "a")));
  CHECK(transport.epoch() > before);  // another master owns it

  const auto stable = transport.epoch();
  transport.run(calls);
  CHECK(transport.epoch() == stable);

  const auto waited = transport.run_and_wait(calls, 1, 10ms);
  CHECK(waited.replicas == std::vector<int>(calls.size(), 0));
}

TEST_CASE("an unavailable node fails only its own calls, until the cluster is down",
          "[redis][cluster]") {
  RedisCluster cluster;
  Transport transport{options_for(cluster)};
  const std::vector<Call> calls{add_to(key_on(cluster, 0, "a"), 1),
                                add_to(key_on(cluster, 2, "a"), 1),
                                add_to(key_on(cluster, 1, "a"), 1)};
  transport.run(calls);
  const auto before = transport.epoch();

  cluster.node(2).kill();
  const auto replies = transport.run(calls);
  CHECK(replies[0].as_integer() == 2);
  CHECK(errc_of(replies[1]) == Errc::unavailable);
  CHECK(replies[1].error_code() == lost_code);
  CHECK(replies[2].as_integer() == 2);
  CHECK(transport.epoch() > before);
  CHECK_THROWS_AS(transport.run(std::vector<Call>{calls[1]}), Error);

  // The nodes agree that it is down, and refuse all calls.
  CHECK(eventually([&] {
    const auto refused = transport.run(calls);
    return refused[0].is_error() && refused[0].error_code() == "CLUSTERDOWN" &&
           errc_of(refused[0]) == Errc::unavailable;
  }));

  cluster.node(2).start();
  CHECK(eventually([&] {
    for (const auto& reply : transport.run(calls))
      if (reply.is_error()) return false;
    return true;
  }));
}
