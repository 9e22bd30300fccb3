#include "taskmux/retry.hpp"

#include <climits>

#include "support/test.hpp"

using namespace taskmux;
using namespace std::chrono_literals;

namespace {

const Task task{.type = "t"};

FailedAttempt attempt(int retried, double random = 0.0) { return {task, "boom", retried, random}; }

}  // namespace

TEST_CASE("asynq's delay is n^4 + 15 + r * (n + 1) seconds", "[retry]") {
  constexpr double almost_one = 0.999999;
  struct Row {
    int retried;
    std::chrono::seconds least;
    std::chrono::seconds most;
  };
  const Row row = GENERATE(Row{0, 15s, 44s}, Row{1, 16s, 74s}, Row{2, 31s, 118s}, Row{3, 96s, 212s},
                           Row{10, 10015s, 10334s});
  CHECK(AsynqRetryDelay{}(attempt(row.retried, 0.0)) == row.least);
  CHECK(AsynqRetryDelay{}(attempt(row.retried, almost_one)) == row.most);
}

TEST_CASE("no retry count makes a delay overflow", "[retry]") {
  const int retried = GENERATE(INT_MIN, -1, 100'000, INT_MAX);  // Each at once, too.
  for (const RetryPolicy& policy :
       {RetryPolicy{AsynqRetryDelay{}}, RetryPolicy{ExponentialBackoff{}},
        RetryPolicy{ExponentialBackoff{.initial = 0s, .multiplier = 1.0000001}},
        RetryPolicy{ExponentialBackoff{.initial = Limits::longest, .max = Limits::longest}}}) {
    const Duration delay = policy(attempt(retried, 0.9));
    CHECK(delay >= Duration{0});
    CHECK(delay <= Limits::longest);
  }
}

TEST_CASE("exponential backoff grows to its ceiling and spreads by its jitter", "[retry]") {
  const ExponentialBackoff plain{.initial = 1s, .max = 10s, .multiplier = 2.0, .jitter = 0.0};
  CHECK(plain(attempt(0)) == 1s);
  CHECK(plain(attempt(1)) == 2s);
  CHECK(plain(attempt(3)) == 8s);
  CHECK(plain(attempt(4)) == 10s);
  CHECK(plain(attempt(1000)) == 10s);

  const ExponentialBackoff spread{.initial = 10s, .max = 1h, .multiplier = 1.0, .jitter = 0.5};
  CHECK(spread(attempt(7, 0.0)) == 5s);
  CHECK(spread(attempt(7, 0.5)) == 10s);
  CHECK(spread(attempt(7, 0.999999)) > 14s);
  CHECK(spread(attempt(7, 0.999999)) < 15s);
}

TEST_CASE("jitter never takes a delay over the ceiling", "[retry]") {
  const ExponentialBackoff policy{.initial = 1s, .max = 10s, .jitter = 1.0};
  CHECK(policy(attempt(20, 0.99)) == 10s);
}

TEST_CASE("a fixed delay does not depend on the attempt", "[retry]") {
  CHECK(FixedDelay{3s}(attempt(0)) == 3s);
  CHECK(FixedDelay{3s}(attempt(99)) == 3s);
}
