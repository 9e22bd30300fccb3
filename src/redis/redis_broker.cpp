#include "taskmux/redis/redis_broker.hpp"

#include <algorithm>
#include <chrono>
#include <utility>

#include "redis/call_limit.hpp"
#include "redis/operations.hpp"
#include "redis/options.hpp"
#include "redis/store.hpp"
#include "redis/view.hpp"
#include "redis/watch.hpp"
#include "taskmux/detail/error_text.hpp"

namespace taskmux {
inline namespace v0 {

class RedisBroker::Impl {
 public:
  explicit Impl(RedisOptions options)
      : store_{std::move(options)}, listener_{std::make_unique<redis::Listener>(store_)} {}

  bool in_own_process() const noexcept { return store_.in_own_process(); }
  const RedisOptions& options() const noexcept { return store_.options(); }
  /// For a call: the process is checked first.
  redis::Store& store() {
    store_.check_process();
    return store_;
  }
  redis::Listener& listener() {
    store_.check_process();
    return *listener_;
  }
  redis::Upkeep& upkeep() noexcept { return upkeep_; }

 private:
  redis::Store store_;
  redis::Upkeep upkeep_;
  std::unique_ptr<redis::Listener> listener_;
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
  return redis::enqueue(impl_->store(), std::move(batch));
}

ExchangeReply RedisBroker::exchange(const ExchangeRequest& request) {
  return redis::exchange(impl_->store(), request);
}

std::vector<ExtendReply> RedisBroker::extend(std::span<const ExtendRequest> runs, Duration lease) {
  return redis::extend(impl_->store(), runs, lease);
}

std::unique_ptr<Watch> RedisBroker::watch(std::vector<std::string> queues,
                                          std::function<void(const Hint&)> callback) {
  return impl_->listener().watch(std::move(queues), std::move(callback));
}

UpkeepReply RedisBroker::upkeep(const UpkeepRequest& request) {
  redis::Store& store = impl_->store();
  return impl_->upkeep().step(store, request);
}

void RedisBroker::heartbeat(const ServerInfo& server, Duration lifetime) {
  redis::heartbeat(impl_->store(), server, lifetime);
}

void RedisBroker::retire(const ServerInfo& server) { redis::retire(impl_->store(), server); }

void RedisBroker::ping() { impl_->store().run_one("ping", redis::Store::command({}, {"PING"})); }

OpenReply RedisBroker::open(std::span<const std::string> queues) {
  return redis::open(impl_->store(), queues);
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

Time RedisBroker::now() { return impl_->store().now(); }

std::vector<std::string> RedisBroker::queues() { return redis::queues(impl_->store()); }

QueueInfo RedisBroker::queue_info(std::string_view queue) {
  return redis::queue_info(impl_->store(), queue);
}

std::vector<DailyStats> RedisBroker::history(std::string_view queue, int days) {
  return redis::history(impl_->store(), queue, days);
}

std::vector<TaskInfo> RedisBroker::list(std::string_view queue, TaskState state, Page page) {
  return redis::list(impl_->store(), queue, state, page);
}

std::optional<TaskInfo> RedisBroker::find(std::string_view queue, std::string_view id) {
  return redis::find(impl_->store(), queue, id);
}

std::vector<std::optional<Errc>> RedisBroker::act(std::string_view queue, TaskAction action,
                                                  std::span<const std::string> ids,
                                                  std::optional<TaskState> only) {
  return redis::act(impl_->store(), queue, action, ids, only);
}

std::size_t RedisBroker::act_all(std::string_view queue, TaskAction action, TaskState state,
                                 std::size_t limit) {
  return redis::act_all(impl_->store(), queue, action, state, limit);
}

std::vector<TrimReply> RedisBroker::trim_archives(std::span<const std::string> queues,
                                                  const TrimRequest& request) {
  return redis::trim_archives(impl_->store(), queues, request);
}

void RedisBroker::update_payload(std::string_view queue, std::string_view id, std::string payload) {
  redis::update_payload(impl_->store(), queue, id, payload);
}

void RedisBroker::pause(std::string_view queue) { redis::pause(impl_->store(), queue); }

void RedisBroker::unpause(std::string_view queue) { redis::unpause(impl_->store(), queue); }

void RedisBroker::cancel(std::string_view queue, std::string_view id, CancelMode mode) {
  redis::cancel(impl_->store(), queue, id, mode);
}

void RedisBroker::delete_queue(std::string_view queue, bool force) {
  redis::delete_queue(impl_->store(), queue, force);
}

std::vector<ServerInfo> RedisBroker::servers() { return redis::servers(impl_->store()); }

}  // namespace v0
}  // namespace taskmux
