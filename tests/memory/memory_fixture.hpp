#pragma once

#include <memory>

#include "taskmux/clock.hpp"
#include "taskmux/memory/memory_broker.hpp"

namespace taskmux::test {

/// An empty MemoryBroker with a clock that stands still.
struct MemoryFixture {
  std::shared_ptr<ManualClock> manual_clock = std::make_shared<ManualClock>();
  MemoryBroker memory{{.clock = manual_clock}};
  Broker& broker = memory;
  QueueView& view = memory;
  ManualClock& clock = *manual_clock;

  void advance(Duration step) { clock.advance(step); }
};

}  // namespace taskmux::test
