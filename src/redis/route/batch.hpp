#pragma once

#include <chrono>
#include <span>
#include <vector>

#include "redis/net/line_rate.hpp"
#include "redis/net/reply.hpp"
#include "redis/route/call.hpp"
#include "redis/route/router.hpp"
#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// The replies to a run of calls.
struct WaitedReplies {
  std::vector<Reply> replies{};
  /// For each call, how many replicas had acknowledged it in time; 0 if that is not known (an error
  /// reply, or WAIT was refused).
  std::vector<int> replicas{};
};

/// For how many replicas a run of calls waits; by default for none.
struct ReplicaWait {
  int replicas = 0;
  std::chrono::milliseconds timeout{0};

  bool wanted() const noexcept { return replicas > 0; }
};

/// In command timeouts: a call that keeps transferring bytes is abandoned after this time.
constexpr int longest_call = 4;

/// Runs `calls` once, as described at Transport::run_and_wait(), on the servers that `router`
/// chooses. `line` learns from them how fast the connection is.
WaitedReplies run_batch(Router& router, LineRate& line, const RedisOptions& options,
                        std::span<const Call> calls, ReplicaWait wait);

}  // namespace taskmux::redis
