#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "taskmux/broker_wrapper.hpp"
#include "taskmux/error.hpp"

namespace taskmux::test {

/// A broker that supports limits for the calls of each thread, as a remote broker does. Upkeep can
/// be made to hang until the limit of its thread.
class LimitedBroker final : public BrokerWrapper {
 public:
  using BrokerWrapper::BrokerWrapper;

  /// The limit of the calls of this thread; null: none.
  static inline thread_local const CallLimit* limit = nullptr;

  void limit_calls_of_this_thread(const CallLimit* of_calls) noexcept override { limit = of_calls; }

  /// Makes later calls hang.
  void hang() { hangs_ = true; }
  /// Returns the number of calls that hang.
  int hanging() const { return hanging_; }

  UpkeepReply upkeep(const UpkeepRequest& request) override {
    wait_for_limit();
    return BrokerWrapper::upkeep(request);
  }

 private:
  void wait_for_limit() {
    if (!hangs_) return;
    ++hanging_;
    while (limit == nullptr || std::chrono::steady_clock::now() < limit->end())
      std::this_thread::sleep_for(std::chrono::milliseconds{1});
    --hanging_;
    throw Error{Errc::unavailable, "no answer in time"};
  }

  std::atomic<bool> hangs_{false};
  std::atomic<int> hanging_{0};
};

}  // namespace taskmux::test
