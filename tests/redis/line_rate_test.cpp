#include "redis/net/line_rate.hpp"

#include <chrono>

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace std::chrono_literals;

namespace {

/// A command timeout of 2 s: a call is to take half a second.
struct Line {
  LineRate rate{2s};

  /// Simulates a call that uses its budget, at `bytes_per_second`.
  void call(double bytes_per_second) {
    const auto bytes = rate.budget();
    const auto seconds =
        std::chrono::duration<double>(static_cast<double>(bytes) / bytes_per_second);
    rate.moved(bytes, std::chrono::duration_cast<SteadyTime::duration>(seconds));
  }
};

}  // namespace

TEST_CASE("on a fast connection the budget grows to its bound", "[redis][line]") {
  Line line;
  for (int i = 0; i < 10; ++i) line.call(1e9);
  CHECK(line.rate.budget() == LineRate::most);
}

TEST_CASE("on a slow connection a call takes about a quarter of the command timeout",
          "[redis][line]") {
  const double rate = GENERATE(40e3, 200e3, 1e6, 5e6);
  Line line;
  for (int i = 0; i < 10; ++i) line.call(rate);
  CHECK(static_cast<double>(line.rate.budget()) >= rate * 0.2);
  CHECK(static_cast<double>(line.rate.budget()) <= rate * 1.0);
}

TEST_CASE("the budget follows the speed of the connection", "[redis][line]") {
  Line line;
  for (int i = 0; i < 10; ++i) line.call(1e9);
  line.call(1e6);
  CHECK(line.rate.budget() == Approx(500'000).epsilon(0.01));
  for (int i = 0; i < 10; ++i) line.call(1e9);
  CHECK(line.rate.budget() == LineRate::most);
}

TEST_CASE("an abandoned call reduces the budget of the next ones", "[redis][line]") {
  LineRate rate{2s};
  const auto before = rate.budget();
  rate.timed_out(70'000);
  CHECK(rate.budget() == before / 4);
  for (int i = 0; i < 10; ++i) rate.timed_out(20'000);
  CHECK(rate.carried() == 20'000);
  CHECK(rate.budget() == LineRate::least);
}

TEST_CASE("small calls do not change the budget", "[redis][line]") {
  LineRate rate{2s};
  const auto before = rate.budget();
  rate.moved(1000, 10s);
  rate.moved(1000, 1us);
  rate.moved(before / 4, 1us);
  CHECK(rate.budget() == before);
}
