#include "taskmux/detail/engine/pauses.hpp"

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;
using namespace std::chrono_literals;

TEST_CASE("the pause after a failure doubles up to a bound, and is spread at random", "[pauses]") {
  Backoff backoff;
  Random random{1};
  for (const Duration middle : {50ms, 100ms, 200ms, 300ms, 300ms}) {
    const Duration pause = backoff.next(random);
    CHECK(pause >= middle / 2);
    CHECK(pause <= middle * 3 / 2);
  }
  backoff.reset();
  CHECK(backoff.next(random) <= 75ms);
}

TEST_CASE("the pause after a vain wake grows while such wakes follow closely", "[pauses]") {
  WakePause wake_pause;
  Random random{1};
  const auto longest_of = [&](SteadyTime::duration slept) {
    WakePause copy = wake_pause;
    Duration longest{};
    for (int i = 0; i < 100; ++i) {
      WakePause again = copy;
      const Duration pause = again.next(random, slept);
      CHECK(pause >= 500us);
      longest = std::max(longest, pause);
    }
    return longest;
  };
  CHECK(longest_of(0ms) <= 20ms);
  for (int i = 0; i < 10; ++i) wake_pause.next(random, 0ms);
  CHECK(longest_of(500ms) > 250ms);
  CHECK(longest_of(500ms) <= 500ms);
  CHECK(longest_of(501ms) <= 20ms);
  wake_pause.reset();
  CHECK(longest_of(0ms) <= 20ms);
}
