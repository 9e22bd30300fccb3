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

/// Estimates the time at servers from their latest replies, so that a call can state until when it
/// is valid. A server that was stuck executes the requests that it finds in its sockets, including
/// those whose senders have given up in the meantime. Thread-safe.
class ServerClock {
 public:
  /// Records that a call to `server` (any name for it), which was sent at `sent_at` and answered by
  /// `answered_at`, returned the time `now`. Returns whether the server's clock has jumped since
  /// the previous call: by more than a second against the steady clock, however long the calls
  /// took.
  bool note(std::string_view server, Time now, SteadyTime sent_at, SteadyTime answered_at);
  /// Returns the server's time at `at`, or a somewhat later time: by at most the duration of the
  /// recorded call. Unset if nothing was recorded.
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
