#include "taskmux/serve_mux.hpp"

#include <stdexcept>
#include <string>
#include <vector>

#include "support/run.hpp"
#include "support/test.hpp"

namespace taskmux::test {

struct NoText final : std::exception {
  const char* what() const noexcept override { return nullptr; }
};

}  // namespace taskmux::test

using namespace taskmux;
using namespace std::chrono_literals;

namespace {

auto says(std::string text) {
  return [text](Context&, const Task&) { return Outcome::fail(text); };
}

std::string answer(ServeMux& mux, const std::string& type) {
  test::OneRun run{{.type = type}};
  return mux.handle(run.context, {.type = type}).error();
}

class Fails final : public TaskHandler {
 public:
  Outcome handle(Context&, const Task& task) override {
    return Outcome::fail("object: " + task.type);
  }
};

}  // namespace

TEST_CASE("an exact pattern wins, then the longest prefix, then the not-found handler", "[mux]") {
  ServeMux mux;
  mux.handle("email", says("email"));
  mux.handle("email:", says("email:"));
  mux.handle("email:welcome", says("welcome"));
  mux.handle("email:weekly:x", says("weekly x"));
  mux.handle("image", says("image"));

  CHECK(answer(mux, "email:welcome") == "welcome");
  CHECK(answer(mux, "email:welcome:de") == "welcome");
  CHECK(answer(mux, "email:weekly") == "email:");
  CHECK(answer(mux, "email:z") == "email:");
  CHECK(answer(mux, "emailing") == "email");
  CHECK(answer(mux, "email") == "email");
  CHECK(answer(mux, "imag") == "handler not found for task \"imag\"");
  CHECK(answer(mux, "zzz") == "handler not found for task \"zzz\"");
  CHECK(answer(mux, "aaa") == "handler not found for task \"aaa\"");
  CHECK(mux.knows("image:resize"));
  CHECK_FALSE(mux.knows("audio"));
}

TEST_CASE("handlers are objects or callables, with or without an outcome", "[mux]") {
  ServeMux mux;
  int calls = 0;
  mux.handle("object", std::make_unique<Fails>());
  mux.handle("void", [&calls](Context&, const Task&) { ++calls; });
  CHECK(answer(mux, "object") == "object: object");
  CHECK(answer(mux, "void").empty());
  CHECK(calls == 1);
}

TEST_CASE("a callable that returns void has failed if it was asked to stop", "[mux]") {
  ServeMux mux;
  mux.handle("void", [](Context&, const Task&) {});
  mux.handle("says", [](Context&, const Task&) { return Outcome::success(); });
  test::OneRun run{{.type = "void"}};
  CHECK(mux.handle(run.context, {.type = "void"}).kind() == Outcome::Kind::success);
  run.state->request_stop(StopReason::shutdown, run.clock->steady_now());
  const Outcome stopped = mux.handle(run.context, {.type = "void"});
  CHECK(stopped.kind() == Outcome::Kind::failure);
  CHECK(stopped.error() == "returned after it was asked to stop: shutdown");
  CHECK(mux.handle(run.context, {.type = "says"}).kind() == Outcome::Kind::success);
}

TEST_CASE("a mux has a handler for unknown types, and muxes can be nested", "[mux]") {
  ServeMux inner;
  inner.handle("image:resize", says("resize"));
  inner.not_found(says("inner does not know"));
  ServeMux mux;
  mux.handle("image:", std::make_unique<ServeMux>(std::move(inner)));
  mux.not_found(std::make_unique<Fails>());
  CHECK(answer(mux, "image:resize") == "resize");
  CHECK(answer(mux, "image:crop") == "inner does not know");
  CHECK(answer(mux, "audio") == "object: audio");
}

TEST_CASE("middleware wraps every handler, the first registered outermost", "[mux]") {
  ServeMux mux;
  std::vector<std::string> calls;
  const auto note = [&calls](std::string name) {
    return [&calls, name](Context& context, const Task& task, const Next& next) {
      calls.push_back(name + "+");
      Outcome outcome = next(context, task);
      calls.push_back(name + "-");
      return outcome;
    };
  };
  mux.use(note("a"));
  mux.handle("t", [&calls](Context&, const Task&) { calls.push_back("handler"); });
  mux.use(note("b"));

  CHECK(answer(mux, "t").empty());
  CHECK(calls == std::vector<std::string>{"a+", "b+", "handler", "b-", "a-"});
  calls.clear();
  CHECK(answer(mux, "unknown") == "handler not found for task \"unknown\"");
  CHECK(calls == std::vector<std::string>{"a+", "b+", "b-", "a-"});
}

TEST_CASE("middleware of an outer mux wraps that of an inner one", "[mux]") {
  std::vector<std::string> calls;
  const auto note = [&calls](std::string name) {
    return [&calls, name](Context& context, const Task& task, const Next& next) {
      calls.push_back(name);
      return next(context, task);
    };
  };
  auto inner = std::make_unique<ServeMux>();
  inner->use(note("inner 1"));
  inner->use(note("inner 2"));
  inner->handle("t", says("handled"));
  ServeMux mux;
  mux.handle("t", std::move(inner));
  mux.use(note("outer"));
  CHECK(answer(mux, "t") == "handled");
  CHECK(calls == std::vector<std::string>{"outer", "inner 1", "inner 2"});
}

TEST_CASE("middleware can skip the handler, change the task, and pass values to the handler",
          "[mux]") {
  ServeMux mux;
  mux.use([](Context& context, const Task& task, const Next& next) {
    if (task.headers.contains("stop")) return Outcome::skip_retry("stopped");
    context.set_value("user", std::string{"ada"});
    Task changed = task;
    changed.payload = "changed";
    return next(context, changed);
  });
  mux.handle("t", [](Context& context, const Task& task) {
    CHECK(context.value<int>("user") == nullptr);
    CHECK(context.value<std::string>("nobody") == nullptr);
    return Outcome::fail(*context.value<std::string>("user") + ' ' + task.payload);
  });
  test::OneRun run{{.type = "t"}};
  CHECK(mux.handle(run.context, {.type = "t"}).error() == "ada changed");
  CHECK(mux.handle(run.context, {.type = "t", .headers = {{"stop", ""}}}).kind() ==
        Outcome::Kind::skip_retry);
}

TEST_CASE("exceptions of handlers and middleware become outcomes that middleware sees", "[mux]") {
  ServeMux mux;
  Outcome::Kind seen = Outcome::Kind::success;
  mux.use([&seen](Context& context, const Task& task, const Next& next) {
    Outcome outcome = next(context, task);
    seen = outcome.kind();
    if (task.payload == "throw outside") throw std::runtime_error{"outside"};
    return outcome;
  });
  mux.handle("std", [](Context&, const Task&) { throw std::runtime_error{"boom"}; });
  mux.handle("int", [](Context&, const Task&) { throw 7; });
  mux.handle("null", [](Context&, const Task&) { throw test::NoText{}; });
  mux.handle("empty", [](Context&, const Task&) { throw std::runtime_error{""}; });
  mux.handle("skip", [](Context&, const Task&) { throw SkipRetry{"never"}; });
  mux.handle("revoke", [](Context&, const Task&) { throw RevokeTask{}; });
  mux.handle("later", [](Context&, const Task&) { throw RetryAfter{3s, "busy"}; });
  mux.handle("fine", [](Context&, const Task&) {});

  const auto outcome_of = [&mux](const std::string& type, const std::string& payload = {}) {
    test::OneRun run{{.type = type}};
    return mux.handle(run.context, {.type = type, .payload = payload});
  };
  CHECK(outcome_of("std").error() == "boom");
  CHECK(seen == Outcome::Kind::failure);
  CHECK(outcome_of("int").kind() == Outcome::Kind::failure);
  CHECK(outcome_of("int").error() ==
        "the handler threw something that is not a std::exception, of type int");
  CHECK(outcome_of("null").error() == "an exception without text, of type taskmux::test::NoText");
  CHECK(outcome_of("empty").error() == "an exception without text, of type std::runtime_error");
  CHECK(outcome_of("skip").kind() == Outcome::Kind::skip_retry);
  CHECK(outcome_of("skip").error() == "never");
  CHECK(outcome_of("revoke").kind() == Outcome::Kind::revoke);
  CHECK(outcome_of("later").kind() == Outcome::Kind::retry_after);
  CHECK(outcome_of("later").delay() == 3s);
  CHECK(outcome_of("fine", "throw outside").error() == "outside");
}

TEST_CASE("invalid registrations are refused at once", "[mux]") {
  ServeMux mux;
  mux.handle("t", says(""));
  CHECK_THROWS_AS(mux.handle("t", says("")), std::invalid_argument);
  CHECK_THROWS_AS(mux.handle("", says("")), std::invalid_argument);
  CHECK_THROWS_AS(mux.handle(" \t", says("")), std::invalid_argument);
  CHECK_THROWS_AS(mux.handle("null", std::unique_ptr<TaskHandler>{}), std::invalid_argument);
  CHECK_THROWS_AS(mux.handle("empty", std::function<void(Context&, const Task&)>{}),
                  std::invalid_argument);
  CHECK_THROWS_AS(mux.handle("timeout", says(""), {.timeout = 0s}), std::invalid_argument);
  CHECK_THROWS_AS(mux.use(Middleware{}), std::invalid_argument);
  CHECK_THROWS_AS(mux.not_found(std::unique_ptr<TaskHandler>{}), std::invalid_argument);
  CHECK_FALSE(mux.knows("null"));
}

TEST_CASE("a route has the options of the pattern that the type is routed to", "[mux]") {
  ServeMux mux;
  mux.handle("email:", says(""), {.retry_policy = FixedDelay{9s}, .timeout = 3s});
  mux.handle("email:fast", says(""), {.timeout = 1s});
  CHECK(mux.route("email:slow").pattern == "email:");
  CHECK(mux.route("email:slow").timeout == Duration{3s});
  CHECK(mux.route("email:slow").retry_policy != nullptr);
  CHECK(mux.route("email:fast").pattern == "email:fast");
  CHECK(mux.route("email:fast").timeout == Duration{1s});
  CHECK(mux.route("email:fast").retry_policy == nullptr);
  CHECK(mux.route("email:fast").known);
  CHECK_FALSE(mux.route("other").known);
  CHECK(mux.route("other").pattern.empty());
  CHECK_FALSE(mux.route("other").timeout);
  mux.not_found(says(""));
  CHECK(mux.route("other").known);
  CHECK(mux.route("other").pattern.empty());
}

TEST_CASE("in nested muxes, inner options take precedence over outer ones", "[mux]") {
  const auto delay_of = [](const TaskRoute& route) {
    const Task task;
    return (*route.retry_policy)({.task = task, .error = ""});
  };
  auto innermost = std::make_unique<ServeMux>();
  innermost->handle("image:resize:small", says("small"), {.retry_policy = FixedDelay{1s}});
  auto inner = std::make_unique<ServeMux>();
  inner->handle("image:resize:", std::move(innermost), {.timeout = 2s});
  inner->handle("image:crop", says("crop"), {.retry_policy = FixedDelay{7s}, .timeout = 90s});
  ServeMux mux;
  mux.handle("image:", std::move(inner), {.retry_policy = FixedDelay{60s}, .timeout = 60s});

  const TaskRoute small = mux.route("image:resize:small");
  CHECK(small.pattern == "image:resize:small");
  CHECK(delay_of(small) == 1s);
  CHECK(small.timeout == Duration{2s});
  const TaskRoute crop = mux.route("image:crop");
  CHECK(delay_of(crop) == 7s);
  CHECK(crop.timeout == Duration{90s});

  const TaskRoute unknown = mux.route("image:turn");
  CHECK_FALSE(unknown.known);
  CHECK(unknown.pattern == "image:");
  CHECK(delay_of(unknown) == 60s);
  CHECK(answer(mux, "image:resize:small") == "small");
  CHECK(answer(mux, "image:turn") == "handler not found for task \"image:turn\"");
}
