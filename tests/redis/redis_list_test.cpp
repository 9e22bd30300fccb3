#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"
#include "taskmux/queue_view.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;
using Names = std::vector<std::string>;

Names numbered(int first, int last) {
  Names names;
  for (int i = first; i <= last; ++i) names.push_back("t" + std::to_string(i));
  return names;
}

TEST_CASE("tasks of the same score are listed by the bytes of their ids, in any locale",
          "[redis][list]") {
  RedisFixture t;
  const Names ids_by_bytes{"",     "A",       std::string("A\0b", 3), "B", "_", "a", "ab", "z",
                           "\x7f", "\xc3\xa4"};
  for (const std::string& id : ids_by_bytes)
    REQUIRE_FALSE(enqueue(t.broker, scheduled(message(id), 1h)).error);
  ListRequest request{.queue = "default", .state = TaskState::scheduled, .limit = 1};
  Names all;
  do {
    TaskPage page = t.view.list(request);
    for (const TaskInfo& info : page.tasks) {
      all.push_back(info.id);
      // The place has to be searched for.
      act(t.view, "default", TaskAction::remove, Names{info.id});
    }
    request.cursor = std::move(page.next);
  } while (!request.cursor.empty());
  CHECK(all == ids_by_bytes);
}

TEST_CASE("a listing of pending tasks goes on although thousands were taken", "[redis][list]") {
  RedisFixture t;
  for (int i = 0; i < 5000; i += 500) {
    std::vector<EnqueueRequest> batch;
    for (const std::string& id : numbered(i + 1, i + 500)) batch.push_back(pending(message(id)));
    t.broker.enqueue(std::move(batch));
  }
  ListRequest request{.queue = "default", .limit = 500, .with_payload = false};
  const auto next_page = [&] {
    TaskPage page = t.view.list(request);
    request.cursor = std::move(page.next);
    return ids(page.tasks);
  };
  for (int i = 0; i < 3000; i += 500) CHECK(next_page() == numbered(i + 1, i + 500));
  const auto take_many = [&](std::size_t count) {
    for (std::size_t taken = 0; taken < count;)
      taken += take(t.broker, "default", count - taken).size();
  };
  take_many(2500);
  CHECK(next_page() == numbered(3001, 3500));
  take_many(1200);  // The place, too.
  CHECK(next_page() == numbered(3701, 4200));
  CHECK(next_page() == numbered(4201, 4700));
  CHECK(next_page() == numbered(4701, 5000));
  CHECK(request.cursor.empty());
}

TEST_CASE("what a filter leaves out, and what is not wanted, does not travel", "[redis][list]") {
  RedisFixture t;
  const std::string large(200'000, 'x');
  for (const std::string& id : numbered(1, 10)) {
    TaskMessage task = message(id, "default", large);
    task.task.type = id == "t7" ? "rare:type" : "email:send";
    task.retention = 1h;
    settle(t.broker, completed(started(t.broker, task), large));
  }
  const auto bytes_of = [&](ListRequest request) {
    request.queue = "default";
    request.state = TaskState::completed;
    t.redis.command({"CONFIG", "RESETSTAT"});
    CHECK_FALSE(listed(t.view, request).empty());
    return std::stoull(t.redis.info("stats", "total_net_output_bytes"));
  };
  CHECK(bytes_of({}) > 4'000'000);
  CHECK(bytes_of({.filter = {.type_pattern = "rare:*"}}) < 600'000);
  CHECK(bytes_of({.with_payload = false, .with_result = false}) < 50'000);
  CHECK(bytes_of({.filter = {.id_prefix = "t3"}, .with_result = false}) < 300'000);
}

TEST_CASE("a page reads a bounded number of bytes", "[redis][list]") {
  RedisFixture t;
  const std::string large(1'000'000, 'x');
  ListRequest request{.queue = "default", .filter = {.type_pattern = "rare:*"}};
  SECTION("of messages") {
    for (const std::string& id : numbered(1, 10)) enqueue(t.broker, message(id, "default", large));
  }
  SECTION("of results") {
    request.state = TaskState::completed;
    for (const std::string& id : numbered(1, 10)) {
      TaskMessage task = message(id);
      task.retention = 1h;
      settle(t.broker, completed(started(t.broker, task), large));
    }
  }
  int pages = 1;
  for (TaskPage page = t.view.list(request); !page.next.empty(); ++pages) {
    request.cursor = page.next;
    page = t.view.list(request);
    CHECK(page.tasks.empty());
  }
  CHECK(pages == 2);
}

TEST_CASE("a message that can't be read is found by the type that it is shown with",
          "[redis][list]") {
  RedisFixture t;
  enqueue(t.broker, message("t1"));
  t.redis.command({"HSET", "asynq:{default}:t:t1", "msg", "garbage"});
  for (const std::string pattern : {"taskmux:malformed", "taskmux:*", "*"}) {
    CHECK(ids(t.view.list({.queue = "default", .filter = {.type_pattern = pattern}}).tasks) ==
          Names{"t1"});
  }
  CHECK(t.view.list({.queue = "default", .filter = {.type_pattern = "email:*"}}).tasks.empty());
  const auto page = t.view.list({.queue = "default", .with_payload = false});
  CHECK(page.tasks.at(0).task.type == "taskmux:malformed");
}

TEST_CASE("a cursor that was tampered with can't be more than refused", "[redis][list]") {
  RedisFixture t;
  enqueue(t.broker, scheduled(message("t1"), 1h));
  enqueue(t.broker, message("t2"));
  const auto refusal = [&](TaskState state, const std::string& cursor) {
    return error_of([&] { t.view.list({.queue = "default", .state = state, .cursor = cursor}); });
  };
  const auto hex = [](const std::string& text) {
    std::string digits;
    for (const char c : text) {
      digits += "0123456789abcdef"[c >> 4];
      digits += "0123456789abcdef"[c & 15];
    }
    return digits + '.';
  };
  const std::string scheduled_kind = hex("redis scheduled");
  CHECK_FALSE(refusal(TaskState::scheduled, scheduled_kind + hex("12.5") + hex("t1")));
  CHECK_FALSE(refusal(TaskState::scheduled, scheduled_kind + hex("inf") + hex("t1")));
  CHECK_FALSE(refusal(TaskState::scheduled, scheduled_kind + hex("-inf") + hex("")));
  for (const std::string score : {"", "nan", "+1", "1x", "(1", "0x10", "one"})
    CHECK(refusal(TaskState::scheduled, scheduled_kind + hex(score) + hex("t1")) ==
          Errc::invalid_argument);
  const std::string pending_kind = hex("redis pending");
  CHECK_FALSE(refusal(TaskState::pending, pending_kind + hex("1000")));
  CHECK_FALSE(refusal(TaskState::pending, pending_kind + hex("0") + hex("t2") + hex("")));
  for (const std::string index : {"", "-1", "9999999999", "1.5", "x"})
    CHECK(refusal(TaskState::pending, pending_kind + hex(index)) == Errc::invalid_argument);
  CHECK(refusal(TaskState::pending, pending_kind + hex("0") + hex("t2")) == Errc::invalid_argument);
}

}  // namespace
}  // namespace taskmux::test
