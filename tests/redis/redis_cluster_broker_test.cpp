#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <string>
#include <vector>

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
  for (const ExtendReply& extended : t.broker.extend(reply.runs, 20s)) {
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
  CHECK(t.view.history("a", 2).at(0).failed == 1);
  t.broker.heartbeat({.host = "h", .pid = 1, .id = "s1"}, 60s);
  CHECK(t.view.servers().size() == 1);
  t.broker.retire({.host = "h", .pid = 1, .id = "s1"});
  for (const std::string& queue : t.queues) t.view.delete_queue(queue, true);
  CHECK(t.view.queues().empty());
  for (std::size_t i = 0; i < t.cluster.size(); ++i) {
    CHECK(t.cluster.node(i).command({"DBSIZE"}).as_integer() == 0);
  }
}

TEST_CASE("in a cluster, what one queue can't give is taken from the others", "[redis][cluster]") {
  ClusterFixture t;
  t.broker.enqueue(many("x", 10, "e"));
  t.broker.enqueue(many("y", 10, "b"));
  const ExchangeReply reply = t.broker.exchange({.quotas = t.quotas(2)});
  CHECK(reply.runs.size() == 12);
  CHECK(reply.runs.front().message->queue == "b");
  CHECK(reply.more);
}

TEST_CASE("in a cluster, watches are polled, and cancellations come at once", "[redis][cluster]") {
  ClusterFixture t;
  std::mutex mutex;
  std::condition_variable arrived;
  bool ready = false;
  bool cancelled = false;
  const auto watch = t.broker.watch(t.queues, [&](const Hint& hint) {
    std::lock_guard lock{mutex};
    (hint.kind == Hint::Kind::ready ? ready : cancelled) = true;
    arrived.notify_all();
  });
  CHECK_FALSE(watch->arm().ready);
  started(t.broker, message("t1", "c"));
  t.view.cancel("c", "t1", CancelMode::drop);
  std::unique_lock lock{mutex};
  CHECK(arrived.wait_for(lock, 10s, [&] { return ready && cancelled; }));
  lock.unlock();
  enqueue(t.broker, message("t2", "f"));
  CHECK(watch->arm().ready);
}

}  // namespace
}  // namespace taskmux::test
