#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// What time it is at servers, by what they told last: so that a call can say until when it is wanted.
/// A server that was stuck carries out what it finds in its sockets, also of those who have given it
/// up meanwhile. Thread-safe.
class ServerClock {
 public:
  /// A call that was sent to `server` (any name for it) at `sent_at`, and answered by `answered_at`,
  /// said that it was `now` there. Returns whether its clock jumped since the call that was noted
  /// before: by more than a second against the steady clock, however long the calls took.
  bool note(std::string_view server, Time now, SteadyTime sent_at, SteadyTime answered_at);
  /// The time there at `at`, or somewhat later: by as much as that call was on its way. Unset as long
  /// as nothing was noted.
  std::optional<Time> at(std::string_view server, SteadyTime at) const;

 private:
  struct Told {
    Time now;
    SteadyTime sent_at;
    SteadyTime answered_at;
  };

  mutable detail::Mutex mutex_;
  std::map<std::string, Told, std::less<>> told_ TASKMUX_GUARDED_BY(mutex_);
};

}  // namespace taskmux::redis
