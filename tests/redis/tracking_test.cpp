#include "redis/watch/tracking.hpp"

#include <chrono>

#include "support/test.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using redis::Tracking;

const SteadyTime start{1000s};

/// Five looks, each evicted 10 ms after the last; whether the fault is reported.
bool evict_five(Tracking& tracking, SteadyTime now) {
  bool reported = false;
  for (int i = 0; i < 5; ++i, now += 10ms) {
    tracking.looked(now);
    reported = tracking.evicted(now) || reported;
  }
  return reported;
}

TEST_CASE("tracking is allowed until the server evicts five looks in a row", "[redis][watch]") {
  Tracking tracking;
  for (int i = 0; i < 4; ++i) {
    tracking.looked(start);
    CHECK_FALSE(tracking.evicted(start));
    CHECK(tracking.allowed(start));
  }
  tracking.looked(start);
  CHECK_FALSE(tracking.evicted(start));
  CHECK_FALSE(tracking.allowed(start + 999ms));
  CHECK(tracking.allowed(start + 1s));
}

TEST_CASE("many evictions of one look count once", "[redis][watch]") {
  Tracking tracking;
  tracking.looked(start);
  for (int i = 0; i < 100; ++i) tracking.evicted(start);
  CHECK(tracking.allowed(start));
}

TEST_CASE("evictions that are no more frequent than polls do not stop tracking", "[redis][watch]") {
  Tracking tracking;
  for (int i = 0; i < 20; ++i) {
    tracking.looked(start + i * 600ms);
    tracking.evicted(start + i * 600ms);
    CHECK(tracking.allowed(start + i * 600ms));
  }
}

TEST_CASE("a fault of tracking is reported once it has lasted for a second", "[redis][watch]") {
  Tracking tracking;
  SECTION("of evictions") {
    CHECK_FALSE(evict_five(tracking, start));
    CHECK(evict_five(tracking, start + 2s));
  }
  SECTION("of a refusal") {
    CHECK_FALSE(tracking.refused(start));
    CHECK_FALSE(tracking.allowed(start));
    CHECK(tracking.allowed(start + 1s));
    CHECK(tracking.refused(start + 2s));
  }
  CHECK_FALSE(tracking.allowed(start + 16s));
  CHECK(tracking.allowed(start + 20s));
  CHECK_FALSE(tracking.refused(start + 20s));  // once
  CHECK_FALSE(tracking.allowed(start + 49s));
  CHECK(tracking.allowed(start + 51s));
}

TEST_CASE("the pauses of tracking grow up to five minutes", "[redis][watch]") {
  Tracking tracking;
  SteadyTime now = start;
  for (int i = 0; i < 20; ++i) {
    tracking.refused(now);
    now += 5min;
    CHECK(tracking.allowed(now));
  }
  tracking.refused(now);
  CHECK_FALSE(tracking.allowed(now + 5min - 1ms));
}

TEST_CASE("a fault of tracking ends once tracking works for ten seconds", "[redis][watch]") {
  Tracking tracking;
  SECTION("and reported if the fault was") {
    tracking.refused(start);
    tracking.refused(start + 1s);
    CHECK_FALSE(tracking.looked(start + 20s));
    CHECK_FALSE(tracking.looked(start + 29s));
    CHECK(tracking.looked(start + 30s));
    CHECK_FALSE(tracking.looked(start + 31s));
  }
  SECTION("and not reported if the fault was not") {
    tracking.refused(start);
    CHECK_FALSE(tracking.looked(start + 1s));
    CHECK_FALSE(tracking.looked(start + 11s));
  }
  CHECK_FALSE(tracking.refused(start + 40s));  // a new fault
  CHECK(tracking.allowed(start + 41s));
}

}  // namespace
}  // namespace taskmux::test
