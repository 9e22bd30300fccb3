#include "redis/route/transport.hpp"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "redis/net/call_limit.hpp"
#include "redis/net/pool.hpp"
#include "redis/options.hpp"
#include "redis/route/router.hpp"

namespace taskmux::redis {

using std::chrono::steady_clock;
Transport::Transport(RedisOptions options) : options_{std::move(options)}, process_{getpid()} {
  check(options_);
  router_ = make_router(options_, epoch_);
}

Transport::~Transport() = default;

std::vector<Reply> Transport::run(std::span<const Call> calls) {
  require_time();
  return run_batch(*router_, line_, options_, calls, {}).replies;
}

WaitedReplies Transport::run_and_wait(std::span<const Call> calls, int replicas,
                                      std::chrono::milliseconds timeout) {
  require_time();
  // Redis treats a timeout of 0 as no timeout.
  timeout = std::max(timeout, std::chrono::milliseconds{1});
  return run_batch(*router_, line_, options_, calls, {replicas, timeout});
}

Reply Transport::run_one(std::string_view operation, const Call& call) {
  auto replies = run({&call, 1});
  throw_if_error(operation, replies.front());
  return std::move(replies.front());
}

std::string Transport::node_of(std::string_view slot_key) {
  require_same_process();
  const auto pool = router_->pool_for(slot_key, steady_clock::now() + options_.connect_timeout);
  if (pool) return pool->name();
  router_->doubt();
  throw Error{Errc::unavailable, "connect to Redis: no node of the cluster serves the slot of \"" +
                                     printable(slot_key) + "\""};
}

std::unique_ptr<Connection> Transport::dedicate(std::string_view node) {
  require_same_process();
  const auto pool = router_->pool_named(node);
  if (!pool)
    throw Error{Errc::unavailable, "connect to Redis at " + std::string{node} +
                                       ": it is no node of the cluster any more"};
  return pool->connect(steady_clock::now() + options_.connect_timeout);
}

void Transport::report_lost(const Connection& connection, std::string_view cause) {
  require_same_process();
  const auto pool = router_->pool_of(connection);
  if (pool && !pool->holds(connection)) return;
  router_->doubt();
  if (pool) pool->lost(cause);
}

bool Transport::holds(const Connection& connection) {
  require_same_process();
  return router_->holds(connection);
}

SteadyTime Transport::command_deadline() const {
  return steady_clock::now() + options_.command_timeout;
}

/// A call that is abandoned before it begins says nothing about the server.
void Transport::require_time() const {
  require_same_process();
  if (is_over(SteadyTime::max()))
    throw Error{Errc::unavailable, "call to Redis: abandoned, since its time had already elapsed"};
}

void Transport::require_same_process() const {
  if (getpid() != process_)
    throw Error{Errc::forked, "call to Redis: the broker was made before fork(), in the parent process"};
}

}  // namespace taskmux::redis
