#include <any>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/eventually.hpp"
#include "support/run.hpp"
#include "support/test.hpp"
#include "taskmux/handler.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Phase = detail::RunState::Phase;

static_assert(std::is_copy_constructible_v<Context> && std::is_copy_assignable_v<Context>);
static_assert(!std::is_default_constructible_v<Context>);

namespace {

/// A run in its handler, whose log entries are kept.
struct Running {
  std::vector<std::string> log;
  OneRun run{
      {.type = "t", .payload = "p", .headers = {{"trace", "7"}}},
      std::make_shared<ManualClock>(),
      Logger{LogLevel::info, [this](LogLevel, std::string_view line) { log.emplace_back(line); }}};

  Running() {
    const SteadyTime now = run.clock->steady_now();
    run.state->start(now, now + 1h, run.clock->now() + 1h, 0);
  }
  void end() { CHECK(run.state->end(run.clock->steady_now())); }
  void give_up() {
    run.state->request_stop(StopReason::timeout, run.clock->steady_now());
    CHECK(run.state->advance(Phase::running, Phase::abandoned));
  }
};

}  // namespace

TEST_CASE("copies of a context share the run", "[context]") {
  Running r;
  Context copy = r.run.context;
  copy.set_value("a", 1);
  CHECK(*r.run.context.value<int>("a") == 1);
  copy.set_result("done");
  CHECK(r.run.state->take_result() == "done");
  CHECK_FALSE(copy.stop_requested());
  r.run.state->request_stop(StopReason::cancelled, r.run.clock->steady_now());
  CHECK(copy.stop_reason() == StopReason::cancelled);
}

TEST_CASE("a context that was moved from is as good as before", "[context]") {
  Running r;
  Context first = r.run.context;
  const Context second{static_cast<Context&&>(first)};
  CHECK(first.task_id() == second.task_id());
}

TEST_CASE("a copy that outlives its run tells that it has ended, and changes nothing",
          "[context]") {
  std::optional<Running> r{std::in_place};
  Context copy = r->run.context;
  copy.set_value("kept", std::string{"value"});
  const auto* const value = copy.value<std::string>("kept");
  const std::stop_token token = copy.stop_token();
  const auto state = r->run.state;
  r->end();

  CHECK(token.stop_requested());
  CHECK(copy.stop_requested());
  CHECK(copy.stop_reason() == StopReason::ended);
  CHECK(to_string(copy.stop_reason()) == "ended");
  CHECK(copy.stop_token().stop_requested());
  CHECK_FALSE(copy.wait_for(24h));
  CHECK(copy.value<std::string>("kept") == nullptr);
  CHECK(*value == "value");
  copy.set_value("late", 1);
  CHECK(copy.value<int>("late") == nullptr);
  copy.set_result("late");
  copy.set_result(std::string(Limits::result_bytes + 1, 'x'));
  CHECK(state->take_result() == std::nullopt);
  copy.log(LogLevel::error, "late");
  CHECK(r->log.empty());

  const Time deadline = r->run.clock->now() + 1h;
  r.reset();
  CHECK(copy.task_id() == "t1");
  CHECK(copy.queue() == "default");
  CHECK(copy.type() == "t");
  CHECK(copy.headers().at("trace") == "7");
  CHECK(copy.retry_count() == 0);
  CHECK(copy.deadline() == deadline);
  CHECK(*value == "value");
}

TEST_CASE("a token that is first asked for after the end is requested", "[context]") {
  Running r;
  const Context copy = r.run.context;
  r.end();
  CHECK(copy.stop_token().stop_requested());
}

TEST_CASE("the reason to stop that came before the end stays", "[context]") {
  Running r;
  const Context copy = r.run.context;
  r.run.state->request_stop(StopReason::timeout, r.run.clock->steady_now());
  r.end();
  CHECK(copy.stop_reason() == StopReason::timeout);
}

TEST_CASE("a handler that was given up keeps a context that does nothing", "[context]") {
  Running r;
  Context copy = r.run.context;
  copy.set_value("before", 1);
  r.give_up();
  copy.set_value("after", 1);
  copy.set_result("late");
  copy.log(LogLevel::error, "late");
  CHECK(copy.value<int>("before") == nullptr);
  CHECK(copy.value<int>("after") == nullptr);
  CHECK(r.run.state->take_result() == std::nullopt);
  CHECK(r.log.empty());
  CHECK(copy.stop_reason() == StopReason::timeout);
  CHECK_FALSE(r.run.state->end(r.run.clock->steady_now()));
}

TEST_CASE("a thread that waits on a copy is let go when the run ends", "[context]") {
  Running r;
  auto& clock = static_cast<ManualClock&>(*r.run.clock);
  bool waited = true;
  std::thread waiter{[&waited, copy = r.run.context] { waited = copy.wait_for(24h); }};
  CHECK(eventually([&] { return clock.sleepers() == 1; }));
  r.end();
  waiter.join();
  CHECK_FALSE(waited);
}
