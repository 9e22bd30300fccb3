#include "taskmux/inspector.hpp"

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/hooked_view.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"
#include "taskmux/memory/memory_broker.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker broker{{.clock = clock}};
  Inspector inspector{broker, {.clock = clock}};
};

/// The Error that `function` throws. Fails the test if it throws none.
template <typename Function>
Error error_from(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no Error was thrown");
  throw std::logic_error{"not reached"};
}

TaskMessage kept_message(std::string id) {
  TaskMessage kept = message(std::move(id));
  kept.retention = 1h;
  return kept;
}

/// A clock that moves on whenever someone sleeps on it, and first does what the test wants.
class StepClock final : public Clock {
 public:
  std::function<void(Duration)> on_wait;
  std::vector<Duration> waits;

  Time now() const override { return Time{} + elapsed_; }
  SteadyTime steady_now() const override { return SteadyTime{} + elapsed_; }
  void wait(Waker&, std::optional<SteadyTime> deadline) override {
    const auto length = std::chrono::duration_cast<Duration>(deadline.value() - steady_now());
    waits.push_back(length);
    elapsed_ += length;
    if (on_wait) on_wait(elapsed_);
  }

 private:
  Duration elapsed_{};
};

}  // namespace

TEST_CASE("the inspector shows queues, counts, latency and statistics", "[inspector]") {
  Fixture t;
  CHECK(t.inspector.queues().empty());
  settle(t.broker, completed(started(t.broker, message("done"))));
  settle(t.broker, archived(started(t.broker, message("dead"))));
  settle(t.broker, retried(started(t.broker, message("again")), 1min));
  settle(t.broker, completed(started(t.broker, kept_message("kept"))));
  const Run active = started(t.broker, message("active"));
  enqueue(t.broker, scheduled(message("later"), Duration{1h}));
  enqueue(t.broker, message("ready"));
  enqueue(t.broker, message("other", "other"));
  t.clock->advance(3s);

  CHECK(t.inspector.queues() == std::vector<std::string>{"default", "other"});
  const QueueInfo info = t.inspector.queue_info("default");
  CHECK(info.pending == 1);
  CHECK(info.active == 1);
  CHECK(info.scheduled == 1);
  CHECK(info.retry == 1);
  CHECK(info.archived == 1);
  CHECK(info.completed == 1);
  CHECK(info.size() == 6);
  CHECK(info.latency == 3s);
  CHECK(info.processed_today == 4);
  CHECK(info.failed_today == 2);

  t.clock->advance(std::chrono::days{1});
  const std::vector<DailyStats> history = t.inspector.history("default", 2);
  REQUIRE(history.size() == 2);
  CHECK(history[0].processed == 0);
  CHECK(history[1].processed == 4);
  CHECK(history[1].failed == 2);
}

TEST_CASE("the inspector lists a state page by page", "[inspector]") {
  Fixture t;
  t.broker.enqueue(many("t", 5));
  CHECK(ids(t.inspector.list("default", TaskState::pending, 2)) ==
        std::vector<std::string>{"t1", "t2"});
  CHECK(t.inspector.list("default", TaskState::pending).size() == 5);
  CHECK(t.inspector.list("default", TaskState::archived).empty());

  TaskPage page = t.inspector.list({.queue = "default", .limit = 4, .with_payload = false});
  CHECK(ids(page.tasks) == std::vector<std::string>{"t1", "t2", "t3", "t4"});
  CHECK(page.tasks[0].task.payload.empty());
  page = t.inspector.list({.queue = "default", .cursor = page.next});
  CHECK(ids(page.tasks) == std::vector<std::string>{"t5"});
  CHECK(page.next.empty());
  const Error error = error_from([&] { t.inspector.list({.queue = "default", .cursor = "x"}); });
  CHECK(error.errc() == Errc::invalid_argument);
  CHECK(std::string{error.what()}.starts_with("list: "));
}

TEST_CASE("the inspector asks for several queues, and several tasks, in one call", "[inspector]") {
  Fixture t;
  enqueue(t.broker, message("t1"));
  enqueue(t.broker, scheduled(message("t2", "other"), Duration{1h}));
  CHECK(t.inspector.now() == t.clock->now());
  const std::vector<std::string> queues{"other", "nowhere", "default"};
  const auto infos = t.inspector.queue_infos(queues);
  REQUIRE(infos.size() == 3);
  CHECK(infos[0].info.scheduled == 1);
  REQUIRE(infos[1].error);
  CHECK(infos[1].error->errc() == Errc::queue_not_found);
  CHECK(infos[2].info.pending == 1);

  const std::vector<std::string> tasks{"t1", "t2"};
  const auto states = t.inspector.states("default", tasks);
  REQUIRE(states.size() == 2);
  CHECK(states[0].state == TaskState::pending);
  CHECK_FALSE(states[1].state);
  const auto replies =
      t.inspector.act({.queue = "default", .action = TaskAction::archive, .ids = tasks});
  REQUIRE(replies.size() == 2);
  CHECK_FALSE(replies[0].error);
  CHECK(replies[1].error == Errc::task_not_found);
  CHECK(t.inspector.groups("default").empty());
}

TEST_CASE("the inspector finds a task with its result, or none", "[inspector]") {
  Fixture t;
  settle(t.broker, completed(started(t.broker, kept_message("t")), "42"));
  const auto task = t.inspector.find("default", "t");
  REQUIRE(task);
  CHECK(task->state == TaskState::completed);
  CHECK(task->result == "42");
  CHECK_FALSE(t.inspector.find("default", "another"));
}

TEST_CASE("the inspector runs, archives and removes one task", "[inspector]") {
  Fixture t;
  enqueue(t.broker, scheduled(message("t"), Duration{1h}));
  t.inspector.run("default", "t");
  CHECK(state_of(t.broker, "t") == TaskState::pending);
  t.inspector.archive("default", "t");
  CHECK(state_of(t.broker, "t") == TaskState::archived);
  t.inspector.remove("default", "t");
  CHECK_FALSE(state_of(t.broker, "t"));
}

TEST_CASE("an impossible action is reported with operation, subject and cause", "[inspector]") {
  Fixture t;
  enqueue(t.broker, message("t"));
  const Error missing = error_from([&] { t.inspector.archive("default", "no"); });
  CHECK(missing.errc() == Errc::task_not_found);
  CHECK(missing.what() == std::string{"archive: task no (queue \"default\"): there is none"});
  CHECK(missing.task_id() == "no");
  const Error wrong = error_from([&] { t.inspector.run("default", "t"); });
  CHECK(wrong.errc() == Errc::wrong_state);
  CHECK(wrong.what() == std::string{"run: task t (queue \"default\"): it is pending"});
  const Error queue = error_from([&] { t.inspector.unpause("nowhere"); });
  CHECK(queue.errc() == Errc::queue_not_found);
  CHECK(std::string{queue.what()}.starts_with("unpause: queue \"nowhere\": "));
  CHECK(error_of([&] { t.inspector.queue_info("nowhere"); }) == Errc::queue_not_found);
  CHECK(t.inspector.list("nowhere", TaskState::retry).empty());
  CHECK_FALSE(t.inspector.find("nowhere", "t"));
  CHECK(error_of([&] { t.inspector.remove("nowhere", "t"); }) == Errc::task_not_found);
  CHECK(t.inspector.remove_all("nowhere", TaskState::retry) == 0);
  CHECK(error_of([&] { t.inspector.history("default", 0); }) == Errc::invalid_argument);
}

TEST_CASE("the inspector acts on all tasks of a state, in chunks", "[inspector]") {
  Fixture t;
  t.broker.enqueue(many("t", 2500));
  CHECK(t.inspector.archive_all("default", TaskState::pending) == 2500);
  CHECK(t.inspector.queue_info("default").archived == 2500);
  CHECK(t.inspector.run_all("default", TaskState::archived) == 2500);
  CHECK(ids(t.broker, TaskState::pending).front() == "t1");
  CHECK(t.inspector.remove_all("default", TaskState::pending) == 2500);
  CHECK(t.inspector.remove_all("default", TaskState::pending) == 0);
  CHECK(t.inspector.queue_info("default").size() == 0);
}

TEST_CASE("an action that a state does not allow is refused, even without tasks", "[inspector]") {
  Fixture t;
  t.broker.enqueue(many("t", 1, "full"));
  const std::string queue = GENERATE("full", "empty");
  if (queue == "empty") settle(t.broker, completed(started(t.broker, message("t", "empty"))));
  CHECK(error_of([&] { t.inspector.run_all(queue, TaskState::pending); }) == Errc::wrong_state);
  CHECK(error_of([&] { t.inspector.archive_all(queue, TaskState::archived); }) ==
        Errc::wrong_state);
  CHECK(error_of([&] { t.inspector.remove_all(queue, TaskState::active); }) == Errc::wrong_state);
}

TEST_CASE("an action on all tasks ends even if tasks are added all the time", "[inspector]") {
  Fixture t;
  t.broker.enqueue(many("t", 1500));
  HookedView view{t.broker};
  int round = 0;
  view.before_act_all = [&] {
    t.broker.enqueue(many("new" + std::to_string(++round) + '.', 1000));
  };
  CHECK(Inspector{view}.remove_all("default", TaskState::pending) == 1500);
  CHECK(t.inspector.queue_info("default").pending == 2000);
}

TEST_CASE("an action on all tasks that fails halfway reports how many were done", "[inspector]") {
  Fixture t;
  t.broker.enqueue(many("t", 1500));
  HookedView view{t.broker};
  int round = 0;
  view.before_act_all = [&] {
    if (++round == 2) throw Error{Errc::unavailable, "connection refused"};
  };
  const Error error =
      error_from([&] { Inspector{view}.remove_all("default", TaskState::pending); });
  CHECK(error.errc() == Errc::unavailable);
  CHECK(error.what() ==
        std::string{"remove all pending tasks of queue \"default\": after 1000 were "
                    "done: connection refused"});
}

TEST_CASE("the inspector updates the payload of a task that is not running", "[inspector]") {
  Fixture t;
  enqueue(t.broker, message("t"));
  t.inspector.update_payload("default", "t", "new");
  CHECK(t.inspector.find("default", "t")->task.payload == "new");
  const Run run = take_one(t.broker);
  CHECK(run.message->task.payload == "new");
  CHECK(error_of([&] { t.inspector.update_payload("default", "t", "newer"); }) ==
        Errc::wrong_state);
  CHECK(error_of([&] { t.inspector.update_payload("default", "no", "newer"); }) ==
        Errc::task_not_found);

  Inspector strict{t.broker, {.max_payload_bytes = 3}};
  const Error error = error_from([&] { strict.update_payload("default", "t", "1234"); });
  CHECK(error.errc() == Errc::payload_too_large);
  CHECK(error.task_id() == "t");
}

TEST_CASE("the inspector pauses and unpauses a queue", "[inspector]") {
  Fixture t;
  enqueue(t.broker, message("t"));
  t.inspector.pause("default");
  CHECK(t.inspector.queue_info("default").paused);
  CHECK(take(t.broker).empty());
  CHECK(error_of([&] { t.inspector.pause("default"); }) == Errc::wrong_state);
  t.inspector.unpause("default");
  CHECK(take(t.broker).size() == 1);
  CHECK(error_of([&] { t.inspector.unpause("default"); }) == Errc::wrong_state);
}

TEST_CASE("the inspector cancels a running task in the requested mode", "[inspector]") {
  Fixture t;
  const Run run = started(t.broker, message("t"));
  const CancelMode mode = GENERATE(CancelMode::retry, CancelMode::archive, CancelMode::remove);
  t.inspector.cancel("default", "t", mode);
  CHECK(extend(t.broker, run).cancel == mode);
  settle(t.broker, given_back(run));
  CHECK(error_of([&] { t.inspector.cancel("default", "t"); }) == Errc::wrong_state);
  CHECK(error_of([&] { t.inspector.cancel("default", "no"); }) == Errc::task_not_found);
}

TEST_CASE("the inspector deletes a queue, and one with tasks only with force", "[inspector]") {
  Fixture t;
  const Run run = started(t.broker, message("t"));
  CHECK(error_of([&] { t.inspector.delete_queue("default", true); }) == Errc::wrong_state);
  settle(t.broker, given_back(run));
  CHECK(error_of([&] { t.inspector.delete_queue("default"); }) == Errc::queue_not_empty);
  t.inspector.delete_queue("default", true);
  CHECK(t.inspector.queues().empty());
  CHECK(error_of([&] { t.inspector.delete_queue("default"); }) == Errc::queue_not_found);
}

TEST_CASE("the inspector shows the live servers and their running tasks", "[inspector]") {
  Fixture t;
  CHECK(t.inspector.servers().empty());
  ServerInfo server{.host = "here", .pid = 1, .id = "s", .concurrency = 4};
  server.workers.push_back({.task_id = "t", .queue = "default"});
  t.broker.registry().announce(server, 10s);
  const std::vector<ServerInfo> servers = t.inspector.servers();
  REQUIRE(servers.size() == 1);
  CHECK(servers[0].concurrency == 4);
  REQUIRE(servers[0].workers.size() == 1);
  CHECK(servers[0].workers[0].task_id == "t");
  t.clock->advance(11s);
  CHECK(t.inspector.servers().empty());
}

TEST_CASE("waiting for a result returns it once the task is completed", "[inspector]") {
  MemoryBroker broker;
  auto clock = std::make_shared<StepClock>();
  Inspector inspector{broker, {.clock = clock}};
  enqueue(broker, kept_message("t"));

  SECTION("at once, if it is completed already") {
    settle(broker, completed(take_one(broker), "42"));
    CHECK(inspector.wait_for_result("default", "t", 0s).result == "42");
    CHECK(clock->waits.empty());
  }
  SECTION("told of it by the broker") {
    clock->on_wait = [&](Duration) { settle(broker, completed(take_one(broker), "42")); };
    CHECK(inspector.wait_for_result("default", "t", 1min).result == "42");
    CHECK(clock->waits == std::vector<Duration>{1min});
  }
  SECTION("looking ever less often, if the broker can't tell") {
    /// A broker without a watch of its own.
    class Untold final : public BrokerWrapper {
     public:
      using BrokerWrapper::BrokerWrapper;
      std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue, std::vector<std::string> ids,
                                             std::function<void()> callback) override {
        // NOLINTNEXTLINE(bugprone-parent-virtual-call): the one that polls
        return QueueView::watch_tasks(queue, std::move(ids), std::move(callback));
      }
    };
    Untold untold{broker};
    Inspector polling{untold, {.clock = clock}};
    clock->on_wait = [&](Duration elapsed) {
      if (elapsed >= 1s) settle(broker, completed(take_one(broker), "42"));
    };
    const TaskInfo task = polling.wait_for_result("default", "t", 1min);
    CHECK(task.state == TaskState::completed);
    CHECK(task.result == "42");
    REQUIRE(clock->waits.size() == 11);
    CHECK(clock->waits[0] == 1ms);
    CHECK(clock->waits[1] == 2ms);
    CHECK(clock->waits[7] == 128ms);
    CHECK(clock->waits[8] == 250ms);
    CHECK(clock->waits[10] == 250ms);
  }
}

TEST_CASE("waiting for a result ends exactly after the timeout", "[inspector]") {
  MemoryBroker broker;
  auto clock = std::make_shared<StepClock>();
  Inspector inspector{broker, {.clock = clock}};
  enqueue(broker, kept_message("t"));
  const Error error = error_from([&] { inspector.wait_for_result("default", "t", 1s); });
  CHECK(error.errc() == Errc::timed_out);
  CHECK(error.what() == std::string{"wait for result: task t (queue \"default\"): still "
                                    "pending when the time was over"});
  CHECK(error.task_id() == "t");
  CHECK(clock->steady_now() == SteadyTime{} + 1s);
  CHECK(error_of([&] { inspector.wait_for_result("default", "t", 0s); }) == Errc::timed_out);
}

TEST_CASE("a task that can't have a result ends the wait at once", "[inspector]") {
  MemoryBroker broker;
  auto clock = std::make_shared<StepClock>();
  Inspector inspector{broker, {.clock = clock}};
  const auto wait = [&] { inspector.wait_for_result("default", "t", 1min); };

  SECTION("without retention") {
    enqueue(broker, message("t"));
    CHECK(error_from(wait).errc() == Errc::invalid_argument);
  }
  SECTION("not there") {
    enqueue(broker, message("other"));
    CHECK(error_from(wait).errc() == Errc::task_not_found);
  }
  SECTION("archived, with or without retention") {
    settle(broker, archived(started(broker, GENERATE(message("t"), kept_message("t"))), "no luck"));
    const Error error = error_from(wait);
    CHECK(error.errc() == Errc::wrong_state);
    CHECK(std::string{error.what()}.ends_with("archived: no luck"));
    CHECK(error.task_id() == "t");
  }
  SECTION("no such queue") { CHECK(error_from(wait).errc() == Errc::task_not_found); }
  CHECK(clock->waits.empty());
}

TEST_CASE("the wait for a result ends when the task is archived or removed", "[inspector]") {
  MemoryBroker broker;
  auto clock = std::make_shared<StepClock>();
  Inspector inspector{broker, {.clock = clock}};
  enqueue(broker, kept_message("t"));
  const auto wait = [&] { inspector.wait_for_result("default", "t", 1min); };

  SECTION("archived") {
    clock->on_wait = [&](Duration) { settle(broker, archived(take_one(broker), "no luck")); };
    CHECK(std::string{error_from(wait).what()}.ends_with("archived: no luck"));
  }
  SECTION("removed") {
    clock->on_wait = [&](Duration) { inspector.remove("default", "t"); };
    const Error error = error_from(wait);
    CHECK(error.errc() == Errc::task_not_found);
    CHECK(std::string{error.what()}.ends_with("it is gone"));
  }
  CHECK(clock->waits.size() == 1);
}

TEST_CASE("an invalid timeout of a wait is refused", "[inspector]") {
  Fixture t;
  enqueue(t.broker, kept_message("t"));
  const Duration timeout = GENERATE(Duration{-1}, Duration::max(), Duration::min());
  CHECK(error_of([&] { t.inspector.wait_for_result("default", "t", timeout); }) ==
        Errc::invalid_argument);
}

TEST_CASE("a result from another thread ends the wait", "[inspector]") {
  MemoryBroker broker;
  Inspector inspector{broker};
  enqueue(broker, kept_message("t"));
  HookedView view{broker};
  std::atomic<bool> looked{false};
  view.before_find = [&] {
    looked = true;
    looked.notify_all();
  };
  std::thread worker{[&] {
    looked.wait(false);
    settle(broker, completed(take_one(broker), "42"));
  }};
  CHECK(Inspector{view}.wait_for_result("default", "t", 1h).result == "42");
  worker.join();
}
