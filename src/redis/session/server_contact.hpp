#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// Measures for how long calls have been answered by the same working server, based on the
/// successful calls and on Transport::epoch(). Thread-safe.
///
/// A connection that is cut is not an outage of the server: if a call succeeded shortly before and
/// another succeeds shortly after, no owner of a run can have lost its lease in between. An
/// interruption of up to a third of the requested length does not break contact: leases are
/// extended when three quarters of their length are left.
class ServerContact {
 public:
  /// If `one_server` is false, no interruption is tolerated, since the calls go to several servers,
  /// of which one may be unavailable while the others answer.
  explicit ServerContact(bool one_server) : one_server_{one_server} {}

  /// Records that a call was sent at `sent_at`, and executed and answered by `answered_at`; `epoch`
  /// is Transport's present epoch.
  void answered(std::uint64_t epoch, SteadyTime sent_at, SteadyTime answered_at);

  /// Discards what is known about the server, for example because its clock jumped.
  void broken(SteadyTime now);

  /// Returns whether contact has lasted for `length`; `epoch` is Transport's present epoch.
  bool lasted(Duration length, std::uint64_t epoch, SteadyTime now) const;

 private:
  struct Gap {
    SteadyTime end;
    SteadyTime::duration length;
  };

  static constexpr std::uint64_t none = 0;  // Transport's epochs begin at 1.
  static constexpr std::size_t most_gaps = 32;

  SteadyTime last_sent() const noexcept {
    return SteadyTime{SteadyTime::duration{last_sent_.load(std::memory_order_relaxed)}};
  }
  void note_sent(SteadyTime sent_at) noexcept;
  void begin(std::uint64_t epoch, SteadyTime now) TASKMUX_REQUIRES(mutex_);
  void add(Gap gap) TASKMUX_REQUIRES(mutex_);

  const bool one_server_;
  std::atomic<std::uint64_t> epoch_{none};  // at the last successful call
  std::atomic<SteadyTime::rep> last_sent_{0};
  mutable detail::Mutex mutex_;
  SteadyTime since_ TASKMUX_GUARDED_BY(mutex_){};
  std::deque<Gap> gaps_ TASKMUX_GUARDED_BY(mutex_);  // each shorter than the ones before it
};

}  // namespace taskmux::redis
