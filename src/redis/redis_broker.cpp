#include "taskmux/redis/redis_broker.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "redis/net/call_limit.hpp"
#include "redis/ops/operations.hpp"
#include "redis/ops/registry.hpp"
#include "redis/ops/view.hpp"
#include "redis/options.hpp"
#include "redis/session/session.hpp"
#include "redis/watch/watch_hub.hpp"
#include "taskmux/detail/base/error_text.hpp"

namespace taskmux {
inline namespace v0 {

class RedisBroker::Impl {
 public:
  explicit Impl(RedisOptions options)
      : session_{std::move(options)}, watch_hub_{std::make_unique<redis::WatchHub>(session_)} {}

  bool in_own_process() const noexcept { return session_.in_own_process(); }
  const RedisOptions& options() const noexcept { return session_.options(); }
  /// For a call: the process is checked first.
  redis::Session& session() {
    session_.check_process();
    return session_;
  }
  redis::WatchHub& watch_hub() {
    session_.check_process();
    return *watch_hub_;
  }
  redis::Upkeep& upkeep() noexcept { return upkeep_; }

 private:
  redis::Session session_;
  std::unique_ptr<redis::WatchHub> watch_hub_;
  redis::Upkeep upkeep_{*watch_hub_};
};

RedisBroker::RedisBroker(RedisOptions options, detail::ThisRedisLibrary)
    : impl_{std::make_unique<Impl>(std::move(options))} {}
RedisBroker::RedisBroker(std::string_view url, detail::ThisRedisLibrary library)
    : RedisBroker{parse_redis_url(url), library} {}
RedisBroker::~RedisBroker() {
  // In a forked child its threads do not exist, its locks may be held for ever, and its connections
  // are the parent's.
  if (!impl_->in_own_process()) static_cast<void>(impl_.release());
}

std::vector<EnqueueReply> RedisBroker::enqueue(std::vector<EnqueueRequest> batch) {
  return redis::enqueue(impl_->session(), std::move(batch));
}

ExchangeReply RedisBroker::exchange(const ExchangeRequest& request) {
  return redis::exchange(impl_->session(), request);
}

std::vector<ExtendReply> RedisBroker::extend(std::span<const ExtendRequest> runs, Duration lease) {
  return redis::extend(impl_->session(), runs, lease);
}

std::unique_ptr<Watch> RedisBroker::watch(std::vector<std::string> queues,
                                          std::function<void(const Hint&)> callback) {
  return impl_->watch_hub().watch(std::move(queues), std::move(callback));
}

UpkeepReply RedisBroker::upkeep(const UpkeepRequest& request) {
  redis::Session& session = impl_->session();
  return impl_->upkeep().step(session, request);
}

void RedisBroker::ping() { impl_->session().run_one("ping", redis::Session::command({}, {"PING"})); }

OpenReply RedisBroker::open(std::span<const std::string> queues) {
  return redis::open(impl_->session(), queues);
}

void RedisBroker::limit_calls_of_this_thread(const CallLimit* limit) noexcept {
  redis::limit_calls_of_this_thread(limit);
}

std::string RedisBroker::describe() const { return redis::describe(impl_->options()); }

Logger RedisBroker::logger() const { return impl_->options().logger; }

Duration RedisBroker::shortest_lease() const {
  return std::max<Duration>(std::chrono::seconds{5}, 3 * impl_->options().command_timeout);
}

std::string RedisBroker::why_shortest_lease() const {
  const Duration timeout = impl_->options().command_timeout;
  if (3 * timeout <= shortest_lease() && shortest_lease() <= std::chrono::seconds{5}) return {};
  return "three times RedisOptions::command_timeout, which is " + detail::in_words(timeout) +
         ": lengthen the lease or shorten that timeout";
}

Time RedisBroker::now() { return impl_->session().now(); }

std::vector<std::string> RedisBroker::queues() { return redis::queues(impl_->session()); }

std::vector<QueueInfoReply> RedisBroker::queue_infos(std::span<const std::string> queues) {
  return redis::queue_infos(impl_->session(), queues);
}

std::vector<DailyStats> RedisBroker::history(std::string_view queue, int days) {
  return redis::history(impl_->session(), queue, days);
}

std::vector<GroupInfo> RedisBroker::groups(std::string_view queue) {
  return redis::groups(impl_->session(), queue);
}

TaskPage RedisBroker::list(const ListRequest& request) {
  return redis::list(impl_->session(), request);
}

std::optional<TaskInfo> RedisBroker::find(std::string_view queue, std::string_view id) {
  return redis::find(impl_->session(), queue, id);
}

std::vector<TaskStatus> RedisBroker::states(std::string_view queue,
                                            std::span<const std::string> ids) {
  return redis::states(impl_->session(), queue, ids);
}

std::unique_ptr<TaskWatch> RedisBroker::watch_tasks(std::string_view queue,
                                                    std::vector<std::string> ids,
                                                    std::function<void()> callback) {
  return impl_->watch_hub().watch_tasks(queue, std::move(ids), std::move(callback));
}

std::vector<ActReply> RedisBroker::act(const ActRequest& request) {
  return redis::act(impl_->session(), request);
}

std::size_t RedisBroker::act_all(std::string_view queue, TaskAction action, TaskState state,
                                 std::size_t limit) {
  return redis::act_all(impl_->session(), queue, action, state, limit);
}

std::vector<TrimReply> RedisBroker::trim_archives(std::span<const std::string> queues,
                                                  const TrimRequest& request) {
  return redis::trim_archives(impl_->session(), queues, request);
}

void RedisBroker::update_payload(std::string_view queue, std::string_view id, std::string payload) {
  redis::update_payload(impl_->session(), queue, id, payload);
}

void RedisBroker::pause(std::string_view queue) { redis::pause(impl_->session(), queue); }

void RedisBroker::unpause(std::string_view queue) { redis::unpause(impl_->session(), queue); }

void RedisBroker::cancel(std::string_view queue, std::string_view id, CancelMode mode) {
  redis::cancel(impl_->session(), queue, id, mode);
}

void RedisBroker::delete_queue(std::string_view queue, bool force) {
  redis::delete_queue(impl_->session(), queue, force);
}

void RedisBroker::announce(const ServerInfo& server, Duration lifetime) {
  redis::announce(impl_->session(), server, lifetime);
}

void RedisBroker::retire(const ServerInfo& server) { redis::retire(impl_->session(), server); }

std::vector<ServerInfo> RedisBroker::servers() { return redis::servers(impl_->session()); }

}  // namespace v0
}  // namespace taskmux
