#include "taskmux/memory/memory_broker.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <random>
#include <thread>

#include "memory_fixture.hpp"
#include "support/builders.hpp"
#include "support/hint_box.hpp"
#include "support/test.hpp"
#include "taskmux/detail/memory/watches.hpp"

namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

TEST_CASE("a full memory broker refuses tasks, and accepts more after some are gone", "[memory]") {
  MemoryBroker broker{{.max_tasks = 3}};
  auto replies = broker.enqueue(many("t", 5));
  CHECK_FALSE(replies[2].error);
  CHECK(replies[3].error == Errc::queue_full);
  CHECK_FALSE(replies[3].detail.empty());
  CHECK(replies[4].error == Errc::queue_full);
  CHECK(enqueue(broker, message("x1", "other")).error == Errc::queue_full);
  CHECK(broker.queues() == std::vector<std::string>{"default"});

  const Run run = take_one(broker);
  CHECK(enqueue(broker, message("t6")).error == Errc::queue_full);
  settle(broker, archived(run));
  CHECK(enqueue(broker, message("t6")).error == Errc::queue_full);
  act(broker, "default", TaskAction::remove, std::vector<std::string>{"t1"}, {});
  CHECK_FALSE(enqueue(broker, message("x1", "other")).error);
  CHECK(enqueue(broker, message("t7")).error == Errc::queue_full);
}

TEST_CASE("a full memory broker distinguishes known and new ids, and keeps no lock", "[memory]") {
  MemoryBroker broker{{.max_tasks = 1}};
  enqueue(broker, message("t1"));
  CHECK(enqueue(broker, message("t1")).error == Errc::task_id_conflict);
  CHECK(enqueue(broker, unique(message("t2"))).error == Errc::queue_full);
  settle(broker, completed(take_one(broker)));
  CHECK_FALSE(enqueue(broker, unique(message("t3"))).error);
}

TEST_CASE("a full memory broker accepts ids that it remembers", "[memory]") {
  MemoryBroker broker{{.max_tasks = 1}};
  enqueue(broker, idempotent(message("t1")));
  settle(broker, completed(take_one(broker)));
  enqueue(broker, message("t2"));
  CHECK(enqueue(broker, idempotent(message("t1"))).accepted_before);
  CHECK(enqueue(broker, idempotent(message("t3"))).error == Errc::queue_full);
  settle(broker, completed(take_one(broker)));
  CHECK_FALSE(enqueue(broker, idempotent(message("t3"))).accepted_before);
}

TEST_CASE("only the queues that have changed are asked for news", "[memory]") {
  detail::MemoryBoard board;
  detail::MemoryQueue*& changed = board.changed;
  detail::MemoryQueue one{"one", board};
  detail::MemoryQueue two{"two", board};
  const detail::MemoryNow now;
  const auto add = [&](detail::MemoryQueue& queue, const std::string& id) {
    auto task = std::make_shared<detail::MemoryTask>(message(id));
    CHECK_FALSE(queue.add(task, now, {.at = now.wall}, {}));
  };
  CHECK(changed == nullptr);
  add(two, "t1");
  add(two, "t2");
  CHECK(changed == &two);
  add(one, "t1");
  CHECK(changed == &one);
  CHECK(one.forget_news() == &two);
  CHECK(two.forget_news() == nullptr);
  changed = nullptr;
  add(two, "t3");
  CHECK(changed == &two);
  CHECK(two.forget_news() == nullptr);
}

TEST_CASE("refused items of a batch do not count towards the limit", "[memory]") {
  MemoryBroker broker{{.max_tasks = 2}};
  const auto replies =
      broker.enqueue({pending(message("t1")), pending(message("t1")), pending(message("t2"))});
  CHECK(replies[1].error == Errc::task_id_conflict);
  CHECK_FALSE(replies[2].error);
}

TEST_CASE("a step of the wall clock takes no run from its worker", "[memory][clock]") {
  MemoryFixture t;
  const Duration step = GENERATE(Duration{1h}, Duration{-1h});
  const Run run = started(t.broker, message("t1"));
  t.clock.step_wall(step);
  CHECK(upkeep(t.broker).lost.empty());
  CHECK_FALSE(t.view.find("default", "t1")->orphaned);
  t.advance(9s);
  CHECK(extend(t.broker, run).status == LeaseStatus::ok);
  t.advance(10s);
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(1s);
  CHECK(ids(upkeep(t.broker).lost) == std::vector<std::string>{"t1"});
}

TEST_CASE("a step of the wall clock does not change a delay", "[memory][clock]") {
  MemoryFixture t;
  const Duration step = GENERATE(Duration{1h}, Duration{-1h});
  enqueue(t.broker, scheduled(message("delayed"), 3s));
  enqueue(t.broker, message("retried"));
  enqueue(t.broker, message("snoozed"));
  const std::vector<Run> runs = take(t.broker);
  settle(t.broker, {retried(runs.at(0), 3s), snoozed(runs.at(1), 3s)});

  t.clock.step_wall(step);
  for (const char* const id : {"delayed", "retried", "snoozed"}) {
    CHECK(t.view.find("default", id)->next_process_at == t.clock.now() + 3s);
  }
  t.advance(3s - 1us);
  CHECK(take(t.broker).empty());
  t.advance(1us);
  CHECK(take(t.broker).size() == 3);
}

TEST_CASE("a task for an instant is due when the wall clock shows it", "[memory][clock]") {
  MemoryFixture t;
  const Time at = t.clock.now() + 1h;
  enqueue(t.broker, scheduled(message("t1"), at));
  SECTION("earlier, if the wall clock is set forward") {
    t.clock.step_wall(1h);
    CHECK(ids(take(t.broker)) == std::vector<std::string>{"t1"});
  }
  SECTION("later, if it is set back") {
    t.clock.step_wall(-1h);
    t.advance(1h);
    CHECK(take(t.broker).empty());
    CHECK(t.view.find("default", "t1")->next_process_at == at);
    t.advance(1h);
    CHECK(ids(take(t.broker)) == std::vector<std::string>{"t1"});
  }
}

TEST_CASE("the next due time counts from the wall clock as it is now", "[memory][clock]") {
  MemoryFixture t;
  enqueue(t.broker, scheduled(message("delayed"), 3s));
  enqueue(t.broker, scheduled(message("instant"), t.clock.now() + 2h));
  t.clock.step_wall(1h);
  const QueueQuota quotas[] = {{"default", 1}};
  const ExchangeReply reply = t.broker.exchange({.quotas = quotas});
  CHECK(reply.now == t.clock.now());
  CHECK(reply.next_due == t.clock.now() + 3s);
  CHECK(upkeep(t.broker).next_due == t.clock.now() + 3s);
}

TEST_CASE("scheduled tasks are listed in the order in which they become due", "[memory][clock]") {
  MemoryFixture t;
  enqueue(t.broker, scheduled(message("b"), 2s));
  enqueue(t.broker, scheduled(message("a"), t.clock.now() + 1s));
  enqueue(t.broker, scheduled(message("c"), t.clock.now() + 3s));
  enqueue(t.broker, scheduled(message("d"), 4s));
  CHECK(ids(t.view, TaskState::scheduled) == std::vector<std::string>{"a", "b", "c", "d"});
  const TaskPage page =
      t.view.list({.queue = "default", .state = TaskState::scheduled, .limit = 2});
  CHECK(ids(page.tasks) == std::vector<std::string>{"a", "b"});
  CHECK(t.view.queue_info("default").scheduled == 4);
  t.clock.step_wall(10s);
  CHECK(ids(t.view, TaskState::scheduled) == std::vector<std::string>{"a", "c", "b", "d"});
  // Each is listed once, although the order has changed since the first page.
  CHECK(ids(t.view.list({.queue = "default", .state = TaskState::scheduled, .cursor = page.next})
                .tasks) == std::vector<std::string>{"c", "d"});
  CHECK(t.view.act_all("default", TaskAction::remove, TaskState::scheduled, 10) == 4);
}

TEST_CASE("an armed watch is notified of an earlier delay after a step of the wall clock",
          "[memory][clock]") {
  MemoryFixture t;
  const Duration step = GENERATE(Duration{1h}, Duration{-1h});
  HintBox hints;
  const auto watch = t.broker.watch({"default"}, hints.callback());
  enqueue(t.broker, scheduled(message("late"), 5s));
  CHECK(watch->arm().next_due == t.clock.now() + 5s);
  t.clock.step_wall(step);
  enqueue(t.broker, scheduled(message("soon"), 1s));
  CHECK(hints.ready());
}

TEST_CASE("a step of the wall clock ends no retention, lock or record of a server",
          "[memory][clock]") {
  MemoryFixture t;
  TaskMessage kept = message("kept");
  kept.retention = 10s;
  settle(t.broker, completed(started(t.broker, kept)));
  enqueue(t.broker, unique(message("locked", "other"), 10s));
  t.broker.registry().announce({.host = "host", .pid = 1, .id = "server"}, 10s);

  t.clock.step_wall(1h);
  upkeep(t.broker);
  CHECK(t.view.find("default", "kept"));
  CHECK(enqueue(t.broker, unique(message("again", "other"), 10s)).error == Errc::duplicate_task);
  CHECK(t.broker.registry().servers().size() == 1);

  t.clock.step_wall(-2h);
  t.advance(10s);
  upkeep(t.broker);
  CHECK_FALSE(t.view.find("default", "kept"));
  CHECK_FALSE(enqueue(t.broker, unique(message("again", "other"), 10s)).error);
  CHECK(t.broker.registry().servers().empty());
}

TEST_CASE("without a given clock, a memory broker uses the machine's", "[memory]") {
  MemoryBroker broker;
  const Time before = SystemClock{}.now();
  const Time now = broker.now();
  CHECK(now >= before);
  CHECK(now <= SystemClock{}.now());
}

TEST_CASE("a lost run is found exactly 1 s after its lease ended", "[memory]") {
  MemoryFixture t;
  enqueue(t.broker, message("t1"));
  take_one(t.broker, "default", 1500ms);
  t.advance(2500ms - 1us);
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(1us);
  CHECK(upkeep(t.broker).lost.size() == 1);
}

TEST_CASE("retention and locks end to the microsecond", "[memory]") {
  MemoryFixture t;
  TaskMessage kept = message("t1");
  kept.retention = 10s;
  t.advance(1us);
  settle(t.broker, completed(started(t.broker, kept)));
  enqueue(t.broker, unique(message("t2"), 10s));
  t.advance(10s - 1us);
  CHECK(upkeep(t.broker).expired == 0);
  CHECK(enqueue(t.broker, unique(message("t3"))).error == Errc::duplicate_task);
  t.advance(1us);
  CHECK(upkeep(t.broker).expired == 1);
  CHECK_FALSE(enqueue(t.broker, unique(message("t3"))).error);
}

TEST_CASE("tasks that are due at the same instant keep the order in which they were enqueued",
          "[memory]") {
  MemoryFixture t;
  std::vector<EnqueueRequest> batch = many("t", 20);
  for (EnqueueRequest& request : batch) request.process_in = 1s;
  t.broker.enqueue(std::move(batch));
  t.advance(1s);
  const std::vector<Run> runs = take(t.broker);
  REQUIRE(runs.size() == 20);
  for (std::size_t i = 0; i < 20; ++i) {
    CHECK(runs[i].message->id == "t" + std::to_string(i + 1));
  }
}

TEST_CASE("a delay beyond the maximum time is the maximum time", "[memory]") {
  MemoryFixture t;
  EnqueueRequest request = scheduled(message("t1"), Duration::max());
  request.expires_in = Duration::max();
  request.unique_for = 1h;
  CHECK(enqueue(t.broker, request).process_at == Time::max());
  settle(t.broker, snoozed(started(t.broker, message("t2")), Duration::max()));
  CHECK(t.view.find("default", "t2")->next_process_at == Time::max());
  take(t.broker, "default", 1, Duration::max());
  CHECK(upkeep(t.broker).lost.empty());
}

TEST_CASE("many due tasks are forwarded in bounded steps, and the reply says so", "[memory]") {
  MemoryFixture t;
  std::vector<EnqueueRequest> batch = many("t", 2500);
  for (EnqueueRequest& request : batch) request.process_in = 1s;
  t.broker.enqueue(std::move(batch));
  t.advance(1s);
  const QueueQuota one[] = {{"default", 1}};
  const ExchangeReply reply = t.broker.exchange({.quotas = one});
  CHECK(reply.runs.size() == 1);
  CHECK(reply.more);
  CHECK(t.view.queue_info("default").scheduled == 1500);
  CHECK(take(t.broker, "default", 2499).size() == 2499);
}

TEST_CASE("a run that was copied settles its task all the same", "[memory]") {
  MemoryFixture t;
  Run run = started(t.broker, message("t1"));
  TaskMessage copy = *run.message;
  copy.task.payload = "tampered with";
  run.message = std::make_shared<const TaskMessage>(copy);
  CHECK(extend(t.broker, run).status == LeaseStatus::ok);
  CHECK(settle(t.broker, retried(run, {})) == SettleStatus::applied);
  CHECK(take_one(t.broker).message->task.payload == "payload");
}

TEST_CASE("a run without a message is stale", "[memory]") {
  MemoryFixture t;
  CHECK(settle(t.broker, completed({})) == SettleStatus::stale);
  CHECK(extend(t.broker, {}).status == LeaseStatus::lost);
}

TEST_CASE("a run keeps its message after its task is gone, and after the broker", "[memory]") {
  Run run;
  {
    MemoryFixture t;
    run = started(t.broker, message("t1"));
    settle(t.broker, retried(run, {}));
    settle(t.broker, completed(take_one(t.broker)));
    CHECK(run.message->retried == 0);
  }
  CHECK(run.message->id == "t1");
  CHECK(run.message->task.payload == "payload");
}

TEST_CASE("an armed watch is notified once, and one that knows of an earlier time is not",
          "[memory]") {
  MemoryFixture t;
  int hints = 0;
  const auto watch = t.broker.watch({"default"}, [&](const Hint&) { ++hints; });
  enqueue(t.broker, message("t1"));
  CHECK(hints == 0);
  settle(t.broker, completed(take_one(t.broker)));

  enqueue(t.broker, scheduled(message("t1"), 10s));
  watch->arm();
  enqueue(t.broker, scheduled(message("t2"), 20s));
  enqueue(t.broker, message("x1", "other"));
  CHECK(hints == 0);
  enqueue(t.broker, message("t3"));
  enqueue(t.broker, message("t4"));
  CHECK(hints == 1);
}

TEST_CASE("a watch is not notified of tasks in a paused queue", "[memory]") {
  MemoryFixture t;
  int hints = 0;
  enqueue(t.broker, message("t1"));
  t.view.pause("default");
  const auto watch = t.broker.watch({"default"}, [&](const Hint&) { ++hints; });
  CHECK_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t2"));
  CHECK(hints == 0);
  t.view.unpause("default");
  CHECK(hints == 1);
}

TEST_CASE("ending a watch waits for its callback, and the broker is free meanwhile", "[memory]") {
  MemoryFixture t;
  std::promise<void> entered;
  std::promise<void> leave;
  std::atomic<bool> left{false};
  auto watch = t.broker.watch({"default"}, [&](const Hint&) {
    entered.set_value();
    leave.get_future().wait();
    left = true;
  });
  REQUIRE_FALSE(watch->arm().ready);
  std::jthread producer{[&] { enqueue(t.broker, message("t1")); }};
  entered.get_future().wait();
  CHECK(t.view.queue_info("default").pending == 1);

  bool left_before_end = false;
  std::jthread ender{[&] {
    watch.reset();
    left_before_end = left;
  }};
  CHECK(take(t.broker).size() == 1);
  leave.set_value();
  ender.join();
  CHECK(left_before_end);
}

TEST_CASE("watches are added and removed while tasks are processed", "[memory]") {
  MemoryFixture t;
  std::atomic<bool> done{false};
  std::jthread producer{[&] {
    for (int i = 0; i < 500; ++i) {
      enqueue(t.broker, message("t" + std::to_string(i)));
      take(t.broker);
    }
    done = true;
  }};
  while (!done) {
    auto alive = std::make_unique<int>(0);
    const auto watch = t.broker.watch({"default"}, [&alive](const Hint&) { ++*alive; });
    watch->arm();
  }
}

TEST_CASE("a memory broker refuses to work in a forked child", "[memory]") {
  MemoryFixture t;
  enqueue(t.broker, message("t1"));
  auto watch = t.broker.watch({"default"}, [](const Hint&) {});
  const pid_t child = ::fork();
  if (child == 0) {
    const std::string queue = "default";
    const bool refused = error_of([&] { t.broker.enqueue({}); }) == Errc::forked &&
                         error_of([&] { t.broker.exchange({}); }) == Errc::forked &&
                         error_of([&] { t.broker.extend({}, 1s); }) == Errc::forked &&
                         error_of([&] { t.broker.upkeep({}); }) == Errc::forked &&
                         error_of([&] { t.broker.watch({}, {}); }) == Errc::forked &&
                         error_of([&] { watch->arm(); }) == Errc::forked &&
                         error_of([&] { t.broker.registry().announce({}, 1s); }) == Errc::forked &&
                         error_of([&] { t.broker.registry().retire({}); }) == Errc::forked &&
                         error_of([&] { t.broker.ping(); }) == Errc::forked &&
                         error_of([&] { t.view.queues(); }) == Errc::forked &&
                         error_of([&] { t.view.find(queue, "t1"); }) == Errc::forked &&
                         error_of([&] { t.view.pause(queue); }) == Errc::forked &&
                         error_of([&] { t.view.delete_queue(queue, true); }) == Errc::forked;
    watch.reset();
    ::_exit(refused ? 0 : 1);
  }
  REQUIRE(child > 0);
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(take(t.broker).size() == 1);
}

}  // namespace
TEST_CASE("a hint about a change that was already reported is left out", "[memory]") {
  int hints = 0;
  auto watcher = std::make_shared<detail::MemoryWatcher>(std::vector<std::string>{"default"},
                                                         [&](const Hint&) { ++hints; });
  detail::MemoryWatches watches;
  watches.add(watcher);
  watcher->armed = true;
  {
    detail::MemoryHints collected;
    watches.ready("default", Time::min(), collected);
    CHECK(hints == 0);
  }
  CHECK(hints == 1);

  watcher->armed = true;
  {
    detail::MemoryHints late;
    watches.ready("default", Time::min(), late);
    watcher->note_report();
  }
  CHECK(hints == 1);

  {
    detail::MemoryHints cancelled;
    watches.cancel("default", "t1", cancelled);
    watcher->note_report();
  }
  CHECK(hints == 2);
}

TEST_CASE("a hint is given even if the call that caused it fails afterwards", "[memory]") {
  int hints = 0;
  auto watcher = std::make_shared<detail::MemoryWatcher>(std::vector<std::string>{"default"},
                                                         [&](const Hint&) { ++hints; });
  detail::MemoryWatches watches;
  watches.add(watcher);
  watcher->armed = true;
  try {
    detail::MemoryHints collected;
    watches.ready("default", Time::min(), collected);
    throw std::bad_alloc{};
  } catch (const std::bad_alloc&) {
  }
  CHECK(hints == 1);
  CHECK_FALSE(watcher->armed);
}

TEST_CASE("a watch is notified of its own queues until it is removed", "[memory]") {
  std::string told;
  const auto watcher = [&](std::vector<std::string> queues, const char* name) {
    return std::make_shared<detail::MemoryWatcher>(
        std::move(queues), [&told, name](const Hint& hint) { told += name + hint.queue + ' '; });
  };
  const auto one = watcher({"a", "b"}, "1");
  const auto two = watcher({"b", "c"}, "2");
  detail::MemoryWatches watches;
  watches.add(one);
  watches.add(two);
  const auto told_of = [&](const char* queue) {
    told.clear();
    one->armed = two->armed = true;
    {
      detail::MemoryHints hints;
      watches.ready(queue, Time::min(), hints);
    }
    return told;
  };
  CHECK(told_of("a") == "1a ");
  CHECK(told_of("b") == "1b 2b ");
  CHECK(told_of("c") == "2c ");
  CHECK(told_of("d").empty());
  watches.remove(*one);
  CHECK(told_of("a").empty());
  CHECK(told_of("b") == "2b ");
}

TEST_CASE("a watch looks again only at queues that were forgotten, were ready, or came due",
          "[memory]") {
  detail::MemoryKnowledge known{4};
  const Time start{1h};
  std::vector<detail::MemoryKnowledge::Look> stand(4);
  stand[2].due = start + 2s;
  const auto looked_at = [&](Time now) {
    std::string numbers;
    known.forget_due(now);
    for (std::size_t i = 0; i < known.unknown().size();) {
      const std::size_t queue = known.unknown()[i];
      numbers += std::to_string(queue);
      known.note(i, stand[queue]);
      if (stand[queue].ready) ++i;
    }
    std::sort(numbers.begin(), numbers.end());
    return numbers;
  };
  CHECK(looked_at(start) == "0123");
  CHECK(known.next_due() == start + 2s);
  CHECK(looked_at(start + 1s).empty());

  known.forget(1);
  known.forget(1);
  stand[1].due = start + 4s;
  CHECK(looked_at(start + 1s) == "1");
  CHECK(known.next_due() == start + 2s);

  stand[2] = {.ready = true};
  CHECK(looked_at(start + 2s) == "2");
  CHECK(looked_at(start + 2s) == "2");
  CHECK(known.next_due() == start + 4s);
  stand[2].ready = false;
  CHECK(looked_at(start + 2s) == "2");
  CHECK(looked_at(start + 2s).empty());

  stand[1].due = start + 9s;  // The task that was due at 4 s is gone.
  CHECK(looked_at(start + 4s) == "1");
  CHECK(known.next_due() == start + 9s);
  stand[1].due.reset();
  known.forget_all();
  CHECK(looked_at(start + 4s) == "0123");
  CHECK_FALSE(known.next_due());
}

TEST_CASE("to arm a watch again tells the same as to look at all queues", "[memory]") {
  MemoryFixture t;
  const std::vector<std::string> queues{"a", "b", "c"};
  const auto watch = t.broker.watch(queues, {});
  const auto witness = t.broker.watch(queues, {});
  std::mt19937 random{GENERATE(1U, 2U, 3U)};
  const auto below = [&random](unsigned end) { return random() % end; };
  std::vector<Run> runs;
  for (int step = 0; step < 2000; ++step) {
    const std::string& queue = queues[below(3)];
    const std::string id = "t" + std::to_string(below(20));
    switch (below(10)) {
      case 0: enqueue(t.broker, message(id, queue)); break;
      case 1: enqueue(t.broker, scheduled(message(id, queue), Duration{below(5) * 1s})); break;
      case 2:
        enqueue(t.broker, scheduled(message(id, queue), t.clock.now() + below(5) * 1s));
        break;
      case 3:
      case 4:
        for (Run& run : take(t.broker, queue, 2)) runs.push_back(std::move(run));
        break;
      case 5:
      case 6:
        if (runs.empty()) break;
        settle(t.broker, below(2) == 0   ? retried(runs.back(), Duration{below(5) * 1s})
                         : below(2) == 0 ? given_back(runs.back())
                                         : completed(runs.back()));
        runs.pop_back();
        break;
      case 7:
        error_of([&] {
          t.view.act({.queue = queue, .action = TaskAction::remove, .ids = std::span{&id, 1}});
        });
        break;
      case 8: t.advance(Duration{below(3) * 1s}); break;
      default:
        error_of([&] { below(2) == 0 ? t.view.pause(queue) : t.view.unpause(queue); });
        error_of([&] { t.view.delete_queue(queue, true); });
    }
    if (below(3) == 0) continue;
    const Watch::State truth = witness->arm();
    const Watch::State state = watch->rearm();
    CAPTURE(step);
    REQUIRE(state.ready == truth.ready);
    if (state.ready) continue;
    // Of a task that is gone it may still be said when it was due.
    if (truth.next_due) REQUIRE(state.next_due <= truth.next_due);
    if (state.next_due) REQUIRE(*state.next_due > t.clock.now());
  }
}

TEST_CASE("the latency of a queue is not negative for a reader whose clock is behind", "[memory]") {
  const Time now{1h};
  detail::MemoryBoard board;
  detail::MemoryQueue queue{"default", board};
  auto task = std::make_shared<detail::MemoryTask>(message("t1"));
  queue.add(task, {now, now}, {.at = now}, now);
  CHECK(queue.info({now - 1us, now - 1us}).latency == 0us);
  CHECK(queue.info({now + 1us, now + 1us}).latency == 1us);
}

}  // namespace taskmux::test
