#include "taskmux/detail/run/request_maker.hpp"

#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>

#include "support/test.hpp"

using namespace taskmux;
using namespace std::chrono_literals;
using detail::RequestMaker;

namespace {

const Time now = ManualClock{}.now();

RequestMaker maker(RequestMaker::Rules rules = {}) {
  rules.clock = std::make_shared<ManualClock>();
  return RequestMaker{std::move(rules)};
}

EnqueueRequest made(const EnqueueOptions& options, Task task = {.type = "t"}) {
  return maker().make(std::move(task), options);
}

std::optional<Errc> refused(const EnqueueOptions& options, Task task = {.type = "t"}) {
  try {
    made(options, std::move(task));
  } catch (const Error& error) {
    CHECK((options.task_id ? error.task_id() == *options.task_id : error.task_id().size() == 36));
    return error.errc();
  }
  return std::nullopt;
}

}  // namespace

TEST_CASE("a request without options has asynq's defaults and a new id", "[request_maker]") {
  RequestMaker any = maker();
  std::set<std::string> ids;
  for (int i = 0; i < 3; ++i) {
    const EnqueueRequest request =
        any.make({.type = "email:welcome", .payload = "42", .headers = {{"trace", "x"}}}, {});
    const TaskMessage& message = request.message;
    ids.insert(message.id);
    CHECK(message.task.type == "email:welcome");
    CHECK(message.task.payload == "42");
    CHECK(message.task.headers == Headers{{"trace", "x"}});
    CHECK(message.queue == "default");
    CHECK(message.max_retry == 25);
    CHECK(message.timeout == 30min);
    CHECK(message.retention == 0s);
    CHECK(message.deadline == Time{});
    CHECK(message.expires_at == Time{});
    CHECK_FALSE(request.process_at);
    CHECK_FALSE(request.process_in);
    CHECK_FALSE(request.expires_in);
    CHECK(request.unique_for == 0s);
    CHECK(request.idempotent_for == 0s);
  }
  CHECK(ids.size() == 3);
}

TEST_CASE("a request contains its options, with durations rounded up to whole seconds",
          "[request_maker]") {
  const EnqueueRequest request = made({.queue = "critical",
                                       .task_id = "my id",
                                       .max_retry = 3,
                                       .timeout = 1500ms,
                                       .deadline = now + 10min + 1us,
                                       .process_in = 250ms,
                                       .unique_for = 1001ms,
                                       .retention = 1ms,
                                       .expires_in = 1h,
                                       .idempotent_for = 1500ms,
                                       .unique_empty_payload = true});
  CHECK(request.message.id == "my id");
  CHECK(request.message.queue == "critical");
  CHECK(request.message.max_retry == 3);
  CHECK(request.message.timeout == 2s);
  CHECK(request.message.deadline == now + 10min + 1s);
  CHECK(request.message.retention == 1s);
  CHECK(request.process_in == 250ms);
  CHECK(request.expires_in == 1h);
  CHECK(request.unique_for == 2s);
  CHECK(request.unique_empty_payload);
  CHECK(request.idempotent_for == 2s);

  CHECK(made({.process_at = now + 1s}).process_at == now + 1s);
  CHECK(made({.expires_at = now + 1us}).message.expires_at == now + 1us);
  // A deadline is limit enough.
  CHECK(made({.deadline = now + 1min}).message.timeout == 0s);
}

TEST_CASE("the defaults of a type apply where the options leave a field out", "[request_maker]") {
  RequestMaker reports = maker(
      {.defaults = {
           {"report", {.queue = "low", .max_retry = 1, .timeout = 1min, .retention = 1h}}}});
  const TaskMessage plain = reports.make({.type = "report"}, {}).message;
  CHECK(plain.queue == "low");
  CHECK(plain.max_retry == 1);
  CHECK(plain.timeout == 1min);
  CHECK(plain.retention == 1h);
  const TaskMessage other =
      reports.make({.type = "report"}, {.queue = "high", .max_retry = 9, .timeout = 2min}).message;
  CHECK(other.queue == "high");
  CHECK(other.max_retry == 9);
  CHECK(other.timeout == 2min);
  CHECK(other.retention == 1h);
  CHECK(reports.make({.type = "reporting"}, {}).message.queue == "default");
}

TEST_CASE("invalid defaults are refused with the name of their type", "[request_maker]") {
  const auto [type, defaults] = GENERATE(values<std::pair<std::string, TypeDefaults>>({
      {"", {}},
      {"t", {.queue = " "}},
      {"t", {.max_retry = -1}},
      {"t", {.timeout = 0s}},
      {"t", {.retention = -1s}},
  }));
  RequestMaker::Rules rules{.settings = "SchedulerConfig"};
  rules.defaults[type] = defaults;
  try {
    RequestMaker{rules};
    FAIL("accepted");
  } catch (const std::invalid_argument& error) {
    CHECK(std::string{error.what()}.starts_with("SchedulerConfig::defaults for \"" + type + '"'));
  }
}

TEST_CASE("invalid options are refused, and the error has the task's id", "[request_maker]") {
  const EnqueueOptions options = GENERATE(
      EnqueueOptions{.queue = ""}, EnqueueOptions{.queue = "  "}, EnqueueOptions{.queue = "a\nb"},
      EnqueueOptions{.queue = std::string("a\0b", 3)}, EnqueueOptions{.queue = "\xff"},
      EnqueueOptions{.queue = std::string(513, 'q')}, EnqueueOptions{.task_id = ""},
      EnqueueOptions{.task_id = "a\x7f"}, EnqueueOptions{.max_retry = -1},
      EnqueueOptions{.timeout = 0s}, EnqueueOptions{.timeout = -1s},
      EnqueueOptions{.timeout = Duration::max()}, EnqueueOptions{.deadline = now},
      EnqueueOptions{.deadline = Time{}}, EnqueueOptions{.deadline = Time::max()},
      EnqueueOptions{.process_at = Time::max()}, EnqueueOptions{.process_in = -1us},
      EnqueueOptions{.process_in = Duration::max()},
      EnqueueOptions{.process_at = now, .process_in = 1s}, EnqueueOptions{.unique_for = 999ms},
      EnqueueOptions{.unique_for = Duration::max()}, EnqueueOptions{.retention = -1s},
      EnqueueOptions{.retention = Duration::max()}, EnqueueOptions{.expires_at = now},
      EnqueueOptions{.expires_in = 0s}, EnqueueOptions{.expires_at = now + 1h, .expires_in = 1h},
      EnqueueOptions{.idempotent_for = 999ms},
      EnqueueOptions{.process_in = 1h, .expires_in = 1h},
      EnqueueOptions{.deadline = now + 1h, .process_in = 1h},
      EnqueueOptions{.deadline = now + 1h, .process_at = now + 1h},
      EnqueueOptions{.process_at = now + 2h, .expires_at = now + 1h});
  CHECK(refused(options) == Errc::invalid_argument);
}

TEST_CASE("invalid tasks are refused", "[request_maker]") {
  CHECK(refused({}, {.type = ""}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = " "}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = "a\tb"}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = std::string(513, 't')}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = "t", .headers = {{"", "x"}}}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = "t", .headers = {{"k", "\xc3"}}}) == Errc::invalid_argument);
  CHECK(refused({}, {.type = "t", .headers = {{"k", std::string{"a\0b", 3}}}}) ==
        Errc::invalid_argument);
  CHECK(refused({}, {.type = "t", .headers = {{"k", std::string(65'536, 'v')}}}) ==
        Errc::invalid_argument);
  CHECK(refused({}, {.type = "t", .payload = std::string(Limits::payload_bytes + 1, 'x')}) ==
        Errc::payload_too_large);
}

