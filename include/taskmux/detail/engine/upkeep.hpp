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
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/contact.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/run/run_registry.hpp"
#include "taskmux/registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The upkeep of a server's queues: forwards due tasks, settles the runs of lost workers, has
/// expired results deleted, and sends the server's heartbeat. Looks for lost runs only after a
/// whole lease in which this process worked and the broker answered: after a pause of all servers,
/// or of the broker, the owners must be able to extend their runs first.
class Upkeep {
 public:
  struct Parts {
    Broker& broker;
    Settler& settler;
    const RunRegistry& registry;
    HealthMonitor& health;
    std::shared_ptr<Clock> clock;
    std::function<ServerInfo()> describe;  ///< Describes this server, for the heartbeat.
  };

  struct Times {
    Duration upkeep = std::chrono::seconds{2};
    Duration heartbeat = std::chrono::seconds{5};
    Duration lease = std::chrono::seconds{10};
  };

  Upkeep(Parts parts, std::vector<std::string> queues, Times times)
      : parts_{std::move(parts)}, queues_{std::move(queues)}, times_{times} {}

  /// Performs the work that is due; returns when more is due.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = parts_.clock->steady_now();
    if (now >= next_heartbeat_) {
      next_heartbeat_ = now + times_.heartbeat;
      const bool done = guarded(HealthMonitor::Role::heartbeat, [&] {
        parts_.broker.registry().announce(parts_.describe(), times_.heartbeat * 2);
      });
      if (!done) next_heartbeat_ = now + std::min(times_.heartbeat, soon());
    }
    if (now >= next_upkeep_) {
      next_upkeep_ = now + times_.upkeep;
      next_contact_ = now + times_.lease / 4;
      // After a failure it is repeated soon, so that a short interruption does not break contact.
      if (!guarded(HealthMonitor::Role::upkeep, [&] { step(now); }))
        next_upkeep_ = now + std::min({times_.upkeep, soon()});
    }
    if (now >= next_contact_) {
      // Needed only if upkeep is so infrequent that a gap in the contact would not be noticed.
      next_contact_ = now + soon();
      guarded(HealthMonitor::Role::upkeep, [&] { parts_.broker.ping(); });
    }
    return std::min({next_heartbeat_, next_upkeep_, next_contact_});
  }

 private:
  /// The delay after a failure: a server is healthy again within a second of its broker's return.
  Duration soon() const noexcept {
    return std::min<Duration>(times_.lease / 16, std::chrono::milliseconds{400});
  }

  void step(SteadyTime now) {
    // The time is read again: the heartbeat in this step may have taken long.
    const SteadyTime sent_at = parts_.clock->steady_now();
    const bool recover = contact_.lasted(times_.lease, sent_at);
    const std::vector<Run> own = recover ? ending_soon(sent_at) : std::vector<Run>{};
    UpkeepReply reply = parts_.broker.upkeep(
        {.queues = queues_, .lease = times_.lease, .recover = recover, .own = own});
    const bool several = reply.lost.size() > 1;
    for (const Run& run : reply.lost)
      parts_.settler.settle_lost(run, several, random_.unit(), sent_at + times_.lease);
    if (reply.more) next_upkeep_ = now;
  }

  /// Returns this server's runs whose leases may have expired by the time the broker looks.
  /// LeaseKeeper extends each lease when three quarters of it are left, so these are late already.
  std::vector<Run> ending_soon(SteadyTime now) const {
    const SteadyTime until = now + times_.lease / 2;
    std::vector<Run> runs;
    for (const auto& run : parts_.registry.select(
             [&](const RunState& each) { return each.lease_until() <= until; })) {
      runs.push_back(run->run());
    }
    return runs;
  }

  /// Makes a call to the broker; returns false if it failed.
  template <typename Call>
  bool guarded(HealthMonitor::Role role, Call call) {
    const SteadyTime sent_at = parts_.clock->steady_now();
    try {
      call();
    } catch (const std::exception& e) {
      parts_.health.broker_failed(role, e.what());
      return false;
    }
    const SteadyTime now = parts_.clock->steady_now();
    contact_.note(sent_at, now);
    next_contact_ = now + times_.lease / 4;
    parts_.health.broker_answered(role);
    return true;
  }

  const Parts parts_;
  const std::vector<std::string> queues_;
  const Times times_;
  /// At the beginning of a gap, other servers' leases have most of their length left; a gap of half
  /// a lease ends none of them.
  Contact contact_{times_.lease / 2};
  SteadyTime next_heartbeat_{SteadyTime::min()};
  SteadyTime next_upkeep_{SteadyTime::min()};
  SteadyTime next_contact_{SteadyTime::min()};
  Random random_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
