#pragma once

#include <optional>

#include "taskmux/clock.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// For how long this process and its broker have been at work without a gap. A machine that sleeps,
/// a process that is stopped and a broker that does not answer all leave one: a time in which leases
/// end though nobody could extend them. Not thread-safe.
class Contact {
 public:
  /// A gap of up to `longest_gap` between two calls, from when one was sent until the next was
  /// answered, does not break contact.
  explicit Contact(Duration longest_gap) : longest_gap_{longest_gap} {}

  /// A call that was sent at `sent_at` was answered, and by now it is `now`.
  void note(SteadyTime sent_at, SteadyTime now) noexcept {
    if (!unbroken(now)) since_ = now;
    last_ = sent_at;
  }

  /// Whether there was no gap within the last `length`.
  bool lasted(Duration length, SteadyTime now) const noexcept {
    return unbroken(now) && now - since_ >= length;
  }

 private:
  bool unbroken(SteadyTime now) const noexcept { return last_ && now - *last_ <= longest_gap_; }

  const Duration longest_gap_;
  std::optional<SteadyTime> last_;
  SteadyTime since_{};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
