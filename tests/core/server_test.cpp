#include "taskmux/server.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <barrier>
#include <latch>
#include <mutex>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <thread>
#include <vector>

#include "support/builders.hpp"
#include "support/captured_stderr.hpp"
#include "support/eventually.hpp"
#include "support/flaky_broker.hpp"
#include "support/limited_broker.hpp"
#include "support/test.hpp"
#include "support/violations.hpp"
#include "taskmux/client.hpp"
#include "taskmux/memory/memory_broker.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

/// A broker, a client, and the servers that a test starts. With a manual clock, time passes only
/// when the test advances it.
struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker memory{{.clock = clock}};
  FlakyBroker broker{memory};
  Client client{broker, {.clock = clock}};
  Violations violations;

  ~Fixture() { CHECK(violations.all() == std::vector<std::string>{}); }

  ServerConfig config(std::size_t concurrency = 2) {
    return {.concurrency = concurrency,
            .retry_policy = FixedDelay{1min},
            .logger = Logger::none(),
            .clock = clock};
  }
  std::optional<TaskState> state(const std::string& id) { return state_of(memory, id); }

  /// The configuration of a server that waits long enough for its handlers to stop on a busy
  /// machine, while time passes.
  ServerConfig patient_config() {
    ServerConfig patient = config(1);
    patient.abandon_after = 24h;
    return patient;
  }

  /// Advances the clock in small steps until `done`; before each step, the server's roles may
  /// become idle, as they would in real time. Since not all of them always do, a step follows after
  /// some checks in any case.
  template <typename Predicate>
  bool pass_time_until(Predicate done) {
    constexpr std::size_t roles = 5;
    constexpr int looks = 30;
    return eventually([&, look = 0]() mutable {
      if (done()) return true;
      if (clock->sleepers() < roles && ++look % looks != 0) return false;
      clock->advance(50ms);
      return false;
    });
  }

  /// Shuts the server down while time passes.
  void shut_down(Server& server) {
    std::atomic<bool> ended{false};
    std::thread ends{[&] {
      server.shutdown();
      ended = true;
    }};
    CHECK(pass_time_until([&] { return ended.load(); }));
    ends.join();
  }
};

template <typename F>
ServeMux mux_of(F function) {
  ServeMux mux;
  mux.handle("t", std::move(function));
  return mux;
}

const auto nothing = [](Context&, const Task&) {};

}  // namespace

TEST_CASE("every task is run once, whether enqueued before or after the start", "[server]") {
  Fixture f;
  std::mutex mutex;
  std::multiset<std::string> ran;
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  const std::lock_guard lock{mutex};
                  ran.emplace(context.task_id());
                }),
                f.config(4)};
  std::set<std::string> ids;
  for (int i = 0; i < 50; ++i) ids.insert(f.client.enqueue({.type = "t"}).id);
  server.start();
  for (int i = 0; i < 50; ++i) ids.insert(f.client.enqueue({.type = "t"}).id);
  REQUIRE(eventually([&] { return server.stats().succeeded == 100; }));
  server.shutdown();
  CHECK(std::set<std::string>{ran.begin(), ran.end()} == ids);
  CHECK(ran.size() == 100);
  CHECK(f.memory.queue_info("default").size() == 0);
  CHECK(f.memory.queue_info("default").processed_total == 100);
}

TEST_CASE("as many handlers run at once as the concurrency allows, and no more", "[server]") {
  Fixture f;
  std::barrier meet{3};
  std::atomic<int> now{0};
  std::atomic<int> most{0};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  int seen = ++now;
                  for (int known = most;
                       seen > known && !most.compare_exchange_weak(known, seen);) {
                  }
                  meet.arrive_and_wait();
                  --now;
                }),
                f.config(3)};
  for (int i = 0; i < 9; ++i) f.client.enqueue({.type = "t"});
  server.start();
  REQUIRE(eventually([&] { return server.stats().succeeded == 9; }));
  CHECK(most == 3);
}

TEST_CASE("a failed task is retried after the policy's delay, until it succeeds", "[server]") {
  Fixture f;
  std::atomic<int> tries{0};
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  f.violations.expect(context.retry_count() == tries, "a wrong retry count");
                  if (++tries < 3) throw std::runtime_error{"not yet"};
                }),
                f.config()};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}).id;
  REQUIRE(eventually([&] { return f.state(id) == TaskState::retry; }));
  CHECK(f.memory.find("default", id)->last_error == "not yet");
  f.clock->advance(59s);
  CHECK(tries == 1);
  f.clock->advance(1s);
  REQUIRE(eventually([&] { return server.stats().retried == 2; }));
  REQUIRE(eventually([&] { return f.state(id) == TaskState::retry; }));
  f.clock->advance(1min);
  REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
  CHECK(tries == 3);
}

TEST_CASE("the configuration limits the length of a result", "[server]") {
  Fixture f;
  ServerConfig config = f.config();
  config.max_result_bytes = 5;
  Server server{
      f.broker,
      mux_of([](Context& context, const Task& task) { context.set_result(task.payload); }), config};
  const EnqueueOptions once{.max_retry = 0, .retention = 1h};
  const std::string fits = f.client.enqueue({.type = "t", .payload = "12345"}, once).id;
  const std::string over = f.client.enqueue({.type = "t", .payload = "123456"}, once).id;
  server.start();
  REQUIRE(eventually([&] { return server.stats().succeeded + server.stats().archived == 2; }));
  CHECK(f.memory.find("default", fits)->result == "12345");
  CHECK(f.memory.find("default", over)->last_error.find("set_result") != std::string::npos);
  CHECK(ServerConfig{}.max_result_bytes == 16u << 20);
}

TEST_CASE("an invalid configuration is refused at once", "[server]") {
  Fixture f;
  const auto refused = [&](auto change) {
    ServerConfig config = f.config();
    change(config);
    CHECK_THROWS_AS((Server{f.broker, mux_of(nothing), config}), std::invalid_argument);
  };
  refused([](ServerConfig& c) { c.concurrency = 0; });
  refused([](ServerConfig& c) { c.concurrency = static_cast<std::size_t>(-1); });
  refused([](ServerConfig& c) { c.queues = {}; });
  refused([](ServerConfig& c) { c.queues = {{"", 1}}; });
  refused([](ServerConfig& c) { c.queues = {{"q", 0}}; });
  refused([](ServerConfig& c) { c.queues = {{"q", -1}}; });
  refused([](ServerConfig& c) { c.lease = 4s; });
  refused([](ServerConfig& c) { c.lease = Duration::max(); });
  refused([](ServerConfig& c) { c.shutdown_timeout = -1s; });
  refused([](ServerConfig& c) { c.abandon_after = -1s; });
  refused([](ServerConfig& c) { c.max_abandoned = 0; });
  refused([](ServerConfig& c) { c.max_crashes = 0; });
  refused([](ServerConfig& c) { c.heartbeat_interval = 0s; });
  refused([](ServerConfig& c) { c.upkeep_interval = 0s; });
  refused([](ServerConfig& c) { c.archive.max_age = -1s; });
  CHECK_THROWS_AS((Server{f.broker, ServeMux{}, f.config()}), std::invalid_argument);
  ServerConfig hasty = f.config();
  hasty.lease = 1s;
  CHECK_THROWS_WITH((Server{f.broker, mux_of(nothing), hasty}), "Server: lease is under 5 s");
}

TEST_CASE("a server can be started only once", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  server.start();
  CHECK(error_of([&] { server.start(); }) == Errc::wrong_state);
  server.shutdown();
  CHECK(error_of([&] { server.start(); }) == Errc::wrong_state);

  Server never{f.broker, mux_of(nothing), f.config()};
  never.shutdown();
  CHECK(error_of([&] { never.start(); }) == Errc::wrong_state);
}

TEST_CASE("a start without a broker fails, and can be repeated", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  f.broker.fail(Operation::ping, 1);
  CHECK(error_of([&] { server.start(); }) == Errc::unavailable);
  f.broker.fail(Operation::watch, 1);
  CHECK(error_of([&] { server.start(); }) == Errc::unavailable);
  server.start();
  f.client.enqueue({.type = "t"});
  CHECK(eventually([&] { return server.stats().succeeded == 1; }));
}

TEST_CASE("a shutdown waits for running handlers and takes no task", "[server]") {
  Fixture f;
  std::latch entered{1};
  std::latch go{1};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  entered.count_down();
                  go.wait();
                }),
                f.config(1)};
  server.start();
  const std::string first = f.client.enqueue({.type = "t"}).id;
  entered.wait();
  const std::string second = f.client.enqueue({.type = "t"}).id;
  server.stop();  // As shutdown() begins, so that the handler can't end before it.
  std::atomic<bool> ended{false};
  std::thread ends{[&] {
    server.shutdown();
    ended = true;
  }};
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  CHECK_FALSE(ended);
  go.count_down();
  ends.join();
  CHECK(f.state(first) == std::nullopt);
  CHECK(f.state(second) == TaskState::pending);
  CHECK(server.stats().running == 0);
  CHECK(f.memory.servers().empty());
}

TEST_CASE("at the shutdown's limit handlers are asked to stop, and their tasks are given back",
          "[server]") {
  Fixture f;
  std::latch entered{1};
  std::atomic<StopReason> reason{StopReason::none};
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  entered.count_down();
                  context.wait_for(Duration::max());
                  reason = context.stop_reason();
                  return Outcome::fail("interrupted");
                }),
                f.patient_config()};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}, {.timeout = Limits::longest}).id;
  entered.wait();
  f.shut_down(server);
  CHECK(reason == StopReason::shutdown);
  CHECK(f.state(id) == TaskState::pending);
  CHECK(f.memory.find("default", id)->retried == 0);
  CHECK(server.stats().given_back >= 1);
}

TEST_CASE("a handler that ignores the shutdown is abandoned, and its task is given back",
          "[server]") {
  Fixture f;
  struct Hang {
    std::latch entered{1};
    std::latch go{1};
    std::latch left{1};
  };
  const auto hang = std::make_shared<Hang>();
  std::string id;
  std::vector<std::string> log;
  {
    ServerConfig config = f.config(1);
    config.logger =
        Logger{LogLevel::info, [&](LogLevel, std::string_view line) { log.emplace_back(line); }};
    Server server{f.broker, mux_of([hang](Context& context, const Task&) {
                    hang->entered.count_down();
                    hang->go.wait();
                    context.log(LogLevel::error, "from the grave");
                    context.set_result("late");
                    context.set_value("k", 1);
                    const bool waited = context.wait_for(1h);
                    if (!waited && context.task_id() != "") hang->left.count_down();
                  }),
                  config};
    server.start();
    id = f.client.enqueue({.type = "t"}, {.timeout = 24h * 365}).id;
    hang->entered.wait();
    f.shut_down(server);
    CHECK(server.stats().abandoned == 1);
  }
  CHECK(f.state(id) == TaskState::pending);
  hang->go.count_down();  // Server, mux and configuration are gone; the handler still has what it
                          // needs.
  hang->left.wait();
  CHECK(f.state(id) == TaskState::pending);
  for (const std::string& line : log) CHECK(line.find("from the grave") == std::string::npos);
}

TEST_CASE("runs that arrive during a shutdown are given back", "[server]") {
  Fixture f;
  auto server = std::make_unique<Server>(f.broker, mux_of(nothing), f.config());
  server->start();
  f.broker.wait_calls(Operation::arm, 1);
  f.broker.hold(Operation::exchange, 1);
  const std::string id = f.client.enqueue({.type = "t"}).id;
  f.broker.wait_held(Operation::exchange);
  REQUIRE(eventually([&] { return f.clock->sleepers() == 4; }));  // All other roles.
  std::thread ends{[&] { server.reset(); }};
  // Upkeep and watchdog have ended: runs that arrive now are too late to be started.
  CHECK(eventually([&] { return f.clock->sleepers() == 2; }));
  f.broker.release(Operation::exchange);
  ends.join();
  CHECK(f.state(id) == TaskState::pending);
  CHECK(f.memory.find("default", id)->retried == 0);
}

TEST_CASE("an event contains the handler's duration, without the outage that followed",
          "[server]") {
  Fixture f;
  std::atomic<Duration> ran{Duration{-1}};
  std::atomic<Duration> waited{Duration{-1}};
  ServerConfig config = f.config(1);
  config.hooks.on_state_change = [&](const TaskEvent& event) {
    if (event.change != TaskEvent::Change::succeeded) return;
    waited = event.waited;
    ran = event.ran;
  };
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  f.clock->advance(2s);
                  f.broker.hold(Operation::exchange, 1);
                }),
                config};
  f.client.enqueue({.type = "t"});
  f.clock->advance(3s);
  server.start();
  f.broker.wait_held(Operation::exchange);
  f.clock->advance(2s);
  f.broker.release(Operation::exchange);
  REQUIRE(eventually([&] { return ran.load() >= 0s; }));
  CHECK(ran.load() == 2s);
  CHECK(waited.load() == 3s);
}

TEST_CASE("events name the pattern of their tasks, also after the server is gone", "[server]") {
  Fixture f;
  std::mutex mutex;
  std::vector<TaskEvent> events;
  const std::string pattern = "a pattern that is too long for any small string: ";
  {
    ServeMux mux;
    mux.handle(pattern, nothing);
    ServerConfig config = f.config();
    config.hooks.on_state_change = [&](const TaskEvent& event) {
      const std::lock_guard lock{mutex};
      events.push_back(event);
    };
    Server server{f.broker, std::move(mux), std::move(config)};
    f.client.enqueue({.type = pattern + "1"});
    f.client.enqueue({.type = "unknown"}, {.max_retry = 0});
    server.start();
    REQUIRE(eventually([&] {
      const std::lock_guard lock{mutex};
      return events.size() == 4;
    }));
  }
  for (const TaskEvent& event : events)
    CHECK(event.pattern == (event.task->task.type == "unknown" ? "" : pattern));
}

TEST_CASE("a handler can stop its server but not shut it down", "[server]") {
  Fixture f;
  Server* self = nullptr;
  std::atomic<bool> refused{false};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  refused = error_of([&] { self->shutdown(); }) == Errc::wrong_state;
                  self->stop();
                }),
                f.config(1)};
  self = &server;
  server.start();
  f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
  CHECK(refused);
  const std::string id = f.client.enqueue({.type = "t"}).id;
  server.shutdown();
  CHECK(f.state(id) == TaskState::pending);
}

TEST_CASE("a hook can't shut its server down either", "[server]") {
  Fixture f;
  Server* self = nullptr;
  std::atomic<int> refused{-1};
  ServerConfig config = f.config(1);
  config.hooks.on_state_change = [&](const TaskEvent&) {
    refused = error_of([&] { self->shutdown(); }) == Errc::wrong_state ? 1 : 0;
  };
  Server server{f.broker, mux_of(nothing), config};
  self = &server;
  server.start();
  f.client.enqueue({.type = "t"});
  CHECK(eventually([&] { return refused >= 0; }));
  CHECK(refused == 1);
}

TEST_CASE("several threads may call shutdown; all return when it is complete", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  server.start();
  for (int i = 0; i < 20; ++i) f.client.enqueue({.type = "t"});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      server.shutdown();
      f.violations.expect(f.memory.servers().empty(), "shutdown() returned early");
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(f.memory.queue_info("default").active == 0);
}

TEST_CASE("run() returns after its stop token is triggered", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  std::stop_source stop;
  std::thread runs{[&] { server.run(stop.get_token()); }};
  f.client.enqueue({.type = "t"});
  CHECK(eventually([&] { return server.stats().succeeded == 1; }));
  stop.request_stop();
  runs.join();
  CHECK(error_of([&] { server.start(); }) == Errc::wrong_state);
}

TEST_CASE("at its timeout a handler is asked to stop, and the attempt fails", "[server]") {
  Fixture f;
  std::atomic<StopReason> reason{StopReason::none};
  std::latch entered{1};
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  f.violations.expect(context.deadline() > ManualClock{}.now(),
                                      "a deadline in the past");
                  entered.count_down();
                  const bool whole = context.wait_for(24h);
                  reason = context.stop_reason();
                  return whole ? Outcome::success() : Outcome::fail("stopped");
                }),
                f.patient_config()};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}, {.timeout = 3s}).id;
  entered.wait();
  REQUIRE(f.pass_time_until([&] { return f.state(id) == TaskState::retry; }));
  CHECK(reason == StopReason::timeout);
  CHECK(f.memory.find("default", id)->last_error == "stopped");
}

TEST_CASE("a handler that hangs neither blocks its task nor shrinks the pool", "[server]") {
  Fixture f;
  const auto go = std::make_shared<std::latch>(1);
  const auto entered = std::make_shared<std::latch>(1);
  ServeMux mux = mux_of(nothing);
  mux.handle("hang", [=](Context&, const Task&) {
    entered->count_down();
    go->wait();
  });
  ServerConfig config = f.config(1);
  config.max_abandoned = 2;
  Server server{f.broker, std::move(mux), config};
  server.start();
  const std::string id = f.client.enqueue({.type = "hang"}, {.max_retry = 0, .timeout = 1s}).id;
  entered->wait();
  REQUIRE(f.pass_time_until([&] { return f.state(id) == TaskState::archived; }));
  CHECK(server.stats().abandoned == 1);
  CHECK(server.health().healthy);
  f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
  go->count_down();
  CHECK(f.pass_time_until([&] { return server.stats().abandoned == 0; }));
}

TEST_CASE("a thread with a copy of the context may outlive handler, server and broker",
          "[server]") {
  std::optional<Fixture> f{std::in_place};
  std::thread late;
  std::latch gone{1};
  std::string seen;
  {
    Server server{f->broker, mux_of([&](Context& context, const Task&) {
                    context.set_value("connection", std::string{"open"});
                    const auto* const connection = context.value<std::string>("connection");
                    late = std::thread{[&, connection, copy = context]() mutable {
                      while (copy.wait_for(1h)) {
                      }
                      gone.wait();
                      copy.set_result("late");
                      copy.set_value("late", 1);
                      copy.log(LogLevel::error, "late");
                      seen = std::string{copy.task_id()} + ' ' + std::string{copy.type()} + ' ' +
                             *connection + ' ' + std::string{to_string(copy.stop_reason())};
                      if (!copy.stop_token().stop_requested() || copy.value<int>("late") != nullptr)
                        seen = "the run goes on";
                    }};
                  }),
                  f->config(1)};
    f->client.enqueue({.type = "t"}, {.task_id = "t1"});
    server.start();
    REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
    server.shutdown();
  }
  f.reset();
  gone.count_down();
  late.join();
  CHECK(seen == "t1 t open ended");
}

TEST_CASE("with too many hung handlers the server is unhealthy and takes no task until they return",
          "[server]") {
  Fixture f;
  const auto go = std::make_shared<std::latch>(1);
  ServeMux mux = mux_of(nothing);
  mux.handle("hang", [=](Context&, const Task&) { go->wait(); });
  std::mutex mutex;
  std::vector<bool> changes;
  ServerConfig config = f.config(1);
  config.max_abandoned = 1;
  config.hooks.on_health_change = [&](const Health& health) {
    const std::lock_guard lock{mutex};
    changes.push_back(health.healthy);
  };
  Server server{f.broker, std::move(mux), config};
  server.start();
  const std::string id = f.client.enqueue({.type = "hang"}, {.max_retry = 0, .timeout = 1s}).id;
  REQUIRE(f.pass_time_until([&] { return f.state(id) == TaskState::archived; }));
  CHECK_FALSE(server.health().healthy);
  const std::string next = f.client.enqueue({.type = "t"}).id;
  f.clock->advance(1s);
  CHECK(f.state(next) == TaskState::pending);
  go->count_down();
  REQUIRE(f.pass_time_until([&] { return server.stats().succeeded == 1; }));
  CHECK(server.health().healthy);
  server.shutdown();
  CHECK(changes == std::vector<bool>{false, true});
}

TEST_CASE("no exception of application code ends a thread", "[server]") {
  Fixture f;
  ServeMux mux = mux_of([](Context& context, const Task&) -> Outcome {
    context.log(LogLevel::error, "a line");
    throw std::runtime_error{"handler"};
  });
  mux.use([](Context& context, const Task& task, const Next& next) -> Outcome {
    static_cast<void>(next(context, task));
    throw 42;
  });
  ServerConfig config = f.config(1);
  config.retry_policy = [](const FailedAttempt&) -> Duration {
    throw std::runtime_error{"policy"};
  };
  config.is_failure = [](const FailedAttempt&) -> bool { throw std::runtime_error{"is_failure"}; };
  const auto hook = [](const TaskEvent&) { throw std::runtime_error{"hook"}; };
  config.hooks = {.on_failure = hook, .on_dead_letter = hook, .on_state_change = hook};
  config.logger = Logger{LogLevel::debug,
                         [](LogLevel, std::string_view) { throw std::runtime_error{"logger"}; }};
  config.on_thread_start = [] { throw std::runtime_error{"thread"}; };
  Server server{f.broker, std::move(mux), config};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}, {.max_retry = 1}).id;
  REQUIRE(eventually([&] { return f.state(id) == TaskState::retry; }));
  f.clock->advance(24h);
  REQUIRE(eventually([&] { return f.state(id) == TaskState::archived; }));
}

TEST_CASE("the lease of a long run is extended", "[server]") {
  Fixture f;
  std::latch entered{1};
  std::latch go{1};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  entered.count_down();
                  go.wait();
                }),
                f.config(1)};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}).id;
  entered.wait();
  for (std::size_t i = 1; i <= 24; ++i) {  // A minute, by quarters of a lease.
    f.clock->advance(2500ms);
    f.broker.wait_calls(Operation::extend, i > 1 ? i - 1 : 0);
  }
  CHECK(f.state(id) == TaskState::active);
  go.count_down();
  CHECK(eventually([&] { return server.stats().succeeded == 1; }));
  CHECK(server.stats().stale == 0);
}

TEST_CASE("the tasks of a lost worker are recovered and run by another server", "[server]") {
  Fixture f;
  const std::string id = f.client.enqueue({.type = "t"}).id;
  const Run lost = take_one(f.memory);  // Its worker dies here.
  std::atomic<int> crashes{-1};
  Server server{f.broker,
                mux_of([&](Context& context, const Task&) { crashes = context.retry_count(); }),
                f.config(1)};
  server.start();
  REQUIRE(f.pass_time_until([&] { return server.stats().succeeded == 1; }));
  CHECK(crashes == 1);
  CHECK(server.stats().recovered == 1);
  CHECK(settle(f.memory, completed(lost)) == SettleStatus::stale);
  CHECK(f.clock->now() - ManualClock{}.now() < 20s);
}

TEST_CASE("an operator's cancellation stops the handler at once", "[server]") {
  Fixture f;
  std::latch entered{1};
  std::atomic<StopReason> reason{StopReason::none};
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  entered.count_down();
                  context.wait_for(24h);
                  reason = context.stop_reason();
                  return Outcome::fail("cancelled");
                }),
                f.config(1)};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}, {.timeout = 24h}).id;
  entered.wait();
  f.memory.cancel("default", id, CancelMode::archive);
  REQUIRE(eventually([&] { return f.state(id) == TaskState::archived; }));
  CHECK(reason == StopReason::cancelled);
}

TEST_CASE("strict priority runs a queue only while all above it are empty", "[server]") {
  Fixture f;
  std::vector<std::string> order;
  ServerConfig config = f.config(1);
  config.queues = {{"low", 1}, {"mid", 2}, {"high", 3}};
  config.strict_priority = true;
  Server server{f.broker,
                mux_of([&](Context& context, const Task&) { order.emplace_back(context.queue()); }),
                config};
  for (const char* queue : {"low", "mid", "high", "low", "mid", "high"})
    f.client.enqueue({.type = "t"}, {.queue = queue});
  server.start();
  REQUIRE(eventually([&] { return server.stats().succeeded == 6; }));
  server.shutdown();
  CHECK(order == std::vector<std::string>{"high", "high", "mid", "mid", "low", "low"});
}

TEST_CASE("no task is taken from a paused queue; unpausing wakes the server", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  f.client.enqueue({.type = "t"});
  f.memory.pause("default");
  server.start();
  f.broker.wait_calls(Operation::arm, 1);
  CHECK(server.stats().taken == 0);
  f.memory.unpause("default");
  CHECK(eventually([&] { return server.stats().succeeded == 1; }));
}

TEST_CASE("an outage delays outcomes but loses none", "[server]") {
  Fixture f;
  std::barrier<> meet{2};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  meet.arrive_and_wait();
                  meet.arrive_and_wait();
                }),
                f.config(1)};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}).id;
  meet.arrive_and_wait();
  f.broker.fail(Operation::exchange);
  meet.arrive_and_wait();
  REQUIRE(eventually([&] { return server.stats().broker_errors > 0; }));
  CHECK(server.stats().unsettled == 1);
  CHECK_FALSE(server.health().healthy);
  CHECK(f.state(id) == TaskState::active);
  f.broker.recover();
  REQUIRE(f.pass_time_until([&] { return server.stats().succeeded == 1; }));
  CHECK(f.state(id) == std::nullopt);
  CHECK(server.health().healthy);
}

TEST_CASE("a slow hook delays nothing else", "[server]") {
  Fixture f;
  std::latch go{1};
  std::atomic<int> events{0};
  ServerConfig config = f.config();
  config.hooks.on_state_change = [&](const TaskEvent&) {
    go.wait();
    ++events;
  };
  Server server{f.broker, mux_of(nothing), config};
  server.start();
  for (int i = 0; i < 100; ++i) f.client.enqueue({.type = "t"});
  CHECK(eventually([&] { return server.stats().succeeded == 100; }));
  CHECK(events == 0);
  go.count_down();
  server.shutdown();
  CHECK(events == 200);
}

TEST_CASE("a shutdown waits a bounded time for queued hooks", "[server]") {
  Fixture f;
  std::latch go{1};
  std::atomic<int> calls{0};
  ServerConfig config = f.config();
  config.hooks.on_state_change = [&](const TaskEvent&) {
    ++calls;
    go.wait();
  };
  Server server{f.broker, mux_of(nothing), config};
  server.start();
  for (int i = 0; i < 20; ++i) f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return server.stats().succeeded == 20; }));
  REQUIRE(eventually([&] { return calls == 1; }));
  std::thread ends{[&] { server.shutdown(); }};
  CHECK(f.pass_time_until([&] { return server.stats().hooks_dropped > 0; }));
  go.count_down();  // The shutdown waits for the hook that is running.
  ends.join();
  CHECK(calls == 1);
  CHECK(server.stats().hooks_dropped == 39);
}

TEST_CASE("a hook may call the broker until the shutdown's limit for hooks", "[server]") {
  Fixture f;
  LimitedBroker broker{f.memory};
  std::atomic<bool> ending{false};
  std::optional<SteadyTime> end;  // The limit of the hook's calls.
  ServerConfig config = f.patient_config();
  config.clock = nullptr;
  config.hooks.on_state_change = [&](const TaskEvent& event) {
    if (event.change != TaskEvent::Change::succeeded) return;
    const auto is_set = [] { return LimitedBroker::limit->end() != SteadyTime::max(); };
    if (ending && eventually(is_set)) end = LimitedBroker::limit->end();
  };
  Server server{broker, mux_of([&](Context&, const Task&) {
                  ending = true;
                  server.stop();
                }),
                config};
  server.start();
  f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return ending.load(); }));
  const SteadyTime begin = std::chrono::steady_clock::now();
  server.shutdown();
  REQUIRE(end);
  CHECK(*end > begin + config.abandon_after - 1s);
}

TEST_CASE("a server keeps its queues' archives within their limits", "[server]") {
  Fixture f;
  ServerConfig config = f.config();
  config.archive.max_tasks = 2;
  Server server{f.broker, mux_of([](Context&, const Task&) -> Outcome {
                  return Outcome::skip_retry("never");
                }),
                config};
  server.start();
  for (int i = 0; i < 5; ++i) f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return server.stats().archived == 5; }));
  CHECK(f.pass_time_until([&] { return f.memory.queue_info("default").archived == 2; }));
  CHECK(eventually([&] { return server.stats().evicted == 3; }));
}

TEST_CASE("events that wait for a slow hook keep a bounded number of payloads alive", "[server]") {
  Fixture f;
  constexpr std::size_t payload = 4u << 20;
  constexpr std::size_t tasks = 30;
  std::latch go{1};
  std::vector<TaskEvent> events;
  ServerConfig config = f.config();
  config.hooks.on_failure = [&](const TaskEvent& event) {
    go.wait();
    events.push_back(event);
  };
  Server server{f.broker, mux_of([](Context&, const Task&) -> Outcome {
                  return Outcome::skip_retry("never");
                }),
                config};
  server.start();
  for (std::size_t i = 0; i < tasks; ++i) {
    f.client.enqueue({.type = "t", .payload = std::string(payload, 'x')},
                     {.task_id = "t" + std::to_string(i)});
  }
  REQUIRE(eventually([&] { return server.stats().archived == tasks; }));
  go.count_down();
  f.shut_down(server);
  REQUIRE(events.size() == tasks);
  std::size_t whole = 0;
  for (const TaskEvent& event : events) {
    CHECK(event.error == "never");
    CHECK(event.task->task.type == "t");
    CHECK(event.task->task.payload.size() == (event.payload_dropped ? 0 : payload));
    whole += event.payload_dropped ? 0U : 1U;
  }
  CHECK(whole > 0);
  CHECK(whole <= (64u << 20) / payload);
}

TEST_CASE("a shutdown loses no task of a handler that obeys its stop token", "[server]") {
  Fixture f;
  std::latch entered{1};
  ServerConfig config = f.patient_config();
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  entered.count_down();
                  for (int part = 0; part < 1000 && context.wait_for(1min); ++part) {
                  }
                }),
                config};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}, {.timeout = 24h * 365}).id;
  entered.wait();
  f.shut_down(server);
  CHECK(f.state(id) == TaskState::pending);
  CHECK(f.memory.find("default", id)->retried == 0);
}

TEST_CASE("failures, and the start and end of the server, are logged", "[server]") {
  Fixture f;
  std::mutex mutex;
  std::vector<std::string> lines;
  ServerConfig config = f.config(1);
  config.logger =
      Logger{LogLevel::info, [&](LogLevel level, std::string_view line) {
               const std::lock_guard lock{mutex};
               lines.push_back(std::string{to_string(level)} + ": " + std::string{line});
             }};
  Server server{f.broker, mux_of([](Context& context, const Task&) {
                  return context.retry_count() == 0 ? Outcome::retry_after(1500ms, "very\nbusy")
                                                    : Outcome::skip_retry("bad");
                }),
                config};
  server.start();
  const std::string id = f.client.enqueue({.type = "t"}).id;
  REQUIRE(f.pass_time_until([&] { return server.stats().archived == 1; }));
  server.shutdown();
  const std::string task = "task " + id + " (\"t\", queue \"default\"): ";
  CHECK(lines ==
        std::vector<std::string>{"info: server " + server.id() +
                                     ": started: queues \"default\" (priority 1); "
                                     "concurrency 1; broker: in memory; nothing was ever "
                                     "enqueued to \"default\"",
                                 "warning: " + task + "will be retried in 1500 ms: very busy",
                                 "warning: " + task + "archived: bad",
                                 "info: server " + server.id() + ": shut down"});
}

TEST_CASE("at debug level, the start and end of each run are logged with fields", "[server]") {
  Fixture f;
  std::mutex mutex;
  std::vector<std::string> entries;
  const Logger logger{
      LogLevel::debug, [&](const LogRecord& record) {
        if (record.task_id.empty()) return;
        const std::lock_guard lock{mutex};
        entries.push_back(std::string{to_string(record.level)} + ' ' + std::string{record.task_id} +
                          ' ' + std::string{record.task_type} + ' ' + std::string{record.queue} +
                          ": " + std::string{record.text});
      }};
  // Only the broker has a logger: the server has none.
  MemoryBroker memory{{.clock = f.clock, .logger = logger}};
  FlakyBroker broker{memory};
  ServerConfig config = f.config(1);
  config.logger = {};
  Server server{broker, mux_of([](Context& context, const Task&) {
                  context.log(LogLevel::info, "half\ndone");
                }),
                config};
  server.start();
  Client{broker, {.clock = f.clock}}.enqueue({.type = "t"}, {.task_id = "42"});
  REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
  server.shutdown();
  CHECK(entries == std::vector<std::string>{"debug 42 t default: attempt 1 starts",
                                            "info 42 t default: half\ndone",
                                            "debug 42 t default: succeeded, ran for 0 s"});
}

TEST_CASE("a throwing handler and an unknown type are logged by default", "[server]") {
  Fixture f;
  CapturedStderr captured;
  ServerConfig config = f.config(1);
  config.logger = {};
  Server server{f.broker, mux_of([](Context&, const Task&) { throw std::runtime_error{"boom"}; }),
                config};
  server.start();
  f.client.enqueue({.type = "t"}, {.task_id = "1"});
  f.client.enqueue({.type = "misspelt"}, {.task_id = "2"});
  REQUIRE(eventually([&] { return server.stats().retried == 2; }));
  CHECK(server.stats().unknown_types == 1);
  server.shutdown();
  const std::string text = captured.text();
  CHECK(text.find("Z warning taskmux: task 1 (\"t\", queue \"default\"): will be retried in 60 s: "
                  "boom\n") != std::string::npos);
  CHECK(text.find(
            "Z warning taskmux: task 2 (\"misspelt\", queue \"default\"): will be retried in 60 "
            "s: handler not found for task \"misspelt\"\n") != std::string::npos);
  CHECK(text.find("info") == std::string::npos);
}

TEST_CASE("a server is healthy only from its start to its end", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  CHECK(server.health().reason == "not started");
  server.start();
  CHECK(server.health().healthy);
  server.stop();
  CHECK(server.health().reason == "stopped");
  server.shutdown();
  CHECK_FALSE(server.health().healthy);

  Server other{f.broker, mux_of(nothing), f.config()};
  other.shutdown();
  CHECK(other.health().reason == "stopped");
}

TEST_CASE("a server that was stopped before its start can't be started", "[server]") {
  Fixture f;
  Server server{f.broker, mux_of(nothing), f.config()};
  server.stop();
  CHECK(error_of([&] { server.start(); }) == Errc::wrong_state);
}

TEST_CASE("workers have names, and block the signals that the caller of start() blocks",
          "[server]") {
  Fixture f;
  std::atomic<int> blocked{-1};
  std::array<char, 16> name{};
  std::atomic<int> threads_started{0};
  ServerConfig config = f.config(1);
  config.on_thread_start = [&] { ++threads_started; };
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  sigset_t mask;
                  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
                  pthread_getname_np(pthread_self(), name.data(), name.size());
                  blocked = sigismember(&mask, SIGUSR2) == 1 && sigismember(&mask, SIGTERM) == 0 &&
                            sigismember(&mask, SIGPIPE) == 0;
                }),
                config};
  sigset_t usr2;
  sigemptyset(&usr2);
  sigaddset(&usr2, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &usr2, nullptr);
  server.start();
  pthread_sigmask(SIG_UNBLOCK, &usr2, nullptr);
  f.client.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return server.stats().succeeded == 1; }));
  CHECK(blocked == 1);
  CHECK(std::string_view{name.data()} == "tmx-worker");
  CHECK(eventually([&] { return threads_started == 6; }));
  sigset_t mine;
  pthread_sigmask(SIG_SETMASK, nullptr, &mine);
  CHECK(sigismember(&mine, SIGTERM) == 0);
  CHECK(sigismember(&mine, SIGUSR2) == 0);
}

TEST_CASE("in a child process, a server refuses calls and does no harm", "[server]") {
  Fixture f;
  auto server = std::make_unique<Server>(f.broker, mux_of(nothing), f.config());
  server->start();
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const bool start = error_of([&] { server->start(); }) == Errc::forked;
    const bool shutdown = error_of([&] { server->shutdown(); }) == Errc::forked;
    server.reset();
    ::_exit(start && shutdown ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  server->shutdown();
}

TEST_CASE("a running server is listed with the tasks that it runs", "[server]") {
  Fixture f;
  std::latch entered{1};
  std::latch go{1};
  ServerConfig config = f.config(3);
  config.queues = {{"default", 2}, {"low", 1}};
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  entered.count_down();
                  go.wait();
                }),
                config};
  server.start();
  const std::string payload(1'000'000, 'p');  // Only a part of it is shown.
  const std::string id =
      f.client.enqueue({.type = "t", .payload = payload}, {.timeout = 24h * 365}).id;
  entered.wait();
  const Time begun = f.clock->now();
  REQUIRE(f.pass_time_until([&] {
    const std::vector<ServerInfo> servers = f.memory.servers();
    return servers.size() == 1 && servers[0].workers.size() == 1;
  }));
  const ServerInfo info = f.memory.servers()[0];
  CHECK(info.id == server.id());
  CHECK(info.pid == ::getpid());
  CHECK(info.concurrency == 3);
  CHECK(info.queues == std::map<std::string, int>{{"default", 2}, {"low", 1}});
  CHECK(info.status == ServerStatus::active);
  CHECK(info.workers[0].task_id == id);
  CHECK(info.workers[0].task.payload.size() >= 4096);
  CHECK(info.workers[0].task.payload.size() <= 8192);
  CHECK(info.workers[0].started_at == begun);
  CHECK(info.workers[0].deadline == begun + 24h * 365);
  go.count_down();
}

TEST_CASE("a server is listed as stopped, then as closed, until what it runs has ended",
          "[server]") {
  Fixture f;
  std::latch entered{1};
  std::latch go{1};
  ServerConfig config = f.config();
  config.shutdown_timeout = 24h;
  Server server{f.broker, mux_of([&](Context&, const Task&) {
                  entered.count_down();
                  go.wait();
                }),
                config};
  server.start();
  f.client.enqueue({.type = "t"}, {.timeout = 24h * 365});
  entered.wait();
  const auto comes_to_be = [&](ServerStatus status) {
    return f.pass_time_until([&] {
      const std::vector<ServerInfo> servers = f.memory.servers();
      return servers.size() == 1 && servers[0].status == status && servers[0].workers.size() == 1;
    });
  };
  CHECK(comes_to_be(ServerStatus::active));
  server.stop();
  CHECK(comes_to_be(ServerStatus::stopped));
  std::thread ends{[&] { server.shutdown(); }};
  CHECK(comes_to_be(ServerStatus::closed));
  go.count_down();
  ends.join();
  CHECK(f.memory.servers().empty());
}

TEST_CASE("neither a pause of the process nor a step of the clock costs a live worker its run",
          "[server][clock]") {
  Fixture f;
  constexpr std::size_t tasks = 3;
  std::atomic<std::size_t> entered{0};
  std::atomic<std::size_t> stopped{0};
  std::latch go{1};
  Server server{f.broker, mux_of([&](Context& context, const Task&) {
                  ++entered;
                  go.wait();
                  if (context.stop_requested()) ++stopped;
                  return Outcome::success();
                }),
                f.config(tasks)};
  server.start();
  const SteadyTime started = f.clock->steady_now();
  REQUIRE(f.pass_time_until([&] { return f.clock->steady_now() - started > 15s; }));
  for (std::size_t i = 0; i < tasks; ++i) f.client.enqueue({.type = "t"}, {.max_retry = 0});
  REQUIRE(eventually([&] { return entered == tasks; }));

  for (int i = 0; i < 20; ++i) {
    CAPTURE(i);
    const std::size_t calls = f.broker.calls(Operation::upkeep);
    if (i % 2 == 0) {
      f.clock->advance(16s);
    } else {
      f.clock->step_wall(i % 4 == 1 ? Duration{1h} : Duration{-1h});
      f.clock->advance(2s);
    }
    f.broker.wait_calls(Operation::upkeep, calls + 1);
    REQUIRE(eventually([&] { return f.clock->sleepers() >= 5; }));
    CHECK(server.stats().running == tasks);
  }
  go.count_down();
  REQUIRE(f.pass_time_until([&] { return server.stats().succeeded == tasks; }));
  CHECK(stopped == 0);
  CHECK(entered == tasks);
  CHECK(server.stats().recovered == 0);
  f.shut_down(server);
}
