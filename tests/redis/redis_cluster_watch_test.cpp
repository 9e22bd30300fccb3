#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cluster_fixture.hpp"
#include "redis/net/connection.hpp"
#include "redis/route/key_slot.hpp"
#include "redis/route/transport.hpp"
#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/hint_box.hpp"
#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Names = std::vector<std::string>;

std::string key(const std::string& queue, const std::string& part) {
  return "asynq:{" + queue + "}:" + part;
}

/// A queue on each node of a cluster.
struct ClusterWatchFixture {
  /// Lets the other nodes go on while one is away.
  void allow_gaps() {
    for (std::size_t i = 0; i < cluster.size(); ++i)
      cluster.node(i).command({"CONFIG", "SET", "cluster-require-full-coverage", "no"});
  }

  RedisOptions options() const {
    RedisOptions options = parse_redis_url(cluster.url());
    options.command_timeout = 1s;
    options.reconnect_max = 100ms;
    return options;
  }

  RedisCluster cluster{3};
  const Names queues{queue_on(cluster, 0), queue_on(cluster, 1), queue_on(cluster, 2)};
  HintBox box;
  RedisBroker broker{options()};
  std::unique_ptr<Watch> watch = broker.watch(queues, box.callback());
};

/// Whether a push to `queue` at `server`, watched and empty until then, is told before a poll can
/// be due, half a second after the watch was armed.
bool told_at_once(Watch& watch, HintBox& box, RedisServer& server, const std::string& queue) {
  const auto poll = std::chrono::steady_clock::now() + 490ms;
  bool told = false;
  const auto fault = error_of([&] {
    server.command({"DEL", key(queue, "pending")});
    box.ready(0ms);
    if (watch.arm().ready) return;
    server.command({"LPUSH", key(queue, "pending"), "x"});
    told = box.ready_by(poll);
    server.command({"DEL", key(queue, "pending")});
  });
  return told && !fault;
}

/// Whether in time pushes to `queue` at `server` are told at once. One may be the hint of a
/// connection that was made anew; and there is no telling when the last is made.
bool comes_to_tell(Watch& watch, HintBox& box, RedisServer& server, const std::string& queue) {
  const auto twice = [&] {
    return told_at_once(watch, box, server, queue) && told_at_once(watch, box, server, queue);
  };
  return eventually(twice);
}

std::size_t count_clients(RedisServer& server, std::initializer_list<std::string_view> listing) {
  const redis::Reply reply = server.command(listing);
  const std::string_view list = reply.as_string();
  std::size_t found = 0;
  for (std::size_t at = 0; (at = list.find("name=taskmux", at)) != list.npos; ++at) ++found;
  return found;
}

std::size_t listeners(RedisServer& server) {
  return count_clients(server, {"CLIENT", "LIST", "TYPE", "pubsub"});
}

TEST_CASE("a change of a task is told at once by each node of a cluster", "[redis][cluster]") {
  ClusterWatchFixture t;
  for (std::size_t i = 0; i < t.queues.size(); ++i) {
    HintBox box;
    const auto watch =
        t.broker.watch_tasks(t.queues[i], {"t1"}, [call = box.callback()] { call({}); });
    const auto told = [&] {
      watch->arm();
      t.cluster.node(i).command({"HINCRBY", key(t.queues[i], "t:t1"), "n", "1"});
      return box.ready(490ms);  // No poll is due before.
    };
    // A hint may be that of a connection that was made anew.
    CHECK(eventually([&] { return told() && told(); }));
  }
}

TEST_CASE("in a cluster, a change at any node is reported at once, long before a poll",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  for (std::size_t i = 0; i < t.queues.size(); ++i)
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));
  for (std::size_t i = 0; i < t.queues.size(); ++i) {
    const std::string& queue = t.queues[i];
    RedisServer& node = t.cluster.node(i);
    const std::vector<std::vector<std::string>> changes = {
        {"LPUSH", key(queue, "pending"), "x"},
        {"SET", key(queue, "paused"), "1"},
        {"DEL", key(queue, "paused")},
        {"ZADD", key(queue, "scheduled"), "4000000000", "y"},
        {"ZADD", key(queue, "retry"), "3900000000", "z"},
        {"ZADD", key(queue, "tmx:due"), "3900000000000000", "z"},
        {"EVAL", "redis.call('LPUSH', KEYS[1], 'x')", "1", key(queue, "pending")},
        {"FLUSHALL"},
    };
    for (const auto& change : changes) {
      CAPTURE(i, change.at(0), change.at(1 % change.size()));
      node.command({"DEL", key(queue, "pending")});
      t.box.ready(0ms);
      REQUIRE_FALSE(t.watch->arm().ready);
      node.command(change);
      CHECK(t.box.ready());  // The first poll comes later than this waits.
    }
  }
}

TEST_CASE("in a cluster, watches share two almost idle connections per node",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  Names queues;
  for (int i = 0; i < 30; ++i) queues.push_back("more" + std::to_string(i));
  HintBox other;
  const auto watch = t.broker.watch(queues, other.callback());
  for (std::size_t i = 0; i < t.queues.size(); ++i)
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));
  REQUIRE_FALSE(watch->arm().ready);
  REQUIRE_FALSE(t.watch->arm().ready);
  for (std::size_t i = 0; i < t.queues.size(); ++i) {
    CAPTURE(i);
    CHECK(listeners(t.cluster.node(i)) == 1);
    // The listener, the tracker, and at most one for commands.
    CHECK(count_clients(t.cluster.node(i), {"CLIENT", "LIST"}) <= 3);
    t.cluster.node(i).command({"CONFIG", "RESETSTAT"});
  }
  CHECK_FALSE(t.box.ready(1s));
  CHECK(other.count() == 0);
  for (std::size_t i = 0; i < t.queues.size(); ++i) {
    CAPTURE(i);
    // CONFIG, INFO and at most one of ours.
    CHECK(std::stoi(t.cluster.node(i).info("stats", "total_commands_processed")) <= 3);
  }
}

TEST_CASE("in a cluster, a cancellation is reported once, wherever it was published",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  const auto tell_everywhere = [&] {
    for (std::size_t i = 0; i < t.queues.size(); ++i)
      REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));
  };
  tell_everywhere();
  HintBox box;
  const auto watch = t.broker.watch({t.queues[0]}, box.callback());
  for (std::size_t i = 0; i < t.queues.size(); ++i) {
    const std::string task = "t" + std::to_string(i);
    CAPTURE(task);
    t.cluster.node(i).command({"PUBLISH", "asynq:cancel", task});
    CHECK(box.cancelled(task));
  }
  started(t.broker, message("own", t.queues[1]));
  t.broker.cancel(t.queues[1], "own", CancelMode::retry);
  CHECK(box.cancelled("own"));
  tell_everywhere();  // and so have heard all that came before
  for (const auto* task : {"t0", "t1", "t2", "own"}) {
    CAPTURE(task);
    CHECK(box.cancellations(task) == 1);
  }
}

TEST_CASE("in a cluster, a second cancellation of a task is reported, too",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  for (int i = 0; i < 2; ++i) t.cluster.node(1).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(eventually([&] { return t.box.cancellations("t1") == 2; }));
  CHECK(t.box.cancellations("t1") == 2);
}

TEST_CASE("in a cluster, a node that reports a cancellation seconds late does not repeat it",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  for (std::size_t i = 0; i < t.queues.size(); ++i)
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));
  t.cluster.node(1).pause();
  t.cluster.node(0).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(t.box.cancelled("t1"));
  CHECK_FALSE(t.box.cancelled("none", 2500ms));  // a node that saves, or runs a slow script
  t.cluster.node(1).resume();
  t.cluster.node(1).command({"PUBLISH", "asynq:cancel", "t2"});
  CHECK(t.box.cancelled("t2"));
  CHECK_FALSE(t.box.cancelled("none", 500ms));
  CHECK(t.box.cancellations("t1") == 1);
}

namespace {

/// Hears, after the broker, what cancellations a node tells of.
class Subscriber {
 public:
  explicit Subscriber(const RedisServer& node) : connection_{node.endpoint(), {}, soon()} {
    redis::Commands subscribe;
    connection_.send(subscribe.add({"SUBSCRIBE", "asynq:cancel"}), soon());
    REQUIRE(connection_.receive(soon()));
  }

  bool hears(const std::string& task) {
    const auto notice = connection_.receive(soon());
    return notice && (*notice)[2].as_string() == task;
  }

 private:
  static SteadyTime soon() { return std::chrono::steady_clock::now() + 10s; }

  redis::Connection connection_;
};

}  // namespace

TEST_CASE("in a cluster, a second cancellation is reported even if the first node is lost",
          "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  for (std::size_t i = 0; i < t.queues.size(); ++i)
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));
  Subscriber one{t.cluster.node(1)};
  Subscriber two{t.cluster.node(2)};
  t.cluster.node(0).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(t.box.cancelled("t1"));
  CHECK(one.hears("t1"));
  CHECK(two.hears("t1"));
  t.cluster.node(0).kill();
  t.cluster.node(1).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(eventually([&] { return t.box.cancellations("t1") == 2; }));
}

TEST_CASE("an unavailable node of a cluster does not delay the others", "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  t.allow_gaps();
  RedisServer& away = t.cluster.node(0);
  for (std::size_t i = 0; i < t.queues.size(); ++i)
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(i), t.queues[i]));

  t.box.ready(0ms);
  REQUIRE_FALSE(t.watch->arm().ready);
  bool killed = false;
  SECTION("it died") {
    killed = true;
    away.kill();
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(1), t.queues[1]));
  }
  SECTION("it does not answer") {
    away.pause();
    t.cluster.node(1).command({"LPUSH", key(t.queues[1], "pending"), "x"});
    CHECK(t.box.ready());
    t.cluster.node(1).command({"DEL", key(t.queues[1], "pending")});
    // Once it is known to be away, asking it takes no time.
    REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(1), t.queues[1]));
  }
  CHECK(comes_to_tell(*t.watch, t.box, t.cluster.node(2), t.queues[2]));
  t.cluster.node(1).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(t.box.cancelled("t1"));

  // Its own queue is polled.
  t.box.ready(0ms);
  CHECK_FALSE(t.watch->arm().ready);
  CHECK(t.box.ready());

  if (killed) {
    away.start();
  } else {
    away.resume();
  }
  CHECK(comes_to_tell(*t.watch, t.box, away, t.queues[0]));
  CHECK(comes_to_tell(*t.watch, t.box, t.cluster.node(1), t.queues[1]));
}

TEST_CASE("if a node of a cluster refuses tracking, only its queues are polled",
          "[redis][cluster][watch]") {
  RedisCluster cluster{3};
  cluster.node(1).command({"ACL", "SETUSER", "default", "-client|tracking"});
  RedisBroker broker{cluster.url()};
  const std::string tracked = queue_on(cluster, 0);
  const std::string polled = queue_on(cluster, 1);
  HintBox tracked_box;
  HintBox polled_box;
  HintBox both_box;
  const auto tracked_watch = broker.watch({tracked}, tracked_box.callback());
  const auto polled_watch = broker.watch({polled}, polled_box.callback());
  const auto both_watch = broker.watch({tracked, polled}, both_box.callback());
  REQUIRE(comes_to_tell(*tracked_watch, tracked_box, cluster.node(0), tracked));
  REQUIRE(comes_to_tell(*both_watch, both_box, cluster.node(0), tracked));

  polled_box.ready(0ms);
  tracked_box.ready(0ms);
  CHECK_FALSE(polled_watch->arm().ready);
  CHECK_FALSE(tracked_watch->arm().ready);
  CHECK(polled_box.ready());
  CHECK(tracked_box.count() == 0);
  enqueue(broker, message("t1", polled));
  CHECK(polled_watch->arm().ready);
}

TEST_CASE("watches continue with the replica of a node that died", "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  NodeReplica replica{t.cluster, 0};
  HintBox box;
  const auto watch = t.broker.watch({t.queues[0]}, box.callback());
  REQUIRE(comes_to_tell(*watch, box, t.cluster.node(0), t.queues[0]));
  REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(0), t.queues[0]));
  SECTION("the node died") { t.cluster.node(0).kill(); }
  SECTION("the node lives on, as a replica") {}
  replica.take_over();
  CHECK(comes_to_tell(*watch, box, replica.server(), t.queues[0]));
  CHECK(comes_to_tell(*t.watch, t.box, replica.server(), t.queues[0]));
  CHECK(comes_to_tell(*t.watch, t.box, t.cluster.node(1), t.queues[1]));
  t.cluster.node(1).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(box.cancelled("t1"));
}

TEST_CASE("watches follow a slot to another node, and leave a node without slots",
          "[redis][cluster][watch]") {
  RedisCluster cluster{3};
  RedisBroker broker{cluster.url()};
  const std::string queue = queue_on(cluster, 0);
  const std::string slot = std::to_string(redis::slot_of(queue));
  HintBox box;
  const auto watch = broker.watch({queue}, box.callback());
  for (const std::size_t from : {0u, 1u}) {
    CAPTURE(from);
    const std::size_t to = 1 - from;
    REQUIRE(comes_to_tell(*watch, box, cluster.node(from), queue));
    begin_move(cluster, slot, from, to);
    end_move(cluster, slot, from, to);
    CHECK(comes_to_tell(*watch, box, cluster.node(to), queue));
    CHECK(eventually([&] { return listeners(cluster.node(from)) == 0; }));
    CHECK(listeners(cluster.node(to)) == 1);
    const std::string task = "t" + std::to_string(from);
    cluster.node(from).command({"PUBLISH", "asynq:cancel", task});
    CHECK(box.cancelled(task));
  }
}

TEST_CASE("an armed watch learns of a moved slot from any call", "[redis][cluster][watch]") {
  ClusterWatchFixture t;
  const std::string slot = std::to_string(redis::slot_of(t.queues[0]));
  REQUIRE(comes_to_tell(*t.watch, t.box, t.cluster.node(0), t.queues[0]));
  t.box.ready(0ms);
  REQUIRE_FALSE(t.watch->arm().ready);
  begin_move(t.cluster, slot, 0, 1);
  end_move(t.cluster, slot, 0, 1);
  upkeep(t.broker, t.queues[0]);
  CHECK(t.box.ready());
}

TEST_CASE("a watch of no queues receives cancellations", "[redis][cluster][watch]") {
  RedisCluster cluster{3};
  RedisBroker broker{cluster.url()};
  HintBox box;
  const auto watch = broker.watch({}, box.callback());
  CHECK_FALSE(watch->arm().ready);
  cluster.node(2).command({"PUBLISH", "asynq:cancel", "t1"});
  CHECK(box.cancelled("t1"));
}

}  // namespace
}  // namespace taskmux::test
