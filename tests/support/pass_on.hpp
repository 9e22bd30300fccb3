#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"

namespace taskmux::test {

/// Passes every call on to another broker: to be derived from, for a broker that differs in one.
class PassOn : public Broker {
 public:
  explicit PassOn(Broker& broker) : broker_{broker} {}

  std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) override {
    return broker_.enqueue(std::move(batch));
  }
  ExchangeReply exchange(const ExchangeRequest& request) override {
    return broker_.exchange(request);
  }
  std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override {
    return broker_.extend(runs, lease);
  }
  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback) override {
    return broker_.watch(std::move(queues), std::move(callback));
  }
  UpkeepReply upkeep(const UpkeepRequest& request) override { return broker_.upkeep(request); }
  void heartbeat(const ServerInfo& server, Duration lifetime) override {
    broker_.heartbeat(server, lifetime);
  }
  void retire(const ServerInfo& server) override { broker_.retire(server); }
  void ping() override { broker_.ping(); }
  OpenReply open(std::span<const std::string> queues) override { return broker_.open(queues); }
  void limit_calls_of_this_thread(const CallLimit* limit) noexcept override {
    broker_.limit_calls_of_this_thread(limit);
  }
  Duration shortest_lease() const override { return broker_.shortest_lease(); }
  std::string why_shortest_lease() const override { return broker_.why_shortest_lease(); }
  std::string describe() const override { return broker_.describe(); }
  Logger logger() const override { return broker_.logger(); }
  QueueView& queue_view() override { return broker_.queue_view(); }

 private:
  Broker& broker_;
};

}  // namespace taskmux::test
