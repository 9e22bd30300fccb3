#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/slow_line.hpp"
#include "support/test.hpp"
#include "taskmux/server.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

/// A redis-server behind a narrow line, and with short timeouts.
struct Slow {
  explicit Slow(std::size_t bytes_per_second) : line{redis.endpoint(), bytes_per_second} {}

  static RedisOptions options_for(const SlowLine& line) {
    RedisOptions options;
    options.port = line.port();
    options.command_timeout = 400ms;
    options.connect_timeout = 1s;
    return options;
  }
  RedisOptions options() const { return options_for(line); }

  RedisServer redis;
  SlowLine line;
  RedisBroker direct{test::options_for(redis)};
};

ServerConfig config_of(std::size_t concurrency) {
  ServerConfig config;
  config.concurrency = concurrency;
  config.lease = 5s;
  config.upkeep_interval = 500ms;
  return config;
}

std::vector<EnqueueRequest> large(std::size_t count, std::size_t bytes) {
  auto batch = many("t", count);
  for (EnqueueRequest& request : batch) request.message.task.payload.assign(bytes, 'x');
  return batch;
}

std::size_t size_of(QueueView& view) {
  const QueueInfo info = view.queue_info("default");
  return info.pending + info.active + info.scheduled + info.retry + info.archived;
}

TEST_CASE("tasks that are large for the connection are run, even without a faster worker",
          "[redis][line]") {
  const bool beside = GENERATE(false, true);
  // The connection needs longer for a task than the command timeout.
  Slow t{1'000'000};
  const std::size_t count = beside ? 30 : 12;
  for (const EnqueueReply& reply : t.direct.enqueue(large(count, 600'000))) {
    REQUIRE_FALSE(reply.error);
  }
  std::atomic<std::size_t> runs{0};
  const auto mux = [&] {
    ServeMux handlers;
    handlers.handle("email:", [&runs](Context&, const Task&) { ++runs; });
    return handlers;
  };
  RedisBroker broker{t.options()};
  Server server{broker, mux(), config_of(4)};
  SlowLine wider{t.redis.endpoint(), 4'000'000};
  RedisBroker other{Slow::options_for(wider)};
  Server fast{other, mux(), config_of(2)};
  server.start();
  if (beside) fast.start();
  CHECK(eventually([&] { return size_of(t.direct) == 0; }, 60s));
  const ServerStats stats = server.stats();
  INFO(stats.broker_errors << " errors, " << stats.stale << " stale");
  const QueueInfo info = t.direct.queue_info("default");
  CHECK(info.processed_total == count);
  CHECK(info.failed_total == 0);
  CHECK(info.archived == 0);
  CHECK(runs == count);
  server.shutdown();
  fast.shutdown();
}

std::optional<TaskInfo> wait_for(QueueView& view, const std::string& queue, const std::string& id,
                                 TaskState state) {
  std::optional<TaskInfo> info;
  CHECK(eventually(
      [&] {
        info = view.find(queue, id);
        return info && info->state == state;
      },
      60s));
  return info;
}

TEST_CASE("a task that is too large for the connection is archived, and delays nothing",
          "[redis][line]") {
  Slow t{1'000'000};
  TaskMessage huge = message("huge");
  huge.task.payload.assign(6'000'000, 'x');
  REQUIRE_FALSE(enqueue(t.direct, huge).error);
  for (const std::string queue : {"default", "other"}) {
    for (int i = 0; i < 20; ++i) {
      REQUIRE_FALSE(enqueue(t.direct, message("t" + std::to_string(i), queue)).error);
    }
  }
  std::atomic<std::size_t> runs{0};
  ServeMux mux;
  mux.handle("email:", [&runs](Context&, const Task&) { ++runs; });
  RedisBroker broker{t.options()};
  ServerConfig config = config_of(2);
  config.queues = {{"default", 1}, {"other", 1}};
  Server server{broker, std::move(mux), config};
  server.start();
  CHECK(eventually([&] { return runs == 40; }, 20s));
  const auto info = wait_for(t.direct, "default", "huge", TaskState::archived);
  REQUIRE(info);
  CHECK(info->last_error ==
        "its message of 6000040 bytes is too large for the connection of a worker to the broker");
  CHECK(info->last_failed_at > Time{});
  CHECK(info->task.payload == huge.task.payload);
  CHECK(info->retried == 0);
  CHECK(runs == 40);
  CHECK(t.redis.command({"HEXISTS", "asynq:{default}:t:huge", "tmx_slow"}).as_integer() == 0);
  server.shutdown();
}

TEST_CASE("the outcome of a task that is too large for the connection is recorded",
          "[redis][line]") {
  // It was taken while the connection was fast.
  Slow t{200'000'000};
  TaskMessage huge = message("huge");
  huge.task.payload.assign(6'000'000, 'x');
  huge.retention = 1h;
  REQUIRE_FALSE(enqueue(t.direct, huge).error);
  REQUIRE_FALSE(enqueue(t.direct, message("small")).error);
  RedisBroker broker{t.options()};
  const bool fails = GENERATE(true, false);
  std::atomic<int> runs{0};
  ServeMux mux;
  mux.handle("email:", [&](Context& context, const Task&) {
    ++runs;
    if (context.task_id() != "huge") return;
    t.line.set_rate(200'000);
    if (fails) throw SkipRetry{"broken"};
  });
  Server server{broker, std::move(mux), config_of(1)};
  server.start();
  const auto info = wait_for(t.direct, "default", "huge",
                             fails ? TaskState::archived : TaskState::completed);
  CHECK(eventually([&] { return !t.direct.find("default", "small"); }, 30s));
  CHECK(runs == 2);
  REQUIRE(info);
  CHECK(info->last_error == (fails ? "broken" : ""));
  CHECK((info->completed_at > Time{}) != fails);
  CHECK(info->task.payload == huge.task.payload);
  server.shutdown();
}

TEST_CASE("a result that is too large for the connection archives its task, and delays nothing",
          "[redis][line]") {
  Slow t{200'000};
  const auto enqueue_kept = [&](const std::string& id) {
    TaskMessage kept = message(id);
    kept.retention = 1h;
    REQUIRE_FALSE(enqueue(t.direct, kept).error);
  };
  enqueue_kept("huge");
  enqueue_kept("small");
  RedisBroker broker{t.options()};
  ServeMux mux;
  mux.handle("email:", [](Context& context, const Task&) {
    context.set_result(std::string(context.task_id() == "huge" ? 4'000'000 : 100'000, 'r'));
  });
  Server server{broker, std::move(mux), config_of(1)};
  server.start();
  CHECK(eventually([&] { return state_of(t.direct, "small") == TaskState::completed; }, 30s));
  CHECK(eventually([&] { return state_of(t.direct, "huge") == TaskState::archived; }, 30s));
  const auto info = t.direct.find("default", "huge");
  REQUIRE(info);
  CHECK(info->last_error ==
        "the handler succeeded, but its result of 4000000 bytes is too large for the connection "
        "to the broker");
  CHECK(t.direct.find("default", "small")->result.size() == 100'000);
  server.shutdown();
}

TEST_CASE("a call is waited for while it transfers bytes, up to its maximum time",
          "[redis][line]") {
  Slow t{1'000'000};
  RedisBroker broker{t.options()};
  TaskMessage some = message("t1");
  some.task.payload.assign(800'000, 'x');
  CHECK_FALSE(enqueue(broker, some).error);
  CHECK(broker.find("default", "t1")->task.payload.size() == 800'000);
  TaskMessage much = message("t2");
  much.task.payload.assign(16'000'000, 'x');
  CHECK(enqueue(broker, much).error == Errc::unavailable);
}

std::vector<EnqueueRequest> small(std::size_t count) {
  auto batch = many("t", count);
  for (EnqueueRequest& request : batch) request.message.task.payload.assign(300, 'x');
  return batch;
}

TEST_CASE("a batch that takes longer than any single call is accepted as a whole",
          "[redis][line]") {
  Slow t{1'500'000};
  RedisBroker broker{t.options()};
  const std::size_t count = 10'000;
  const auto start = std::chrono::steady_clock::now();
  for (const EnqueueReply& reply : broker.enqueue(small(count))) {
    INFO(reply.detail);
    REQUIRE_FALSE(reply.error);
  }
  CHECK(std::chrono::steady_clock::now() - start > 4 * 400ms);
  CHECK(t.direct.queue_info("default").pending == count);
}

TEST_CASE("the accepted part of an interrupted batch is reported", "[redis][line]") {
  Slow t{1'500'000};
  RedisBroker broker{t.options()};
  const std::size_t count = 10'000;
  std::vector<EnqueueReply> replies;
  {
    const std::jthread producer{[&] { replies = broker.enqueue(small(count)); }};
    const auto pending = [&] {
      return t.redis.command({"LLEN", "asynq:{default}:pending"}).as_integer();
    };
    CHECK(eventually([&] { return pending() > 500; }, 30s));
    t.line.set_rate(0);
  }
  std::size_t accepted = 0;
  std::size_t unsent = 0;
  for (std::size_t i = 0; i < replies.size(); ++i) {
    const bool stored =
        t.redis.command({"EXISTS", "asynq:{default}:t:t" + std::to_string(i + 1)}).as_integer() ==
        1;
    if (!replies[i].error) {
      ++accepted;
      CHECK(stored);
      continue;
    }
    CHECK(replies[i].error == Errc::unavailable);
    if (!replies[i].detail.starts_with("not sent: ")) continue;
    ++unsent;
    CHECK_FALSE(stored);
  }
  CHECK(accepted >= 500);
  CHECK(unsent >= 1000);
  // The items that may be in the queue although they are refused belong to one part of the batch.
  CHECK(count - accepted - unsent <= 4000);
}

}  // namespace
}  // namespace taskmux::test
