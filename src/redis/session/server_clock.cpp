#include "redis/session/server_clock.hpp"

#include <chrono>
#include <utility>

namespace taskmux::redis {

bool ServerClock::note(std::string_view server, Time now, SteadyTime sent_at,
                       SteadyTime answered_at) {
  detail::MutexLock lock{mutex_};
  const auto found = told_.find(server);
  if (found == told_.end()) {
    told_.emplace(server, Told{now, sent_at, answered_at});
    return false;
  }
  const Told before = std::exchange(found->second, Told{now, sent_at, answered_at});
  const auto passed_there = now - before.now;
  constexpr Duration borne = std::chrono::seconds{1};
  return passed_there > answered_at - before.sent_at + borne ||
         passed_there < sent_at - before.answered_at - borne;
}

std::optional<Time> ServerClock::at(std::string_view server, SteadyTime at) const {
  detail::MutexLock lock{mutex_};
  const auto found = told_.find(server);
  if (found == told_.end()) return std::nullopt;
  return found->second.now + std::chrono::duration_cast<Duration>(at - found->second.sent_at);
}

}  // namespace taskmux::redis
