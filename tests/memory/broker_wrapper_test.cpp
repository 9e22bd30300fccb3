#include "taskmux/broker_wrapper.hpp"

#include "memory_fixture.hpp"

namespace taskmux::test {

/// Runs the contract through a wrapper.
struct WrappedFixture {
  MemoryFixture inner;
  BrokerWrapper wrapper{inner.memory};
  Broker& broker = wrapper;
  QueueView& view = wrapper.queue_view();
  ManualClock& clock = inner.clock;

  void advance(Duration step) { inner.advance(step); }
};

}  // namespace taskmux::test

#define TASKMUX_BROKER_FIXTURES WrappedFixture
#include "broker_contract.hpp"

namespace taskmux::test {
namespace {

/// A broker with special replies.
class Peculiar final : public BrokerWrapper {
 public:
  using BrokerWrapper::BrokerWrapper;

  void ping() override { throw Error{Errc::unauthorized, "ping"}; }
  void limit_calls_of_this_thread(const CallLimit* of_calls) noexcept override { limit = of_calls; }
  Duration shortest_lease() const override { return 17s; }
  std::string why_shortest_lease() const override { return "it likes 17"; }
  std::string describe() const override { return "peculiar"; }
  Logger logger() const override { return Logger{LogLevel::debug, [](LogLevel, std::string_view) {}}; }

  const CallLimit* limit = nullptr;
};

TEST_CASE("a wrapper forwards the optional operations", "[wrapper]") {
  MemoryBroker memory;
  Peculiar inner{memory};
  BrokerWrapper outer{static_cast<Broker&>(inner)};
  CHECK(&outer.target() == &inner);
  CHECK(error_of([&] { outer.ping(); }) == Errc::unauthorized);
  const CallLimit limit;
  outer.limit_calls_of_this_thread(&limit);
  CHECK(inner.limit == &limit);
  CHECK(outer.shortest_lease() == 17s);
  CHECK(outer.why_shortest_lease() == "it likes 17");
  CHECK(outer.describe() == "peculiar");
  CHECK(outer.logger().enabled(LogLevel::debug));
}

TEST_CASE("a wrapper of a broker without a view has none", "[wrapper]") {
  struct Blind final : BrokerWrapper {
    using BrokerWrapper::BrokerWrapper;
    QueueView& queue_view() override { return Broker::queue_view(); }
  };
  MemoryBroker memory;
  Blind blind{memory};
  BrokerWrapper outer{static_cast<Broker&>(blind)};
  CHECK(error_of([&] { outer.queue_view(); }) == Errc::unsupported);
  CHECK(error_of([&] { outer.queues(); }) == Errc::unsupported);
}

}  // namespace
}  // namespace taskmux::test
