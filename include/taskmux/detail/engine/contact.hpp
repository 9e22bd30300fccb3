#pragma once

#include <optional>

#include "taskmux/clock.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Measures for how long this process and its broker have worked without a gap. A suspended
/// machine, a stopped process and a broker that does not answer all cause a gap: a time in which
/// leases expire although nobody could extend them. Not thread-safe.
class Contact {
 public:
  /// A period of up to `longest_gap`, from when one call was sent until the next was answered, does
  /// not break contact.
  explicit Contact(Duration longest_gap) : longest_gap_{longest_gap} {}

  /// Records that a call which was sent at `sent_at` has been answered by `now`.
  void note(SteadyTime sent_at, SteadyTime now) noexcept {
    if (!unbroken(now)) since_ = now;
    last_ = sent_at;
  }

  /// Returns whether there was no gap within the last `length`.
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
