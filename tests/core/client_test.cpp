#include "taskmux/client.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <stdexcept>

#include "support/builders.hpp"
#include "support/flaky_broker.hpp"
#include "support/test.hpp"
#include "taskmux/memory/memory_broker.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker memory{{.clock = clock}};
  FlakyBroker broker{memory};
  Client client{broker, {.clock = clock}};

  TaskInfo stored(const std::string& id, const std::string& queue = "default") {
    return memory.find(queue, id).value();
  }
  std::optional<Errc> refused(EnqueueOptions options, Task task = {.type = "t"}) {
    const std::optional<Errc> error = error_of([&] { client.enqueue(task, options); });
    CHECK(broker.calls(Operation::enqueue) == 0);
    return error;
  }
};

const Time now = ManualClock{}.now();

}  // namespace

TEST_CASE("a task without options gets asynq's defaults", "[client]") {
  Fixture f;
  const EnqueueResult result =
      f.client.enqueue({.type = "email:welcome", .payload = "42", .headers = {{"trace", "x"}}});
  CHECK(result.accepted());
  CHECK(result.queue == "default");
  CHECK(result.state == TaskState::pending);
  CHECK(result.id.size() == 36);
  const TaskInfo info = f.stored(result.id);
  CHECK(info.task.type == "email:welcome");
  CHECK(info.task.payload == "42");
  CHECK(info.task.headers == Headers{{"trace", "x"}});
  CHECK(info.max_retry == 25);
  CHECK(info.timeout == 30min);
  CHECK(info.retention == 0s);
  CHECK_FALSE(info.deadline);
  CHECK_FALSE(info.expires_at);
  CHECK(info.enqueued_at == f.clock->now());
}

TEST_CASE("options are stored in the task, with durations rounded up to whole seconds",
          "[client]") {
  Fixture f;
  const EnqueueResult result = f.client.enqueue({.type = "t"}, {.queue = "critical",
                                                                .task_id = "my id",
                                                                .max_retry = 3,
                                                                .timeout = 1500ms,
                                                                .deadline = now + 10min + 1us,
                                                                .process_in = 250ms,
                                                                .retention = 1ms,
                                                                .expires_in = 1h});
  CHECK(result.id == "my id");
  CHECK(result.queue == "critical");
  CHECK(result.state == TaskState::scheduled);
  CHECK(result.process_at == now + 250ms);
  const TaskInfo info = f.stored("my id", "critical");
  CHECK(info.max_retry == 3);
  CHECK(info.timeout == 2s);
  CHECK(info.deadline == now + 10min + 1s);
  CHECK(info.next_process_at == now + 250ms);
  CHECK(info.retention == 1s);
  CHECK(info.expires_at == now + 1h);
}

TEST_CASE("instants of any clock resolution are rounded up to a Time", "[client]") {
  using std::chrono::nanoseconds;
  CHECK(to_time(std::chrono::sys_time<nanoseconds>{1001ns}) == Time{2us});
  CHECK(to_time(std::chrono::sys_seconds{3s}) == Time{3s});
  const auto before = std::chrono::system_clock::now();
  CHECK(to_time(before) >= before);
}

TEST_CASE("a deadline alone leaves the timeout unset", "[client]") {
  Fixture f;
  const EnqueueResult result = f.client.enqueue({.type = "t"}, {.deadline = now + 1min});
  CHECK(f.stored(result.id).timeout == 0s);
}

TEST_CASE("the defaults of the type apply where the options leave a field out", "[client]") {
  Fixture f;
  Client client{
      f.broker,
      {.defaults = {{"report", {.queue = "low", .max_retry = 1, .timeout = 1min, .retention = 1h}}},
       .clock = f.clock}};
  const TaskInfo plain = f.stored(client.enqueue({.type = "report"}).id, "low");
  CHECK(plain.max_retry == 1);
  CHECK(plain.timeout == 1min);
  CHECK(plain.retention == 1h);
  const TaskInfo other = f.stored(
      client.enqueue({.type = "report"}, {.queue = "high", .max_retry = 9, .timeout = 2min}).id,
      "high");
  CHECK(other.max_retry == 9);
  CHECK(other.timeout == 2min);
  CHECK(f.stored(client.enqueue({.type = "reporting"}).id).max_retry == 25);

  CHECK_THROWS_AS((Client{f.broker, {.defaults = {{"", {}}}}}), std::invalid_argument);
}

TEST_CASE("invalid options are refused before anything is sent", "[client]") {
  Fixture f;
  CHECK(f.refused({.queue = " "}) == Errc::invalid_argument);
  CHECK(f.refused({}, {.type = ""}) == Errc::invalid_argument);
  CHECK(f.refused({}, {.type = "t", .payload = std::string(Limits::payload_bytes + 1, 'x')}) ==
        Errc::payload_too_large);
}

TEST_CASE("instants of the system clock convert implicitly, and are rounded up", "[client]") {
  const auto instant = std::chrono::system_clock::now();
  const EnqueueOptions options{
      .deadline = instant + 24h, .process_at = instant + 10s, .expires_at = instant + 2h};
  CHECK(*options.process_at == to_time(instant + 10s));
  CHECK(*options.deadline > *options.expires_at);
  CHECK(Instant{std::chrono::sys_time<std::chrono::nanoseconds>{1ns}} == Time{1us});
  CHECK(Instant{std::chrono::sys_seconds{1s}} == Time{1s});
}

TEST_CASE("values just within the limits are accepted", "[client]") {
  Fixture f;
  CHECK(f.client
            .enqueue(
                {.type = std::string(512, 't'), .payload = std::string(Limits::payload_bytes, 'x')})
            .accepted());
  CHECK(f.client
            .enqueue({.type = "\xe2\x9c\x97"},
                     {.queue = "a b/c:d{e}", .task_id = std::string(512, 'i')})
            .accepted());
  CHECK(
      f.client
          .enqueue({.type = "t"}, {.timeout = 1us, .process_in = Limits::longest, .unique_for = 1s})
          .accepted());
  CHECK(f.client.enqueue({.type = "t"}, {.process_at = Time{}}).state == TaskState::pending);
  Client strict{f.broker, {.max_payload_bytes = 3}};
  CHECK(strict.enqueue({.type = "t", .payload = "123"}).accepted());
  CHECK(error_of([&] { strict.enqueue({.type = "t", .payload = "1234"}); }) ==
        Errc::payload_too_large);
}

TEST_CASE("each refusal of the broker has its own error, with the task's id", "[client]") {
  Fixture f;
  f.client.enqueue({.type = "t", .payload = "x"}, {.task_id = "one", .unique_for = 1h});
  CHECK(error_of([&] { f.client.enqueue({.type = "t", .payload = "x"}, {.unique_for = 1h}); }) ==
        Errc::duplicate_task);
  try {
    f.client.enqueue({.type = "t"}, {.task_id = "one"});
    FAIL("a conflict was accepted");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::task_id_conflict);
    CHECK(error.task_id() == "one");
    CHECK(std::string{error.what()}.find("\"default\"") != std::string::npos);
  }
}

TEST_CASE("after a lost reply the id is known, and a repeat reveals the outcome", "[client]") {
  Fixture f;
  f.broker.lose_reply(Operation::enqueue, 1);
  std::string id;
  try {
    f.client.enqueue({.type = "t"});
    FAIL("a lost reply passed for an answer");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::unavailable);
    id = error.task_id();
  }
  CHECK(id.size() == 36);
  CHECK(error_of([&] { f.client.enqueue({.type = "t"}, {.task_id = id}); }) ==
        Errc::task_id_conflict);
  CHECK(f.stored(id).state == TaskState::pending);
}

TEST_CASE("with idempotent_for, repeating after a lost reply runs the task once", "[client]") {
  Fixture f;
  f.broker.lose_reply(Operation::enqueue, 1);
  std::string id;
  try {
    f.client.enqueue({.type = "t"}, {.idempotent_for = 1min});
  } catch (const Error& error) {
    id = error.task_id();
  }
  settle(f.memory, completed(take_one(f.memory)));  // It has ended, and is deleted.
  const EnqueueResult repeat =
      f.client.enqueue({.type = "t"}, {.task_id = id, .idempotent_for = 1min});
  CHECK(repeat.accepted());
  CHECK(repeat.accepted_before);
  CHECK(repeat.id == id);
  CHECK(take(f.memory).empty());
  const auto batch = f.client.enqueue_all(
      {{.task = {.type = "t"}, .options = {.task_id = id, .idempotent_for = 1min}},
       {.task = {.type = "t"}, .options = {.idempotent_for = 1500ms}}});
  CHECK(batch.at(0).accepted_before);
  CHECK_FALSE(batch.at(1).accepted_before);
  f.clock->advance(1900ms);  // Rounded up to two seconds.
  CHECK(f.client.enqueue({.type = "t"}, {.task_id = batch.at(1).id, .idempotent_for = 1500ms})
            .accepted_before);
}

TEST_CASE("in a batch each item has its own outcome, in order", "[client]") {
  Fixture f;
  std::vector<NewTask> batch;
  batch.push_back({.task = {.type = "a"}});
  batch.push_back({.task = {.type = ""}});
  batch.push_back({.task = {.type = "c"}, .options = {.task_id = "same"}});
  batch.push_back({.task = {.type = "d"}, .options = {.queue = "other", .process_in = 1h}});
  batch.push_back({.task = {.type = "e"}, .options = {.task_id = "same"}});
  const std::vector<EnqueueResult> results = f.client.enqueue_all(std::move(batch));
  REQUIRE(results.size() == 5);
  CHECK(f.broker.calls(Operation::enqueue) == 1);
  CHECK(results[0].accepted());
  CHECK(results[1].error.value().errc() == Errc::invalid_argument);
  CHECK(results[1].error.value().task_id() == results[1].id);
  CHECK(results[2].accepted());
  CHECK(results[3].state == TaskState::scheduled);
  CHECK(results[3].queue == "other");
  CHECK(results[4].error.value().errc() == Errc::task_id_conflict);
  CHECK(f.stored(results[0].id).task.type == "a");
  CHECK(f.stored("same").task.type == "c");
  CHECK(f.client.enqueue_all({}).empty());
}

TEST_CASE("an outage leaves each item of a batch unknown, with its id", "[client]") {
  Fixture f;
  f.broker.fail(Operation::enqueue, 1);
  std::vector<NewTask> batch(3, NewTask{.task = {.type = "t"}});
  for (const EnqueueResult& result : f.client.enqueue_all(batch)) {
    CHECK(result.error.value().errc() == Errc::unavailable);
    CHECK(result.id.size() == 36);
  }
}

TEST_CASE("a closed client refuses every call", "[client]") {
  Fixture f;
  f.client.close();
  f.client.close();
  CHECK(error_of([&] { f.client.enqueue({.type = "t"}); }) == Errc::wrong_state);
  CHECK(error_of([&] { static_cast<void>(f.client.enqueue_all({})); }) == Errc::wrong_state);
}

TEST_CASE("a client refuses to work in a child process", "[client]") {
  Fixture f;
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const bool refused = error_of([&] { f.client.enqueue({.type = "t"}); }) == Errc::forked;
    ::_exit(refused ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}
