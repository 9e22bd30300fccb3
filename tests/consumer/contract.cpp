// A broker of one's own, held to the contract: one that refuses what is enqueued while it is
// closed.
#if !__has_include(<catch2/catch_all.hpp>)
#define CATCH_CONFIG_MAIN
#endif

#include <atomic>
#include <memory>
#include <taskmux/broker_wrapper.hpp>
#include <taskmux/clock.hpp>
#include <taskmux/memory/memory_broker.hpp>
#include <utility>
#include <vector>

class Gate final : public taskmux::BrokerWrapper {
 public:
  using BrokerWrapper::BrokerWrapper;

  void close() { open_ = false; }

  std::vector<taskmux::EnqueueReply> enqueue(std::vector<taskmux::EnqueueRequest> batch) override {
    if (!open_) throw taskmux::Error{taskmux::Errc::unavailable, "enqueue: the gate is closed"};
    return BrokerWrapper::enqueue(std::move(batch));
  }

 private:
  std::atomic<bool> open_{true};
};

struct GateFixture {
  std::shared_ptr<taskmux::ManualClock> manual_clock = std::make_shared<taskmux::ManualClock>();
  taskmux::MemoryBroker memory{{.clock = manual_clock}};
  Gate gate{memory};
  taskmux::Broker& broker = gate;
  taskmux::QueueView& view = gate;
  taskmux::ManualClock& clock = *manual_clock;

  void advance(taskmux::Duration step) { clock.advance(step); }
};

#define TASKMUX_BROKER_FIXTURES GateFixture
#include <broker_contract.hpp>

TEST_CASE("a closed gate lets nothing in") {
  GateFixture t;
  t.gate.close();
  CHECK_THROWS_AS(taskmux::test::enqueue(t.broker, taskmux::test::message("t1")), taskmux::Error);
}
