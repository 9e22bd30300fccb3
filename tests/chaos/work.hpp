#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/client.hpp"
#include "taskmux/task.hpp"

namespace taskmux::chaos {

/// What a task does, which determines its expected outcome.
enum class WorkKind {
  quick,     ///< Succeeds at once.
  medium,    ///< Succeeds after some 20 ms.
  slow,      ///< Succeeds after a second or two.
  large,     ///< As quick, with a payload of some 100 kB.
  flaky,     ///< Fails twice, then succeeds.
  doomed,    ///< Fails until it is archived.
  skip,      ///< Is archived by its first attempt.
  snooze,    ///< Snoozes once, then succeeds.
  result,    ///< Succeeds with a result, and is kept.
  unique,    ///< As medium, with a unique lock that others use, too.
  delayed,   ///< As quick, not before some time has passed.
  repeated,  ///< As quick; its enqueue is repeated under the same id, also after it has ended.
  once,      ///< As medium, with max retry 0: a crash archives it.
  poison,    ///< Aborts its process.
};

std::string_view to_string(WorkKind kind) noexcept;
/// Throws std::invalid_argument if there is no such kind.
WorkKind work_kind(std::string_view name);

/// A task that a producer requests, with all that the judge has to know about it.
struct Order {
  WorkKind kind = WorkKind::quick;
  std::string queue = "default";
  std::chrono::milliseconds delay{0};  ///< It must not run before.
  std::string lock = "-";              ///< Tasks of the same lock exclude each other; "-": none.

  bool operator==(const Order&) const = default;
};

/// One line: "<kind> <queue> <delay, ms> <lock>".
std::string to_text(const Order& order);
/// Reverses this; throws std::runtime_error for any other text.
Order parse_order(const std::string& text);

/// How often each kind is drawn, relative to the others.
struct Share {
  WorkKind kind = WorkKind::quick;
  unsigned weight = 1;
};
using Mix = std::vector<Share>;

/// Returns a text such as "quick:5,slow:1".
std::string to_text(const Mix& mix);
Mix parse_mix(std::string_view text);

/// A generator that produces the same numbers for the same seed on every machine. Not thread-safe.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_{seed} {}

  std::uint64_t next();
  /// Returns a number from 0 to `bound` - 1.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  /// Returns a number from `least` to `most`, both included.
  std::chrono::milliseconds between(std::chrono::milliseconds least,
                                    std::chrono::milliseconds most);

 private:
  std::uint64_t state_;
};

/// Draws an order according to `mix`.
Order draw(Dice& dice, const Mix& mix);

/// Returns what a client sends for `order`.
NewTask new_task(const Order& order, std::string id);

/// Returns the result of a task of the kind `result`.
std::string result_of(std::string_view id);

/// The number of attempts that fail before a flaky task succeeds, and the retries of a doomed one.
inline constexpr int flaky_failures = 2;
inline constexpr int doomed_retries = 2;

}  // namespace taskmux::chaos
