#include "taskmux/detail/engine/notifier.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "support/test.hpp"
#include "taskmux/detail/run/task_events.hpp"

using namespace taskmux;

TEST_CASE("calls are made in order, and an exception stops none of them", "[notifier]") {
  std::vector<std::string> log;
  const Logger logger{LogLevel::debug,
                      [&](LogLevel, std::string_view line) { log.emplace_back(line); }};
  detail::Notifier notifier{logger};
  std::vector<int> calls;
  CHECK(notifier.post([&] { calls.push_back(1); }));
  CHECK_FALSE(notifier.post([&] { throw std::runtime_error{"hook"}; }));
  CHECK_FALSE(notifier.post([&] { throw 1; }));
  CHECK_FALSE(notifier.post([&] { calls.push_back(2); }));
  notifier.run_once();
  CHECK(calls == std::vector{1, 2});
  CHECK(log.size() == 2);
  CHECK(notifier.dropped() == 0);
}

TEST_CASE("a step makes the calls that were queued at its beginning", "[notifier]") {
  const Logger logger;
  detail::Notifier notifier{logger};
  int calls = 0;
  std::function<void()> again = [&] {
    ++calls;
    notifier.post(again);
  };
  notifier.post(again);
  notifier.post([] {});
  CHECK(notifier.run_once() == SteadyTime::min());
  CHECK(calls == 1);
  CHECK(notifier.run_once() == SteadyTime::min());
  CHECK(calls == 2);
  notifier.drop_rest();
  CHECK(notifier.run_once() == std::nullopt);
}

TEST_CASE("the memory that queued calls keep alive is bounded", "[notifier]") {
  using detail::Notifier;
  const Logger logger;
  Notifier notifier{logger};
  constexpr std::size_t mebibyte = 1u << 20;
  CHECK(notifier.has_room_for(Notifier::payload_capacity));
  CHECK_FALSE(notifier.has_room_for(Notifier::payload_capacity + 1));
  notifier.post([] {}, Notifier::payload_capacity - mebibyte);
  CHECK(notifier.has_room_for(mebibyte));
  CHECK_FALSE(notifier.has_room_for(mebibyte + 1));
  notifier.post([] {}, Notifier::payload_capacity);
  CHECK_FALSE(notifier.has_room_for(0));
  notifier.post([] {}, mebibyte + 1);
  CHECK(notifier.dropped() == 1);
  notifier.post([] {}, mebibyte);
  CHECK(notifier.dropped() == 1);
  notifier.run_once();
  CHECK(notifier.has_room_for(Notifier::payload_capacity));
  notifier.post([] {}, Notifier::payload_capacity);
  notifier.drop_rest();
  CHECK(notifier.has_room_for(Notifier::payload_capacity));
}

TEST_CASE("an event without its payload is otherwise the same", "[notifier]") {
  TaskMessage message;
  message.id = "t1";
  message.queue = "default";
  message.task = {.type = "t", .payload = std::string(1000, 'x'), .headers = {{"key", "value"}}};
  message.retried = 2;
  message.timeout = std::chrono::seconds{7};
  message.last_error = "boom";
  TaskEvent event{.change = TaskEvent::Change::retried,
                  .task = std::make_shared<const TaskMessage>(message),
                  .error = "again"};
  const std::weak_ptr<const TaskMessage> before = event.task;
  CHECK(detail::bytes_of(event) == 1000 + 4 + 5 + 8);
  detail::drop_payload(event);
  CHECK(before.expired());
  CHECK(event.payload_dropped);
  CHECK(event.task->task.payload.empty());
  CHECK(event.task->id == "t1");
  CHECK(event.task->queue == "default");
  CHECK(event.task->task.type == "t");
  CHECK(event.task->task.headers.at("key") == "value");
  CHECK(event.task->retried == 2);
  CHECK(event.task->timeout == std::chrono::seconds{7});
  CHECK(event.task->last_error == "boom");
  CHECK(detail::bytes_of(event) == 4 + 5 + 8);
}

TEST_CASE("a full queue drops and counts further calls", "[notifier]") {
  const Logger logger;
  detail::Notifier notifier{logger};
  std::size_t calls = 0;
  for (std::size_t i = 0; i < detail::Notifier::capacity + 5; ++i) notifier.post([&] { ++calls; });
  CHECK(notifier.dropped() == 5);
  notifier.run_once();
  CHECK(calls == detail::Notifier::capacity);
  CHECK(notifier.post([&] { ++calls; }));
}
