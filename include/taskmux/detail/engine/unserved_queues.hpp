#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Checks periodically whether tasks wait in queues that no live server serves, such as a queue
/// whose name was misspelt, and logs each such queue once an hour. For one thread.
class UnservedQueues {
 public:
  static constexpr Duration shortest_interval = std::chrono::minutes{1};
  /// A queue is ignored while its first task has waited for less: a server may be starting.
  static constexpr Duration patience = std::chrono::seconds{10};
  static constexpr Duration between_lines = std::chrono::hours{1};
  /// Each queue needs a call. Queues that are not checked in one step are checked first in the
  /// next.
  static constexpr std::size_t most_in_a_turn = 50;

  /// `logger` must outlive this.
  UnservedQueues(Broker& broker, std::vector<std::string> own, const Logger& logger,
                 std::shared_ptr<Clock> clock)
      : broker_{broker},
        own_{own.begin(), own.end()},
        logger_{logger},
        clock_{std::move(clock)},
        next_{clock_->steady_now() + shortest_interval} {}

  /// Checks the queues if it is time; returns when the next check is due, or nullopt if there is
  /// none.
  std::optional<SteadyTime> run_once() {
    const SteadyTime now = clock_->steady_now();
    if (!logger_.enabled(LogLevel::warning)) next_.reset();
    if (!next_ || now < *next_) return next_;
    try {
      const std::size_t servers = look(now);
      // Each server of a fleet lists all servers: together they list no more than one per second.
      next_ = now + std::max<Duration>(shortest_interval, std::chrono::seconds{servers});
    } catch (const Error& e) {
      // Errors that affect the server's work are reported by other roles; this check is optional.
      logger_(LogLevel::debug, std::string{"look for queues without a server: "} + e.what());
      next_ = now + shortest_interval;
      if (e.errc() == Errc::unsupported) next_.reset();
    }
    return next_;
  }

 private:
  /// Returns the number of live servers.
  std::size_t look(SteadyTime now) {
    QueueView& view = broker_.queue_view();
    std::vector<std::string> others = view.queues();
    std::erase_if(others, [&](const std::string& queue) { return own_.contains(queue); });
    if (others.empty()) return 0;
    const std::vector<ServerInfo> servers = broker_.registry().servers();
    std::erase_if(others, [&](const std::string& queue) {
      return std::any_of(servers.begin(), servers.end(),
                         [&](const ServerInfo& server) { return server.queues.contains(queue); });
    });
    std::erase_if(told_, [&](const auto& entry) { return now - entry.second >= between_lines; });
    std::erase_if(others, [&](const std::string& queue) { return told_.contains(queue); });
    std::sort(others.begin(), others.end());
    const auto next = std::upper_bound(others.begin(), others.end(), last_);
    std::rotate(others.begin(), next, others.end());
    if (others.size() > most_in_a_turn) others.resize(most_in_a_turn);
    for (const std::string& queue : others) {
      last_ = queue;  // First, so that a queue that fails does not block the others.
      look_at(view, queue, now);
    }
    return servers.size();
  }

  void look_at(QueueView& view, const std::string& queue, SteadyTime now) {
    QueueInfo info;
    try {
      info = view.queue_info(queue);
    } catch (const Error& e) {
      if (e.errc() == Errc::queue_not_found) return;  // It was deleted in the meantime.
      throw;
    }
    if (info.pending == 0 || info.latency < patience) return;
    told_.emplace(queue, now);
    const std::string tasks =
        info.pending == 1 ? "1 task waits" : std::to_string(info.pending) + " tasks wait";
    logger_(about_queue(queue, LogLevel::warning, tasks + ", and no live server works on it"));
  }

  Broker& broker_;
  const std::set<std::string, std::less<>> own_;
  const Logger& logger_;
  const std::shared_ptr<Clock> clock_;
  std::optional<SteadyTime> next_;
  std::string last_;                        ///< The queue that was checked last.
  std::map<std::string, SteadyTime> told_;  ///< When the queue was last logged.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
