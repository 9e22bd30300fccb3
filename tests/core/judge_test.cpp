#include "taskmux/detail/run/judge.hpp"

#include <stdexcept>

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;
using namespace std::chrono_literals;

namespace {

const RetryPolicy one_minute = FixedDelay{1min};
const std::function<bool(const FailedAttempt&)> everything_counts;

TaskMessage message(int retried, int max_retry) {
  TaskMessage m{.id = "t1", .queue = "default", .task = {.type = "t"}};
  m.retried = retried;
  m.max_retry = max_retry;
  return m;
}

Verdict judged(const Outcome& outcome, int retried = 0, int max_retry = 25,
               StopReason stop = StopReason::none, CancelMode cancel = CancelMode::retry) {
  return judge(message(retried, max_retry), outcome, stop, cancel, {one_minute, everything_counts});
}

}  // namespace

TEST_CASE("an outcome decides how its run is settled", "[judge]") {
  CHECK(judged(Outcome::success()).action == SettleAction::complete);
  CHECK(judged(Outcome::revoke()).action == SettleAction::remove);
  CHECK(judged(Outcome::skip_retry("no")).action == SettleAction::archive);
  CHECK(judged(Outcome::skip_retry("no")).error == "no");

  const Verdict failed = judged(Outcome::fail("boom"));
  CHECK(failed.action == SettleAction::retry);
  CHECK(failed.error == "boom");
  CHECK(failed.delay == 1min);
  CHECK(failed.attempt == Attempt::counts);

  const Verdict later = judged(Outcome::retry_after(3s, "busy"));
  CHECK(later.action == SettleAction::retry);
  CHECK(later.delay == 3s);
  CHECK(later.error == "busy");

  const Verdict snoozed = judged(Outcome::snooze(5s));
  CHECK(snoozed.action == SettleAction::snooze);
  CHECK(snoozed.delay == 5s);
}

TEST_CASE("a task whose retries are spent is archived", "[judge]") {
  CHECK(judged(Outcome::fail("boom"), 2, 3).action == SettleAction::retry);
  CHECK(judged(Outcome::fail("boom"), 3, 3).action == SettleAction::archive);
  CHECK(judged(Outcome::fail("boom"), 4, 3).action == SettleAction::archive);
  CHECK(judged(Outcome::fail("boom"), 0, 0).action == SettleAction::archive);
  CHECK(judged(Outcome::retry_after(1s), 3, 3).action == SettleAction::archive);
  CHECK(judged(Outcome::snooze(1s), 3, 3).action == SettleAction::snooze);
}

TEST_CASE("delays of outcomes are clamped", "[judge]") {
  CHECK(judged(Outcome::retry_after(-1s)).delay == Duration{0});
  CHECK(judged(Outcome::snooze(Duration::min())).delay == Duration{0});
  CHECK(judged(Outcome::snooze(Duration::max())).delay == Limits::longest);
}

TEST_CASE("a failure that does not count is retried without using a retry, until exhaustion",
          "[judge]") {
  const std::function<bool(const FailedAttempt&)> none_counts = [](const FailedAttempt& a) {
    return a.error != "throttled";
  };
  const JudgeRules rules{one_minute, none_counts};
  const Verdict verdict =
      judge(message(1, 3), Outcome::fail("throttled"), StopReason::none, CancelMode::retry, rules);
  CHECK(verdict.action == SettleAction::retry);
  CHECK(verdict.attempt == Attempt::excused);
  CHECK(judge(message(3, 3), Outcome::fail("throttled"), StopReason::none, CancelMode::retry, rules)
            .action == SettleAction::archive);
}

TEST_CASE("a policy that throws or returns an invalid delay is replaced", "[judge]") {
  const RetryPolicy throws = [](const FailedAttempt&) -> Duration {
    throw std::runtime_error{"bad day"};
  };
  const Verdict verdict = judge(message(0, 3), Outcome::fail("boom"), StopReason::none,
                                CancelMode::retry, {throws, everything_counts});
  CHECK(verdict.action == SettleAction::retry);
  CHECK(verdict.delay == 15s);  // asynq's, with a random number of 0
  CHECK(verdict.complaint.find("bad day") != std::string::npos);

  const RetryPolicy negative = [](const FailedAttempt&) { return Duration{-5s}; };
  CHECK(judge(message(0, 3), Outcome::fail("boom"), StopReason::none, CancelMode::retry,
              {negative, everything_counts})
            .delay == Duration{0});

  const std::function<bool(const FailedAttempt&)> bad = [](const FailedAttempt&) -> bool {
    throw 1;
  };
  const Verdict counted = judge(message(0, 3), Outcome::fail("boom"), StopReason::none,
                                CancelMode::retry, {one_minute, bad});
  CHECK(counted.attempt == Attempt::counts);
  CHECK_FALSE(counted.complaint.empty());
}

TEST_CASE("a handler that reports success has succeeded even if it was asked to stop", "[judge]") {
  const StopReason stop = GENERATE(StopReason::timeout, StopReason::cancelled, StopReason::shutdown,
                                   StopReason::lease_lost);
  CHECK(judged(Outcome::success(), 0, 25, stop, CancelMode::remove).action == SettleAction::complete);
}

TEST_CASE("a run that stopped for the shutdown is given back, unless it failed for good",
          "[judge]") {
  CHECK(judged(Outcome::fail("interrupted"), 3, 3, StopReason::shutdown).action ==
        SettleAction::give_back);
  CHECK(judged(Outcome::skip_retry("bad"), 0, 3, StopReason::shutdown).action ==
        SettleAction::archive);
}

TEST_CASE("a cancelled run ends in the requested mode", "[judge]") {
  const auto cancelled = [](CancelMode mode) {
    return judged(Outcome::fail("cancelled"), 0, 25, StopReason::cancelled, mode).action;
  };
  CHECK(cancelled(CancelMode::retry) == SettleAction::retry);
  CHECK(cancelled(CancelMode::archive) == SettleAction::archive);
  CHECK(cancelled(CancelMode::remove) == SettleAction::remove);
}

TEST_CASE("a cancelled run that snoozes ends in the requested mode", "[judge]") {
  const auto cancelled = [](CancelMode mode) {
    return judged(Outcome::snooze(5s), 0, 25, StopReason::cancelled, mode);
  };
  CHECK(cancelled(CancelMode::retry).action == SettleAction::snooze);
  CHECK(cancelled(CancelMode::archive).action == SettleAction::archive);
  CHECK(cancelled(CancelMode::archive).error == "cancelled");
  CHECK(cancelled(CancelMode::remove).action == SettleAction::remove);
}

TEST_CASE("error texts are made valid UTF-8 and bounded", "[judge]") {
  CHECK(judged(Outcome::fail("a\xff"
                             "b"))
            .error ==
        "a\xef\xbf\xbd"
        "b");
  CHECK(judged(Outcome::fail(std::string(1'000'000, 'x'))).error.size() ==
        Limits::error_text_bytes);
}

namespace {

Run lost(Begun begun, int crashes, int retried = 0, int max_retry = 25) {
  return {.message = std::make_shared<TaskMessage>(message(retried, max_retry)),
          .crashes = crashes,
          .begun = begun};
}

}  // namespace

TEST_CASE("a lost worker costs a retry only for runs that had begun", "[judge]") {
  struct Case {
    Run run;
    bool several;
    SettleAction action;
    Duration delay;
    Attempt attempt;
    const char* error;
  };
  static constexpr auto begun = Begun::yes;
  static constexpr auto perhaps = Begun::perhaps;
  static constexpr auto unbegun = Begun::no;
  static constexpr auto crashed = Attempt::crashed;
  static constexpr auto not_begun = Attempt::not_begun;
  static constexpr Duration half = spread_of_lost / 2 + 1us;
  const Case c = GENERATE(values<Case>({
      {lost(begun, 0), false, SettleAction::retry, 0us, crashed, "worker lost"},
      {lost(begun, 1), false, SettleAction::retry, 1min, crashed, "worker lost"},
      {lost(begun, 2), false, SettleAction::archive, 0us, crashed, "worker lost 3 times in a row"},
      {lost(begun, 7), false, SettleAction::archive, 0us, crashed, "worker lost 8 times in a row"},
      {lost(begun, 0, 5, 5), false, SettleAction::archive, 0us, crashed, "worker lost"},
      {lost(begun, 0, 0, 0), true, SettleAction::archive, 0us, crashed, "worker lost"},
      {lost(begun, 0), true, SettleAction::retry, half, crashed, "worker lost"},
      {lost(begun, 1), true, SettleAction::retry, 1min + half, crashed, "worker lost"},
      {lost(perhaps, 0), false, SettleAction::give_back, 0us, crashed, "worker lost"},
      {lost(perhaps, 0, 5, 5), false, SettleAction::give_back, 0us, crashed, "worker lost"},
      {lost(perhaps, 0), true, SettleAction::snooze, half, crashed, "worker lost"},
      {lost(unbegun, 1), false, SettleAction::give_back, 0us, not_begun, "worker lost"},
      {lost(unbegun, 2, 25), false, SettleAction::give_back, 0us, not_begun, "worker lost"},
      {lost(unbegun, 2, 25), true, SettleAction::snooze, half, not_begun, "worker lost"},
  }));
  const Verdict verdict = judge_lost(c.run, c.several, {one_minute, everything_counts, 0.5, 3});
  CHECK(verdict.action == c.action);
  CHECK(verdict.delay == c.delay);
  CHECK(verdict.attempt == c.attempt);
  CHECK(verdict.error == c.error);
}

TEST_CASE("a suspect that the next crash would archive has to run alone", "[judge]") {
  CHECK_FALSE(must_run_alone(lost(Begun::yes, 0, 25, 25), 3));
  CHECK_FALSE(must_run_alone(lost(Begun::no, 1), 3));
  CHECK(must_run_alone(lost(Begun::no, 2), 3));
  CHECK(must_run_alone(lost(Begun::no, 1), 2));
  CHECK(must_run_alone(lost(Begun::no, 1, 1, 1), 3));
}
