#include "redis/server_clock.hpp"

#include <chrono>

namespace taskmux::redis {

void ServerClock::note(std::string_view server, Time now, SteadyTime sent_at) {
  detail::MutexLock lock{mutex_};
  told_.insert_or_assign(std::string{server}, Told{now, sent_at});
}

std::optional<Time> ServerClock::at(std::string_view server, SteadyTime at) const {
  detail::MutexLock lock{mutex_};
  const auto found = told_.find(server);
  if (found == told_.end()) return std::nullopt;
  return found->second.now + std::chrono::duration_cast<Duration>(at - found->second.sent_at);
}

}  // namespace taskmux::redis
