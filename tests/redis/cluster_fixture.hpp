#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>

#include "redis/route/key_slot.hpp"
#include "redis/route/transport.hpp"
#include "support/builders.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"

namespace taskmux::test {

/// Returns a queue that node `node` serves; a different one for each `name`.
inline std::string queue_on(const RedisCluster& cluster, std::size_t node,
                            const std::string& name = "q") {
  for (int i = 0;; ++i) {
    std::string queue = name + std::to_string(i);
    if (cluster.owner_of(redis::slot_of(queue)) == node) return queue;
  }
}

/// A replica of one node of a cluster of three, which all nodes know.
class NodeReplica {
 public:
  NodeReplica(RedisCluster& cluster, std::size_t node) {
    cluster.node(node).command({"CLUSTER", "MEET", "127.0.0.1", std::to_string(server_.port())});
    REQUIRE(eventually([&] {
      return !error_of([&] { server_.command({"CLUSTER", "REPLICATE", cluster.id(node)}); });
    }));
    REQUIRE(eventually([&] { return server_.info("replication", "master_link_status") == "up"; }));
    // A node that has not met the replica would not follow it.
    REQUIRE(eventually([&] {
      for (std::size_t i = 0; i < cluster.size(); ++i)
        if (i != node && !knows_replica(cluster.node(i))) return false;
      return knows_replica(server_);
    }));
  }

  RedisServer& server() noexcept { return server_; }

  /// Promotes it to master, whether the old one is alive or not.
  void take_over() { server_.command({"CLUSTER", "FAILOVER", "TAKEOVER"}); }

 private:
  /// Returns whether a node knows four nodes, one of them as a replica.
  static bool knows_replica(RedisServer& node) {
    const redis::Reply reply = node.command({"CLUSTER", "NODES"});
    const std::string_view nodes = reply.as_string();
    return std::count(nodes.begin(), nodes.end(), '\n') == 4 &&
           nodes.find("handshake") == nodes.npos && nodes.find("slave") != nodes.npos;
  }

  RedisServer server_{
      {.tcp = true, .arguments = {"--cluster-enabled", "yes", "--cluster-node-timeout", "2000"}}};
};

/// Starts the migration of a slot between two nodes; no key has moved yet.
inline void begin_move(RedisCluster& cluster, const std::string& slot, std::size_t from,
                       std::size_t to) {
  cluster.node(to).command({"CLUSTER", "SETSLOT", slot, "IMPORTING", cluster.id(from)});
  cluster.node(from).command({"CLUSTER", "SETSLOT", slot, "MIGRATING", cluster.id(to)});
}

/// Completes the migration of the slot, of which no key is left at `from`; all nodes know.
inline void end_move(RedisCluster& cluster, const std::string& slot, std::size_t from,
                     std::size_t to) {
  const std::string id = cluster.id(to);
  cluster.node(to).command({"CLUSTER", "SETSLOT", slot, "NODE", id});
  cluster.node(from).command({"CLUSTER", "SETSLOT", slot, "NODE", id});
  for (std::size_t i = 0; i < cluster.size(); ++i)
    if (i != from && i != to) cluster.node(i).command({"CLUSTER", "SETSLOT", slot, "NODE", id});
}

}  // namespace taskmux::test
