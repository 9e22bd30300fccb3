#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/health_monitor.hpp"
#include "taskmux/detail/settler.hpp"
#include "taskmux/detail/uuid.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// What a server does for its queues beside running tasks: forwards what is due, settles what lost
/// workers left behind, has expired results deleted and archives looked through, and tells the
/// world that it lives.
class Upkeep {
 public:
  struct Parts {
    Broker& broker;
    Settler& settler;
    HealthMonitor& health;
    std::shared_ptr<Clock> clock;
    std::function<ServerInfo()> describe;  ///< This server, for the heartbeat.
    std::function<void()> trim_archives;   ///< To be done elsewhere: it calls the host's hook.
  };

  struct Times {
    Duration upkeep = std::chrono::seconds{2};
    Duration heartbeat = std::chrono::seconds{5};
    Duration lease = std::chrono::seconds{10};
  };

  Upkeep(Parts parts, std::vector<std::string> queues, Times times)
      : parts_{std::move(parts)}, queues_{std::move(queues)}, times_{times} {}

  /// Does what is due; returns when more is.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = parts_.clock->steady_now();
    if (now >= next_heartbeat_) {
      next_heartbeat_ = now + times_.heartbeat;
      guarded(HealthMonitor::Role::heartbeat,
              [&] { parts_.broker.heartbeat(parts_.describe(), times_.heartbeat * 2); });
    }
    if (now >= next_upkeep_) {
      next_upkeep_ = now + times_.upkeep;
      guarded(HealthMonitor::Role::upkeep, [&] { step(now); });
    }
    if (now >= next_trim_) {
      next_trim_ = now + trim_interval;
      parts_.trim_archives();
    }
    return std::min({next_heartbeat_, next_upkeep_, next_trim_});
  }

 private:
  static constexpr Duration trim_interval = std::chrono::seconds{60};

  void step(SteadyTime now) {
    const SteadyTime sent_at = parts_.clock->steady_now();
    UpkeepReply reply = parts_.broker.upkeep({.queues = queues_, .lease = times_.lease});
    for (const Run& run : reply.lost)
      parts_.settler.settle_lost(run, random_.unit(), sent_at + times_.lease);
    if (reply.more) next_upkeep_ = now;
  }

  template <typename Call>
  void guarded(HealthMonitor::Role role, Call call) {
    try {
      call();
      parts_.health.broker_answered(role);
    } catch (const std::exception& e) {
      parts_.health.broker_failed(role, e.what());
    }
  }

  const Parts parts_;
  const std::vector<std::string> queues_;
  const Times times_;
  SteadyTime next_heartbeat_{SteadyTime::min()};
  SteadyTime next_upkeep_{SteadyTime::min()};
  SteadyTime next_trim_{SteadyTime::min()};
  Random random_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
