#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"

namespace taskmux {
inline namespace v0 {

/// Forwards every operation of Broker, QueueView and Registry to another broker. Derive from it to
/// override some of them: to count calls, to make them fail in a test, to check what is enqueued.
/// Operations that are added to the ports later are forwarded, too.
///
/// The other broker must outlive it. Thread-safe if the derived class is.
class TASKMUX_API BrokerWrapper : public Broker, public QueueView, public Registry {
 public:
  explicit BrokerWrapper(Broker& target) : target_{target} {}

  /// Returns the broker that calls are forwarded to.
  Broker& target() const noexcept { return target_; }

  // Broker

  std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) override {
    return target_.enqueue(std::move(batch));
  }
  ExchangeReply exchange(const ExchangeRequest& request) override {
    return target_.exchange(request);
  }
  std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override {
    return target_.extend(runs, lease);
  }
  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback) override {
    return target_.watch(std::move(queues), std::move(callback));
  }
  UpkeepReply upkeep(const UpkeepRequest& request) override { return target_.upkeep(request); }
  void ping() override { target_.ping(); }
  OpenReply open(std::span<const std::string> queues) override { return target_.open(queues); }
  void limit_calls_of_this_thread(const CallLimit* limit) noexcept override {
    target_.limit_calls_of_this_thread(limit);
  }
  Duration shortest_lease() const override { return target_.shortest_lease(); }
  std::string why_shortest_lease() const override { return target_.why_shortest_lease(); }
  std::string describe() const override { return target_.describe(); }
  Logger logger() const override { return target_.logger(); }
  Registry& registry() override { return *this; }
  /// Returns this object. Throws if the other broker has no queue view.
  QueueView& queue_view() override {
    static_cast<void>(target_.queue_view());
    return *this;
  }

  // QueueView. Each throws Error{unsupported} if the other broker has no queue view.

  Time now() override { return view().now(); }
  std::vector<std::string> queues() override { return view().queues(); }
  std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues) override {
    return view().queue_infos(queues);
  }
  std::vector<DailyStats> history(std::string_view queue, int days) override {
    return view().history(queue, days);
  }
  std::vector<GroupInfo> groups(std::string_view queue) override { return view().groups(queue); }
  TaskPage list(const ListRequest& request) override { return view().list(request); }
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id) override {
    return view().find(queue, id);
  }
  std::vector<TaskStatus> states(std::string_view queue,
                                 std::span<const std::string> ids) override {
    return view().states(queue, ids);
  }
  std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue, std::vector<std::string> ids,
                                         std::function<void()> callback) override {
    return view().watch_tasks(queue, std::move(ids), std::move(callback));
  }
  std::vector<ActReply> act(const ActRequest& request) override { return view().act(request); }
  std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                      std::size_t limit) override {
    return view().act_all(queue, action, state, limit);
  }
  std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                       const TrimRequest& request) override {
    return view().trim_archives(queues, request);
  }
  void update_payload(std::string_view queue, std::string_view id, std::string payload) override {
    view().update_payload(queue, id, std::move(payload));
  }
  void pause(std::string_view queue) override { view().pause(queue); }
  void unpause(std::string_view queue) override { view().unpause(queue); }
  void cancel(std::string_view queue, std::string_view id, CancelMode mode) override {
    view().cancel(queue, id, mode);
  }
  void delete_queue(std::string_view queue, bool force) override {
    view().delete_queue(queue, force);
  }

  // Registry

  void announce(const ServerInfo& server, Duration lifetime) override {
    target_.registry().announce(server, lifetime);
  }
  void retire(const ServerInfo& server) override { target_.registry().retire(server); }
  std::vector<ServerInfo> servers() override { return target_.registry().servers(); }

 private:
  QueueView& view() const { return target_.queue_view(); }

  Broker& target_;
};

}  // namespace v0
}  // namespace taskmux
