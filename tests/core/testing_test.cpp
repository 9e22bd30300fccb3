#include "taskmux/testing.hpp"

#include <string>
#include <vector>

#include "support/builders.hpp"
#include "support/test.hpp"
#include "taskmux/client.hpp"
#include "taskmux/memory/memory_broker.hpp"

using namespace taskmux;
using namespace std::chrono_literals;

namespace {

struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker broker{{.clock = clock}};
  Client client{broker, {.clock = clock}};
  std::vector<std::string> calls;

  ServeMux mux() {
    ServeMux mux;
    mux.handle("note", [this](Context&, const Task& task) { calls.push_back(task.payload); });
    return mux;
  }
  ServerConfig config() { return {.retry_policy = FixedDelay{1min}, .clock = clock}; }
};

}  // namespace

TEST_CASE("due tasks run on the caller's thread, in order, and no others", "[testing]") {
  Fixture f;
  TestServer server{f.broker, f.mux(), f.config()};
  CHECK(server.run_due() == 0);
  f.client.enqueue({.type = "note", .payload = "a"});
  f.client.enqueue({.type = "note", .payload = "later"}, {.process_in = 1h});
  f.client.enqueue({.type = "note", .payload = "b"});
  CHECK(server.run_one());
  CHECK(f.calls == std::vector<std::string>{"a"});
  CHECK(server.run_due() == 1);
  CHECK(f.calls == std::vector<std::string>{"a", "b"});
  f.clock->advance(1h);
  CHECK(server.run_due() == 1);
  CHECK(f.calls.back() == "later");
}

TEST_CASE("run_all() advances the clock from due time to due time", "[testing]") {
  Fixture f;
  ServeMux mux = f.mux();
  int tries = 0;
  mux.handle("flaky", [&](Context& context, const Task&) {
    CHECK(context.retry_count() == tries);
    return ++tries < 3 ? Outcome::fail("not yet") : Outcome::success();
  });
  TestServer server{f.broker, std::move(mux), f.config()};
  const Time start = f.clock->now();
  f.client.enqueue({.type = "flaky"});
  f.client.enqueue({.type = "note", .payload = "tomorrow"}, {.process_in = 24h});
  CHECK(server.run_all(*f.clock) == 4);
  CHECK(tries == 3);
  CHECK(f.calls == std::vector<std::string>{"tomorrow"});
  CHECK(f.clock->now() == start + 24h);
  CHECK(f.broker.queue_info("default").size() == 0);
}

TEST_CASE("run_all() fails if the broker uses another clock", "[testing]") {
  Fixture f;
  MemoryBroker other;
  TestServer server{other, f.mux(), f.config()};
  Client{other}.enqueue({.type = "note"}, {.process_in = 24h});
  CHECK(test::error_of([&] { server.run_all(*f.clock); }) == Errc::wrong_state);
}

TEST_CASE("a task that enqueues itself is stopped by the limit", "[testing]") {
  Fixture f;
  ServeMux mux;
  mux.handle("again", [&](Context&, const Task&) { f.client.enqueue({.type = "again"}); });
  TestServer server{f.broker, std::move(mux), f.config()};
  f.client.enqueue({.type = "again"});
  CHECK(test::error_of([&] { server.run_due(100); }) == Errc::timed_out);
}

TEST_CASE("a result over the limit is refused, which fails the run unless it is caught",
          "[testing]") {
  Fixture f;
  ServeMux mux;
  mux.handle("fails", [](Context& context, const Task& task) { context.set_result(task.payload); });
  mux.handle("copes", [](Context& context, const Task& task) {
    context.set_result("short");
    CHECK(test::error_of([&] { context.set_result(task.payload); }) == Errc::payload_too_large);
  });
  ServerConfig config = f.config();
  config.max_result_bytes = 5;
  TestServer server{f.broker, std::move(mux), config};
  const EnqueueOptions once{.max_retry = 0, .retention = 1h};
  const std::string fits = f.client.enqueue({.type = "fails", .payload = "12345"}, once).id;
  const std::string over = f.client.enqueue({.type = "fails", .payload = "123456"}, once).id;
  const std::string copes = f.client.enqueue({.type = "copes", .payload = "123456"}, once).id;
  CHECK(server.run_due() == 3);
  CHECK(f.broker.find("default", fits)->result == "12345");
  CHECK(f.broker.find("default", copes)->result == "short");
  const TaskInfo failed = f.broker.find("default", over).value();
  CHECK(failed.state == TaskState::archived);
  CHECK(failed.last_error.find("the result has 6 bytes, more than the 5") != std::string::npos);
}

TEST_CASE("waiting in a handler advances the clock, up to the deadline", "[testing]") {
  Fixture f;
  ServeMux mux;
  mux.handle("waits", [&](Context& context, const Task&) {
    const Time before = f.clock->now();
    CHECK(context.wait_for(10s));
    CHECK(f.clock->now() - before == 10s);
    CHECK_FALSE(context.wait_for(1h));
    CHECK(context.stop_reason() == StopReason::timeout);
    CHECK(f.clock->now() - before == 1min);
    return Outcome::fail("too slow");
  });
  TestServer server{f.broker, std::move(mux), f.config()};
  f.client.enqueue({.type = "waits"}, {.max_retry = 0, .timeout = 1min});
  CHECK(server.run_due() == 1);
  CHECK(f.broker.queue_info("default").archived == 1);
}

TEST_CASE("queues are served by priority", "[testing]") {
  Fixture f;
  ServerConfig config = f.config();
  config.queues = {{"low", 1}, {"high", 9}};
  TestServer server{f.broker, f.mux(), config};
  f.client.enqueue({.type = "note", .payload = "low"}, {.queue = "low"});
  f.client.enqueue({.type = "note", .payload = "high"}, {.queue = "high"});
  server.run_due();
  CHECK(f.calls == std::vector<std::string>{"high", "low"});
}

TEST_CASE("hooks are called with the events", "[testing]") {
  Fixture f;
  ServeMux mux;
  mux.handle("fails", [&](Context&, const Task&) {
    f.clock->advance(2s);
    return Outcome::fail("boom");
  });
  std::vector<std::string> events;
  ServerConfig config = f.config();
  const auto note = [&events](const char* hook) {
    return [&events, hook](const TaskEvent& e) {
      events.push_back(std::string{hook} + ' ' + std::string{to_string(e.change)} + " #" +
                       std::to_string(e.attempt) + ' ' + e.error);
      if (e.change != TaskEvent::Change::started) CHECK(e.ran == 2s);
      if (e.attempt == 1) CHECK(e.waited == 5s);
    };
  };
  config.hooks = {.on_failure = note("failure"),
                  .on_dead_letter = note("dead"),
                  .on_state_change = note("change")};
  TestServer server{f.broker, std::move(mux), config};
  f.client.enqueue({.type = "fails"}, {.max_retry = 1});
  f.clock->advance(5s);
  server.run_all(*f.clock);
  CHECK(events == std::vector<std::string>{"change started #1 ", "change retried #1 boom",
                                           "failure retried #1 boom", "change started #2 ",
                                           "change archived #2 boom", "failure archived #2 boom",
                                           "dead archived #2 boom"});
}

TEST_CASE("a task whose last run was cancelled and given back ends without its handler",
          "[testing]") {
  Fixture f;
  TestServer server{f.broker, f.mux(), f.config()};
  const std::string id = f.client.enqueue({.type = "note", .payload = "a"}).id;
  const Run run = test::take_one(f.broker);
  f.broker.cancel("default", id, CancelMode::archive);
  test::settle(f.broker, test::given_back(run));
  CHECK(server.run_one());
  CHECK(f.calls.empty());
  CHECK(test::state_of(f.broker, id) == TaskState::archived);
}

TEST_CASE("a task that expires before it starts is archived instead of run", "[testing]") {
  Fixture f;
  TestServer server{f.broker, f.mux(), f.config()};
  const std::string id = f.client.enqueue({.type = "note"}, {.expires_in = 1min}).id;
  f.client.enqueue({.type = "note", .payload = "in time"}, {.expires_in = 2min});
  f.clock->advance(1min);
  server.run_due();
  CHECK(f.calls == std::vector<std::string>{"in time"});
  CHECK(f.broker.find("default", id)->state == TaskState::archived);
  CHECK(f.broker.find("default", id)->last_error.find("expired") == 0);
}

TEST_CASE("a task whose deadline has passed is archived without being run", "[testing]") {
  Fixture f;
  ServerConfig config = f.config();
  std::vector<TaskEvent::Change> changes;
  config.hooks.on_state_change = [&](const TaskEvent& event) { changes.push_back(event.change); };
  TestServer server{f.broker, f.mux(), config};
  EnqueueOptions options;
  SECTION("by its deadline") { options = {.deadline = f.clock->now() + 30s}; }
  SECTION("by its expiry") { options = {.expires_in = 30s}; }
  const bool expires = options.expires_in.has_value();
  const std::string id = f.client.enqueue({.type = "note"}, options).id;
  f.clock->advance(30s);
  server.run_all(*f.clock);
  CHECK(f.calls.empty());
  const TaskInfo info = *f.broker.find("default", id);
  CHECK(info.state == TaskState::archived);
  CHECK(info.retried == 0);
  CHECK(info.last_error == (expires ? "expired: no worker had started it in time"
                                    : "its deadline had passed before it could be started"));
  CHECK(changes == std::vector{TaskEvent::Change::archived});
}

TEST_CASE("limits of any size bound an attempt without overflow", "[testing]") {
  const SteadyTime now{1h};
  const Time wall = ManualClock{}.now();
  const auto limit_of = [&](std::chrono::seconds timeout, Time deadline,
                            std::optional<Duration> by_route = std::nullopt) {
    TaskMessage message;
    message.timeout = timeout;
    message.deadline = deadline;
    return detail::attempt_limits(message, by_route, now, wall).steady - now;
  };
  CHECK(limit_of(0s, Time{}) == 30min);
  CHECK(limit_of(10s, Time{}) == 10s);
  CHECK(limit_of(0s, wall + 5s) == 5s);
  CHECK(limit_of(10s, wall + 5s) == 5s);
  CHECK(limit_of(3s, wall + 5s) == 3s);
  CHECK(limit_of(-1s, Time{}) == 0s);
  CHECK(limit_of(std::chrono::seconds::max(), Time{}) == Limits::longest);
  CHECK(limit_of(std::chrono::seconds::min(), Time{}) == 0s);
  CHECK(limit_of(0s, Time::max()) == Limits::longest);
  CHECK(limit_of(0s, Time{-2000 * 365 * 24h}) == 0s);
  CHECK(limit_of(10s, Time{}, 2s) == 2s);
  CHECK(limit_of(10s, Time{}, 1h) == 10s);
}
