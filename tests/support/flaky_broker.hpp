#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/broker_wrapper.hpp"
#include "taskmux/error.hpp"

namespace taskmux::test {

/// Wraps a broker and fails on demand: calls that never reach it, replies that are lost after it
/// has acted, and calls that hang. Failures are requested per operation, for a number of its next
/// calls; a call applies them in this order: held, failed, reply lost. All other calls are
/// forwarded. Thread-safe.
class FlakyBroker final : public BrokerWrapper {
 public:
  enum class Operation { enqueue, exchange, extend, watch, arm, upkeep, announce, retire, ping };

  /// All calls fail until this is switched off.
  static constexpr std::size_t always = static_cast<std::size_t>(-1);

  using BrokerWrapper::BrokerWrapper;

  /// The next `calls` fail with Errc::unavailable and don't reach the broker.
  void fail(Operation operation, std::size_t calls = always) {
    const std::lock_guard lock{mutex_};
    plan(operation).fail = calls;
  }

  /// The next `calls` reach the broker, but their replies are lost: Errc::unavailable.
  void lose_reply(Operation operation, std::size_t calls = always) {
    const std::lock_guard lock{mutex_};
    plan(operation).lose = calls;
  }

  /// The next exchange fails with Errc::unavailable, and reaches the broker only when
  /// carry_out_late() is called, as if the server was stuck.
  void delay_exchange() {
    const std::lock_guard lock{mutex_};
    delay_ = true;
  }
  void carry_out_late() {
    std::optional<LateExchange> late;
    {
      const std::lock_guard lock{mutex_};
      late.swap(late_);
    }
    target().exchange({.settlements = late.value().settlements,
                       .quotas = late->quotas,
                       .free_workers = late->free_workers,
                       .lease = late->lease,
                       .token_block = late->token_block});
  }

  /// The next `calls` hang until release(), before they reach the broker.
  void hold(Operation operation, std::size_t calls = always) {
    const std::lock_guard lock{mutex_};
    plan(operation).hold = calls;
  }

  /// Waits until `calls` calls of the operation hang.
  void wait_held(Operation operation, std::size_t calls = 1) {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return plan(operation).held >= calls; });
  }

  /// Releases the calls that hang, and holds no more.
  void release(Operation operation) {
    const std::lock_guard lock{mutex_};
    plan(operation).hold = 0;
    ++plan(operation).releases;
    changed_.notify_all();
  }

  /// Cancels all requested failures of all operations.
  void recover() {
    const std::lock_guard lock{mutex_};
    for (Plan& plan : plans_) {
      plan.fail = plan.lose = plan.hold = 0;
      ++plan.releases;
    }
    changed_.notify_all();
  }

  /// Returns the number of calls, including failed ones.
  std::size_t calls(Operation operation) {
    const std::lock_guard lock{mutex_};
    return plan(operation).calls;
  }

  /// Waits until there were `count` calls in all.
  void wait_calls(Operation operation, std::size_t count) {
    std::unique_lock lock{mutex_};
    changed_.wait(lock, [&] { return plan(operation).calls >= count; });
  }

  std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) override {
    const std::size_t size = batch.size();
    const Fate fate = begin(Operation::enqueue);
    if (fate == Fate::fails) return unknown(size);
    std::vector<EnqueueReply> replies = target().enqueue(std::move(batch));
    return fate == Fate::loses_reply ? unknown(size) : replies;
  }

  ExchangeReply exchange(const ExchangeRequest& request) override {
    if (delays(request)) {
      begin(Operation::exchange);
      throw Error{Errc::unavailable, "flaky broker: no answer in time"};
    }
    ExchangeReply reply = pass(Operation::exchange, [&] { return target().exchange(request); });
    const std::lock_guard lock{mutex_};
    for (const LostTake& lost : request.lost_takes) {
      if (!late_ || late_->token_block != lost.token_block) continue;
      reply.lost_takes.push_back(lost);
      reply.lost_takes.back().answered = true;
    }
    return reply;
  }

  std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override {
    return pass(Operation::extend, [&] { return target().extend(runs, lease); });
  }

  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback) override {
    auto inner = pass(Operation::watch,
                      [&] { return target().watch(std::move(queues), std::move(callback)); });
    return std::make_unique<FlakyWatch>(*this, std::move(inner));
  }

  UpkeepReply upkeep(const UpkeepRequest& request) override {
    return pass(Operation::upkeep, [&] { return target().upkeep(request); });
  }

  void announce(const ServerInfo& server, Duration lifetime) override {
    pass(Operation::announce, [&] { BrokerWrapper::announce(server, lifetime); });
  }

  void retire(const ServerInfo& server) override {
    pass(Operation::retire, [&] { BrokerWrapper::retire(server); });
  }

  void ping() override {
    pass(Operation::ping, [&] { target().ping(); });
  }

  OpenReply open(std::span<const std::string> queues) override {
    OpenReply reply;
    pass(Operation::ping, [&] { reply = target().open(queues); });
    return reply;
  }

 private:
  enum class Fate { passes, fails, loses_reply };

  struct Plan {
    std::size_t fail = 0;
    std::size_t lose = 0;
    std::size_t hold = 0;
    std::size_t held = 0;      // calls that hang now
    std::size_t releases = 0;  // so far
    std::size_t calls = 0;
  };

  struct LateExchange {
    std::vector<Settlement> settlements;
    std::vector<QueueQuota> quotas;
    std::size_t free_workers;
    Duration lease;
    std::uint64_t token_block;
  };

  bool delays(const ExchangeRequest& request) {
    const std::lock_guard lock{mutex_};
    if (!std::exchange(delay_, false)) return false;
    late_ = LateExchange{{request.settlements.begin(), request.settlements.end()},
                         {request.quotas.begin(), request.quotas.end()},
                         request.free_workers,
                         request.lease,
                         request.token_block};
    return true;
  }

  class FlakyWatch final : public Watch {
   public:
    FlakyWatch(FlakyBroker& broker, std::unique_ptr<Watch> inner)
        : broker_{broker}, inner_{std::move(inner)} {}
    State arm() override {
      return broker_.pass(Operation::arm, [&] { return inner_->arm(); });
    }
    State rearm() override {
      return broker_.pass(Operation::arm, [&] { return inner_->rearm(); });
    }

   private:
    FlakyBroker& broker_;
    const std::unique_ptr<Watch> inner_;
  };

  Plan& plan(Operation operation) { return plans_[static_cast<std::size_t>(operation)]; }

  /// Consumes one of `calls`; returns false if none is left.
  static bool take(std::size_t& calls) {
    if (calls == 0) return false;
    if (calls != always) --calls;
    return true;
  }

  /// Counts a call, holds it if requested, and returns how it must fail.
  Fate begin(Operation operation) {
    std::unique_lock lock{mutex_};
    Plan& mine = plan(operation);
    ++mine.calls;
    changed_.notify_all();
    if (take(mine.hold)) {
      ++mine.held;
      const std::size_t before = mine.releases;
      changed_.wait(lock, [&] { return mine.releases != before; });
      --mine.held;
    }
    if (take(mine.fail)) return Fate::fails;
    return take(mine.lose) ? Fate::loses_reply : Fate::passes;
  }

  template <typename Function>
  auto pass(Operation operation, Function function) -> decltype(function()) {
    const Fate fate = begin(operation);
    if (fate == Fate::fails) throw Error{Errc::unavailable, "flaky broker: can't be reached"};
    if (fate == Fate::passes) return function();
    function();
    throw Error{Errc::unavailable, "flaky broker: the reply is lost"};
  }

  static std::vector<EnqueueReply> unknown(std::size_t size) {
    return std::vector<EnqueueReply>(
        size, EnqueueReply{.error = Errc::unavailable, .detail = "flaky broker"});
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::array<Plan, 9> plans_{};
  bool delay_ = false;
  std::optional<LateExchange> late_;
};

}  // namespace taskmux::test
