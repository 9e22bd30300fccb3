#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/client.hpp"
#include "taskmux/task.hpp"

namespace taskmux::chaos {

/// What a task does, and so what must become of it.
enum class WorkKind {
  quick,     ///< Succeeds at once.
  medium,    ///< Succeeds after some 20 ms.
  slow,      ///< Succeeds after a second or two.
  large,     ///< As quick, with a payload of some 100 kB.
  flaky,     ///< Fails twice, then succeeds.
  doomed,    ///< Fails until it is archived.
  skip,      ///< Is archived by its first attempt.
  snooze,    ///< Asks once to be run later, then succeeds.
  result,    ///< Succeeds with a result, and is kept.
  unique,    ///< As medium, with a unique lock that others want, too.
  delayed,   ///< As quick, not before some time has passed.
  repeated,  ///< As quick; its enqueue is repeated under the same id, also after it has ended.
  once,      ///< As medium, with max retry 0: a crash archives it.
  poison,    ///< Aborts its process.
};

std::string_view to_string(WorkKind kind) noexcept;
/// Throws std::invalid_argument if there is no such kind.
WorkKind work_kind(std::string_view name);

/// A task that a producer asks for: all that the judge has to know of it.
struct Order {
  WorkKind kind = WorkKind::quick;
  std::string queue = "default";
  std::chrono::milliseconds delay{0};  ///< Not to be run before.
  std::string lock = "-";              ///< Tasks of the same lock exclude each other; "-": none.

  bool operator==(const Order&) const = default;
};

/// One line: "<kind> <queue> <delay, ms> <lock>".
std::string to_text(const Order& order);
/// The reverse; throws std::runtime_error for anything else.
Order parse_order(const std::string& text);

/// How often each kind is drawn, relative to the others.
struct Share {
  WorkKind kind = WorkKind::quick;
  unsigned weight = 1;
};
using Mix = std::vector<Share>;

/// "quick:5,slow:1".
std::string to_text(const Mix& mix);
Mix parse_mix(std::string_view text);

/// The same numbers for the same seed on every machine. Not thread-safe.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_{seed} {}

  std::uint64_t next();
  /// From 0 to `bound` - 1.
  std::uint64_t below(std::uint64_t bound) { return next() % bound; }
  /// From `least` to `most`, both included.
  std::chrono::milliseconds between(std::chrono::milliseconds least,
                                    std::chrono::milliseconds most);

 private:
  std::uint64_t state_;
};

/// Draws an order by `mix`.
Order draw(Dice& dice, const Mix& mix);

/// What a client sends for `order`.
NewTask new_task(const Order& order, std::string id);

/// The result that a task of the kind `result` leaves.
std::string result_of(std::string_view id);

/// Attempts that fail before a flaky task succeeds, and retries of a doomed one.
inline constexpr int flaky_failures = 2;
inline constexpr int doomed_retries = 2;

}  // namespace taskmux::chaos
