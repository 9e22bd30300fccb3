#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/engine.hpp"
#include "support/hint_box.hpp"
#include "support/test.hpp"
#include "taskmux/detail/engine/fetcher.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

/// The exchanging role of a server on many queues of a Redis.
struct Fetching {
  explicit Fetching(std::size_t count) {
    std::map<std::string, int> priorities;
    for (std::size_t i = 0; i < count; ++i) priorities["q" + std::to_string(i)] = 1;
    for (const auto& [queue, priority] : priorities) queues.push_back(queue);
    fetcher.emplace(detail::Fetcher::Parts{t.broker, e.settler, e.registry, *e.slots, e.health,
                                           e.environment, [] {}},
                    detail::QueuePicker{priorities, false}, 10s);
    fetcher->set_watch(t.broker.watch(queues, [this, tell = box.callback()](const Hint& hint) {
      fetcher->hint(hint.queue, hint.report);
      tell(hint);
    }));
  }
  ~Fetching() { fetcher->drop_watch(); }

  void turns() {
    while (true) {
      const std::optional<SteadyTime> next = fetcher->run_once();
      if (!next || *next > e.clock->steady_now()) return;
    }
  }

  /// Sees a task of `queue` from its enqueue to the sleep that follows its settlement.
  void live(const std::string& id, const std::string& queue) {
    enqueue(t.broker, message(id, queue));
    REQUIRE(box.ready(20s));
    turns();
    REQUIRE(e.slots->load().ready == 1);
    auto run = e.slots->ready().pop();
    e.begin(*run);
    run->advance(detail::RunState::Phase::running, detail::RunState::Phase::ended);
    e.slots->ready().done();
    e.settler.finish(std::move(run), Outcome::success(), 0.0);
    turns();
  }

  RedisFixture t;
  Engine e{4};
  HintBox box;
  std::vector<std::string> queues;
  std::optional<detail::Fetcher> fetcher;
};

TEST_CASE("a lone task costs at most 40 commands, whatever the number of queues", "[redis][cost]") {
  const std::size_t count =
      GENERATE(std::size_t{1}, std::size_t{20}, std::size_t{100}, std::size_t{3000});
  Fetching f{count};
  f.turns();
  f.live("first", f.queues.back());  // Loads the scripts, and makes the counters of the day.
  std::vector<std::string> commands =
      f.t.executed([&] { f.live("second", f.queues.back()); });
  std::erase_if(commands, [](const std::string& line) { return line.find("all told") != std::string::npos; });
  CAPTURE(count, commands.size());
  for (const std::string& command : commands) UNSCOPED_INFO(command);
  CHECK(commands.size() <= 40);
  CHECK(f.t.view.queue_info(f.queues.back()).size() == 0);
}

/// `of_first` of the first queue, and none of the others but what that can't give.
std::vector<QueueQuota> strictly(const std::vector<std::string>& queues, std::size_t of_first) {
  std::vector<QueueQuota> quotas;
  for (const std::string& queue : queues) quotas.push_back({queue, quotas.empty() ? of_first : 0});
  return quotas;
}

std::vector<std::string> names(std::size_t count) {
  std::vector<std::string> queues;
  for (std::size_t i = 0; i < count; ++i) queues.push_back("q" + std::to_string(i));
  return queues;
}

/// Makes `count` tasks due in each queue; nothing has moved them to pending yet.
void make_due(RedisFixture& t, const std::vector<std::string>& queues, int count) {
  for (const std::string& queue : queues) {
    std::vector<EnqueueRequest> batch;
    for (int i = 0; i < count; ++i)
      batch.push_back(scheduled(message("t" + std::to_string(i), queue), Duration{1s}));
    t.broker.enqueue(std::move(batch));
  }
  t.advance(1s);
}

/// How many commands Redis executes during `body`, those of scripts counted.
std::int64_t commands_of(RedisFixture& t, const std::function<void()>& body) {
  const auto total = [&] {
    const std::string stats{t.redis.command({"INFO", "commandstats"}).as_string()};
    std::int64_t sum = 0;
    constexpr std::string_view word = ":calls=";
    for (std::size_t at = 0; (at = stats.find(word, at)) != std::string::npos;) {
      at += word.size();
      sum += std::stoll(stats.substr(at));
    }
    return sum;
  };
  const std::int64_t before = total();
  body();
  return total() - before - 1;  // INFO
}

/// Until no notice of what the test did before is on its way any more.
void calm_down(RedisFixture& t, Watch& watch) {
  for (int calm = 0; calm < 2;) calm = commands_of(t, [&] { watch.rearm(); }) <= 8 ? calm + 1 : 0;
}

TEST_CASE("an idle server of 3,000 queues takes less than 200 commands a second", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(3000);
  const bool used = GENERATE(false, true);
  CAPTURE(used);
  if (used) {
    std::vector<EnqueueRequest> batch;
    for (const std::string& queue : queues) {
      batch.push_back(pending(message("archived", queue)));
      batch.push_back(scheduled(message("scheduled", queue), Duration{1h}));
    }
    t.broker.enqueue(std::move(batch));
    const std::vector<std::string> ids{"archived"};
    for (const std::string& queue : queues)
      t.view.act({.queue = queue, .action = TaskAction::archive, .ids = ids});
  }
  const ServerInfo server{.host = "h", .pid = 1, .id = "s"};
  const auto ten_seconds = [&] {
    for (int step = 0; step < 5; ++step) t.broker.upkeep({.queues = queues});
    for (int beat = 0; beat < 2; ++beat) t.broker.registry().announce(server, 10s);
    t.view.trim_archives(std::span{queues}.first(128), {.limit = 0});
  };
  HintBox box;
  const auto watch = t.broker.watch(queues, box.callback());
  CHECK_FALSE(watch->arm().ready);
  ten_seconds();
  calm_down(t, *watch);
  ten_seconds();
  const std::int64_t idle = commands_of(t, ten_seconds);
  CHECK(idle < (used ? 2000 : 600));

  enqueue(t.broker, message("t", queues.back()));
  CHECK(box.ready(20s));
  CHECK(commands_of(t, [&] { CHECK(watch->rearm().ready); }) < 20);
}

TEST_CASE("upkeep asks each queue in which something has come due, however many there are",
          "[redis][cost]") {
  const bool tracked = GENERATE(true, false);
  CAPTURE(tracked);
  RedisFixture t;
  RedisBroker other{options_for(t.redis, t.manual_clock)};
  if (!tracked) t.redis.command({"ACL", "SETUSER", "default", "-client|tracking"});
  const std::vector<std::string> queues = names(100);
  const auto watch = t.broker.watch(queues, [](const Hint&) {});
  const auto settle_down = [&] {
    watch->arm();
    t.broker.upkeep({.queues = queues});
    if (tracked) calm_down(t, *watch);
    t.broker.upkeep({.queues = queues});
    if (tracked) CHECK(commands_of(t, [&] { t.broker.upkeep({.queues = queues}); }) < 600);
  };
  SECTION("the lease of a lost run") {
    for (const std::string& queue : queues) {
      enqueue(t.broker, message("t", queue));
      CHECK(take(other, queue).size() == 1);
    }
    settle_down();
    t.clock.advance(10s);
    CHECK(t.broker.upkeep({.queues = queues}).lost.empty());
    t.clock.advance(1s);
    CHECK(t.broker.upkeep({.queues = queues}).lost.size() == 100);
  }
  SECTION("the lease of a run that was extended") {
    std::vector<ExtendRequest> runs;
    for (const std::string& queue : queues) {
      enqueue(t.broker, message("t", queue));
      runs.push_back({take_one(other, queue)});
    }
    settle_down();
    t.clock.advance(5s);
    other.extend(runs, 10s);
    t.clock.advance(6s);
    CHECK(t.broker.upkeep({.queues = queues}).lost.empty());
    t.clock.advance(5s);
    CHECK(t.broker.upkeep({.queues = queues}).lost.size() == 100);
  }
  SECTION("the retention of a result") {
    for (const std::string& queue : queues) {
      TaskMessage kept = message("t", queue);
      kept.retention = 60s;
      settle(other, completed(started(other, kept)));
    }
    settle_down();
    t.clock.advance(60s);
    CHECK(t.broker.upkeep({.queues = queues}).expired == 100);
  }
  SECTION("a scheduled task, in a paused queue, too") {
    for (const std::string& queue : queues)
      enqueue(other, scheduled(message("t", queue), Duration{60s}));
    const Time due = t.clock.now() + 60s;
    t.view.pause(queues.back());
    settle_down();
    CHECK(t.broker.upkeep({.queues = queues}).next_due == due);
    t.clock.advance(60s);
    CHECK(t.broker.upkeep({.queues = queues}).forwarded == 100);
  }
  SECTION("what has changed since") {
    settle_down();
    for (const std::string& queue : queues)
      enqueue(other, scheduled(message("t", queue), Duration{60s}));
    if (tracked) calm_down(t, *watch);
    t.clock.advance(60s);
    CHECK(t.broker.upkeep({.queues = queues}).forwarded == 100);
  }
  if (!tracked) t.redis.command({"ACL", "SETUSER", "default", "+client|tracking"});
}

TEST_CASE("upkeep asks each queue in turn, even if nothing has changed in it", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(100);
  const auto watch = t.broker.watch(queues, [](const Hint&) {});
  watch->arm();
  t.broker.upkeep({.queues = queues});
  calm_down(t, *watch);
  t.broker.upkeep({.queues = queues});
  // Redis notifies nobody of changes of these keys.
  for (const std::string& queue : queues)
    t.redis.command({"RPUSH", "asynq:{" + queue + "}:active", "nobody"});
  std::size_t repaired = 0;
  for (int step = 0; step < 5; ++step) {
    const std::size_t here = t.broker.upkeep({.queues = queues}).repaired;
    CHECK(here < 50);
    repaired += here;
  }
  CHECK(repaired == 100);
}

TEST_CASE("upkeep of an empty queue is one command", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(250);
  t.broker.upkeep({.queues = queues});
  CHECK(commands_of(t, [&] { t.broker.upkeep({.queues = queues}); }) <= 253);
}

TEST_CASE("a call moves a bounded number of due tasks, and some of each queue", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(20);
  make_due(t, queues, 250);
  const ExchangeReply reply = t.broker.exchange({.quotas = strictly(queues, 1)});
  CHECK(reply.more);
  CHECK(reply.runs.size() == 1);
  std::size_t moved = reply.runs.size();
  for (const std::string& queue : queues) {
    const std::size_t here = t.view.queue_info(queue).pending;
    CAPTURE(queue);
    CHECK(here >= 25);
    moved += here;
  }
  CHECK(moved == 1000);
}

TEST_CASE("a call that may move nothing more says that there is more", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(6);
  make_due(t, queues, 200);
  // What it moves, it takes.
  ExchangeReply reply = t.broker.exchange({.quotas = strictly(queues, 1000)});
  CHECK(reply.runs.size() == 1000);
  CHECK(reply.more);
  reply = t.broker.exchange({.quotas = strictly(queues, 1000)});
  CHECK(reply.runs.size() == 200);
  CHECK_FALSE(reply.more);
}

TEST_CASE("a call removes a bounded number of ids without task, whatever the number of queues",
          "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(5);
  for (const std::string& queue : queues) {
    t.redis.command({"EVAL", "for n = 1, 800 do redis.call('LPUSH', KEYS[1], n) end", "1",
                     "asynq:{" + queue + "}:pending"});
  }
  enqueue(t.broker, message("behind", queues.back()));
  const auto left = [&] {
    std::int64_t sum = 0;
    for (const std::string& queue : queues)
      sum += t.redis.command({"LLEN", "asynq:{" + queue + "}:pending"}).as_integer();
    return sum;
  };
  for (int call = 1; call <= 4; ++call) {
    CHECK(t.broker.exchange({.quotas = strictly(queues, 1)}).more);
    CHECK(left() == 4001 - 1000 * call);
  }
  CHECK(t.broker.exchange({.quotas = strictly(queues, 1)}).runs.size() == 1);
}

TEST_CASE("what a call says and does covers more queues than one script has", "[redis][cost]") {
  RedisFixture t;
  const std::vector<std::string> queues = names(600);
  const auto scripts_of = [&](const std::vector<QueueQuota>& quotas, ExchangeReply& reply,
                              std::size_t free_workers = 100) {
    t.redis.command({"CONFIG", "RESETSTAT"});
    reply = t.broker.exchange({.quotas = quotas, .free_workers = free_workers});
    const std::string calls = t.redis.info("commandstats", "cmdstat_evalsha");
    return calls.substr(0, calls.find(','));
  };
  ExchangeReply reply;
  scripts_of(strictly(queues, 10), reply);  // Loads the script.
  CHECK(scripts_of(strictly(queues, 10), reply) == "calls=3");
  CHECK_FALSE(reply.more);

  SECTION("the last queue makes up for all others") {
    t.broker.enqueue(many("t", 12, queues.back()));
    CHECK(scripts_of(strictly(queues, 10), reply) == "calls=4");
    CHECK(reply.runs.size() == 10);
    CHECK(reply.more);
    CHECK(scripts_of(strictly(queues, 10), reply) == "calls=4");
    CHECK(reply.runs.size() == 2);
    CHECK_FALSE(reply.more);
  }
  SECTION("each queue gives its count, in the order of the quotas") {
    std::vector<QueueQuota> quotas;
    for (const std::string& queue : queues) {
      t.broker.enqueue(many("t", 2, queue));
      quotas.push_back({queue, 1});
    }
    CHECK(scripts_of(quotas, reply, 500) == "calls=3");
    REQUIRE(reply.runs.size() == 600);
    std::size_t ahead = 0;
    for (std::size_t i = 0; i < 600; ++i) {
      CHECK(reply.runs[i].message->queue == queues[i]);
      ahead += reply.runs[i].begun == Begun::perhaps ? 1U : 0U;
    }
    CHECK(ahead == 100);
    CHECK(reply.more);
  }
  SECTION("no task is taken ahead of a worker that must not be") {
    TaskMessage once = message("once", queues.back());
    once.max_retry = 0;
    enqueue(t.broker, once);
    t.broker.enqueue(many("t", 3, queues.front()));
    auto quotas = strictly(queues, 3);
    quotas.back().count = 1;
    scripts_of(quotas, reply, 3);
    CHECK(reply.runs.size() == 3);
    CHECK(reply.more);
    scripts_of(quotas, reply, 1);
    CHECK(reply.runs.size() == 1);
  }
}

}  // namespace
}  // namespace taskmux::test
