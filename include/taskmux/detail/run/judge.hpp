#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/handler.hpp"
#include "taskmux/retry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The inputs of the verdict on a failure, in addition to the failure itself.
struct JudgeRules {
  const RetryPolicy& retry_policy;
  const std::function<bool(const FailedAttempt&)>&
      is_failure;       ///< If empty, every failure counts.
  double random = 0.0;  ///< Uniform in [0, 1).
  int max_crashes = 3;
};

/// How to settle a run. `complaint` is for the log: an exception that user code threw while it was
/// consulted.
struct Verdict {
  SettleAction action = SettleAction::complete;
  std::string error{};
  Duration delay{};
  Attempt attempt = Attempt::counts;
  std::string complaint{};
};

inline Duration bounded_delay(Duration delay) noexcept {
  if (delay < Duration{0}) return Duration{0};
  return delay > Limits::longest ? Limits::longest : delay;
}

/// Returns the policy's delay, or AsynqRetryDelay's if there is no policy or it throws.
inline Duration policy_delay(const FailedAttempt& attempt, const JudgeRules& rules,
                             std::string& complaint) {
  try {
    if (rules.retry_policy) return bounded_delay(rules.retry_policy(attempt));
  } catch (const std::exception& e) {
    complaint = "the retry policy threw: " + text_of_exception(e);
  } catch (...) {
    complaint = "the retry policy threw " + text_of_exception();
  }
  return AsynqRetryDelay{}(attempt);
}

inline bool counts_as_failure(const FailedAttempt& attempt, const JudgeRules& rules,
                              std::string& complaint) {
  try {
    return !rules.is_failure || rules.is_failure(attempt);
  } catch (const std::exception& e) {
    complaint = "is_failure threw: " + text_of_exception(e);
  } catch (...) {
    complaint = "is_failure threw " + text_of_exception();
  }
  return true;
}

/// Returns the verdict on a task whose handler ended with `outcome`, after it was asked to stop for
/// the reason `stop` (or not). A handler that reports success has succeeded even if it was asked to
/// stop; a handler that snoozes has not. Whether retries are left is tested before is_failure, as
/// in asynq.
inline Verdict judge(const TaskMessage& message, const Outcome& outcome, StopReason stop,
                     CancelMode cancel, const JudgeRules& rules) {
  using Kind = Outcome::Kind;
  switch (outcome.kind()) {
    case Kind::success: return {.action = SettleAction::complete};
    case Kind::revoke: return {.action = SettleAction::remove};
    case Kind::snooze:
      if (stop == StopReason::cancelled && cancel != CancelMode::retry) break;
      return {.action = SettleAction::snooze, .delay = bounded_delay(outcome.delay())};
    default: break;
  }

  Verdict verdict{.error = bounded_utf8(outcome.error(), Limits::error_text_bytes)};
  if (outcome.kind() == Kind::snooze) verdict.error = "cancelled";
  const bool for_good = outcome.kind() == Kind::skip_retry;
  if (stop == StopReason::shutdown && !for_good) {
    verdict.action = SettleAction::give_back;
    return verdict;
  }
  if (stop == StopReason::cancelled && cancel == CancelMode::remove) {
    verdict.action = SettleAction::remove;
    return verdict;
  }
  if (for_good || message.retried >= message.max_retry ||
      (stop == StopReason::cancelled && cancel == CancelMode::archive)) {
    verdict.action = SettleAction::archive;
    return verdict;
  }
  const FailedAttempt attempt{message.task, verdict.error, message.retried, rules.random};
  verdict.action = SettleAction::retry;
  if (!counts_as_failure(attempt, rules, verdict.complaint)) verdict.attempt = Attempt::excused;
  verdict.delay = outcome.kind() == Kind::retry_after
                      ? bounded_delay(outcome.delay())
                      : policy_delay(attempt, rules, verdict.complaint);
  return verdict;
}

/// Returns whether a suspect must run with no other task in its process: the next crash would
/// archive it, so it must not be caused by another task.
inline bool must_run_alone(const Run& run, int max_crashes) noexcept {
  return run.crashes > 0 &&
         (run.crashes + 1 >= max_crashes || run.message->retried >= run.message->max_retry);
}

/// The tasks of a lost worker are retried at random times within this period, so that they do not
/// run together again if one of them caused the loss.
inline constexpr Duration spread_of_lost = std::chrono::seconds{5};

/// Returns the verdict on a task whose worker was lost; `several`: together with other runs.
///
/// | its handler       | uses a retry | crashes | is retried                                       |
/// |-------------------|--------------|---------|--------------------------------------------------|
/// | had not begun     | no           | stay    | at the front of its queue                        |
/// | had perhaps begun | no           | grow    | at the front of its queue                        |
/// | had begun         | yes          | grow    | the same; from the second crash on, after the    |
/// |                   |              |         | policy's delay; archived instead if no retry is  |
/// |                   |              |         | left or `max_crashes` is reached                 |
///
/// If several runs were lost, a random delay is added.
inline Verdict judge_lost(const Run& run, bool several, const JudgeRules& rules) {
  const TaskMessage& message = *run.message;
  const Duration spread =
      several ? Duration{1} + std::chrono::duration_cast<Duration>(spread_of_lost * rules.random)
              : Duration{0};
  Verdict verdict{.error = "worker lost", .attempt = Attempt::crashed};
  if (run.begun != Begun::yes) {
    verdict.action = several ? SettleAction::snooze : SettleAction::give_back;
    verdict.delay = spread;
    if (run.begun == Begun::no) verdict.attempt = Attempt::not_begun;
  } else if (run.crashes + 1 >= rules.max_crashes) {
    verdict.action = SettleAction::archive;
    verdict.error = run.crashes == 0
                        ? "worker lost"
                        : "worker lost " + std::to_string(run.crashes + 1) + " times in a row";
  } else if (message.retried >= message.max_retry) {
    verdict.action = SettleAction::archive;
  } else {
    verdict.action = SettleAction::retry;
    const FailedAttempt attempt{message.task, verdict.error, message.retried, rules.random};
    if (run.crashes > 0) verdict.delay = policy_delay(attempt, rules, verdict.complaint);
    verdict.delay = bounded_delay(verdict.delay + spread);
  }
  return verdict;
}

/// Returns the settlement for `verdict`.
inline Settlement settlement_of(const Run& run, Verdict&& verdict,
                                std::optional<std::string> result = std::nullopt) {
  return {.run = run,
          .action = verdict.action,
          .error = std::move(verdict.error),
          .delay = verdict.delay,
          .attempt = verdict.attempt,
          .result = std::move(result)};
}

/// Returns the replacement for `settlement`, whose result is too large for the connection to the
/// broker. A task that succeeded is archived, with the reason: the work is done, so repeating it
/// would not help, and a caller that waits for the result must not mistake it for a task without a
/// result.
inline Settlement without_result(Settlement settlement) {
  const std::string reason = "its result of " +
                             std::to_string(settlement.result ? settlement.result->size() : 0) +
                             " bytes is too large for the connection to the broker";
  settlement.result.reset();
  if (settlement.action == SettleAction::complete) {
    settlement.action = SettleAction::archive;
    settlement.error = "the handler succeeded, but " + reason;
  } else {
    settlement.error += settlement.error.empty() ? reason : " (" + reason + ")";
    settlement.error = bounded_utf8(settlement.error, Limits::error_text_bytes);
  }
  return settlement;
}

/// What takes the place of `settlement`, which the broker rejected for `cause`: the task is archived with
/// the reason.
inline Settlement last_resort(Settlement settlement, const std::string& cause) {
  std::string reason = settlement.action == SettleAction::complete
                           ? "the handler succeeded, but the broker can't record it: "
                           : "the broker can't record the outcome: ";
  reason += cause;
  if (!settlement.error.empty()) reason += " (" + settlement.error + ")";
  settlement.action = SettleAction::archive;
  settlement.error = bounded_utf8(reason, Limits::error_text_bytes);
  settlement.delay = {};
  settlement.result.reset();
  settlement.last_resort = true;
  return settlement;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
