#include "taskmux/detail/engine/fetcher.hpp"

#include <map>
#include <thread>

#include "support/engine.hpp"
#include "support/test.hpp"
#include "taskmux/broker_wrapper.hpp"
#include "taskmux/detail/run/task_events.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

using RunPtr = std::shared_ptr<detail::RunState>;

/// The exchanging role on queues of these priorities, whose broker is seen through `Wrapper`.
template <typename Wrapper = BrokerWrapper>
struct FetchingThrough : Engine {
  using Queues = std::map<std::string, int>;

  explicit FetchingThrough(std::size_t concurrency = 2, const Queues& queues = {{"default", 1}},
                           bool strict = false)
      : Engine{concurrency},
        fetcher{{wrapper, settler, registry, *slots, health, environment, [this] { ++arrived; }},
                detail::QueuePicker{queues, strict},
                10s} {
    std::vector<std::string> names;
    for (const auto& queue : queues) names.push_back(queue.first);
    fetcher.set_watch(wrapper.watch(names, [this](const Hint& hint) {
      ++hints;
      fetcher.hint(hint.queue);
    }));
  }

  std::size_t ready() { return slots->load().ready; }
  /// As after many short runs: much is taken ahead then.
  void learn_fast_pace() {
    for (int i = 0; i < 1000; ++i) slots->note_pace(1us);
  }
  std::size_t exchanges() { return broker.calls(Operation::exchange); }

  /// Turns until there is nothing to do at this instant; returns when there is.
  std::optional<SteadyTime> settle_down() {
    while (true) {
      const std::optional<SteadyTime> next = fetcher.run_once();
      if (!next || *next > clock->steady_now()) return next;
    }
  }

  /// The same, while the next call of `operation` takes 10 ms to reach the broker.
  std::optional<SteadyTime> settle_down_slowly(Operation operation) {
    std::optional<SteadyTime> next;
    broker.hold(operation, 1);
    {
      const std::jthread turns{[&] { next = settle_down(); }};
      broker.wait_held(operation);
      clock->advance(10ms);
      broker.release(operation);
    }
    return next;
  }

  /// As a worker would.
  RunPtr begin_next() {
    RunPtr run = slots->ready().pop();
    Engine::begin(*run);
    return run;
  }
  void end(const RunPtr& run) {
    run->advance(detail::RunState::Phase::running, detail::RunState::Phase::ended);
    slots->ready().done();
    settler.finish(run, Outcome::success(), 0.0);
  }
  void end_next() { end(begin_next()); }

  int hints = 0;
  int arrived = 0;
  Wrapper wrapper{static_cast<Broker&>(broker)};
  detail::Fetcher fetcher;
};

using Fetching = FetchingThrough<>;

TaskMessage never_retried(const std::string& id) {
  TaskMessage once = message(id);
  once.max_retry = 0;
  return once;
}

}  // namespace

TEST_CASE("a turn takes as many tasks as there are free workers", "[fetcher]") {
  Fetching f{2};
  f.broker.enqueue(many("t", 5));
  CHECK(f.settle_down() == std::nullopt);
  CHECK(f.ready() == 2);
  CHECK(f.registry.size() == 2);
  CHECK(f.arrived == 1);
  CHECK(f.fetcher.taken() == 2);
  CHECK(ids(f.memory, TaskState::pending).size() == 3);
}

TEST_CASE("with nothing to do it arms the watch once, and then makes no call until a hint",
          "[fetcher]") {
  Fetching f;
  CHECK(f.settle_down() == std::nullopt);
  const std::size_t exchanges = f.exchanges();
  const std::size_t arms = f.broker.calls(Operation::arm);
  for (int i = 0; i < 10; ++i) CHECK(f.settle_down() == std::nullopt);
  CHECK(f.exchanges() == exchanges);
  CHECK(f.broker.calls(Operation::arm) == arms);

  enqueue(f.broker, message("t1"));
  CHECK(f.hints == 1);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("a task that arrives between the last exchange and the arming is not missed",
          "[fetcher]") {
  Fetching f;
  f.fetcher.run_once();  // An exchange that finds nothing.
  CHECK(f.broker.calls(Operation::arm) == 0);
  enqueue(f.broker, message("t1"));
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("however long arming takes, it does not look for a due task too early", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 90s));
  const std::optional<SteadyTime> next = f.settle_down_slowly(Operation::arm);
  REQUIRE(next);
  f.clock->advance(std::chrono::ceil<Duration>(*next - f.clock->steady_now()));
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("a spurious hint delays no task that will be due", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 200us));
  f.settle_down();
  f.fetcher.hint();
  f.settle_down();
  f.clock->advance(200us);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("however long a fruitless call takes, it does not look for a due task too early",
          "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 10'200us));
  f.settle_down();
  const std::size_t before = f.exchanges();
  f.fetcher.hint();
  f.settle_down_slowly(Operation::exchange);
  CHECK(f.exchanges() == before + 1);
  f.clock->advance(200us);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("a task that another server took affects only the next look", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 100us));
  f.settle_down();
  f.clock->advance(100us);
  CHECK(take_one(f.broker).message->id == "t1");
  f.settle_down();
  f.clock->advance(20ms);
  enqueue(f.broker, scheduled(message("t2"), 200us));
  f.settle_down();
  f.fetcher.hint();
  f.settle_down();
  f.clock->advance(200us);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("after another server took a due task first, it pauses", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 100us));
  enqueue(f.broker, scheduled(message("t2"), 200us));
  f.settle_down();
  f.clock->advance(100us);
  CHECK(take_one(f.broker).message->id == "t1");
  f.settle_down();
  f.clock->advance(100us);
  const std::optional<SteadyTime> next = f.settle_down();
  CHECK(f.ready() == 0);
  REQUIRE(next);
  CHECK(*next - f.clock->steady_now() >= 300us);
  f.clock->advance(20ms);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("a task scheduled after a fruitless look for a due task is not late", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 10s));
  f.settle_down();
  act(f.memory, "default", TaskAction::remove, std::vector<std::string>{"t1"}, {});
  f.clock->advance(10s);
  f.settle_down();  // Looks in vain, and pauses.
  f.clock->advance(20ms);
  f.settle_down();
  enqueue(f.broker, scheduled(message("t2"), 5s));
  f.settle_down();
  f.clock->advance(5s);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("it sleeps until the next task is due, and takes it then", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, scheduled(message("t1"), 90s));
  const std::optional<SteadyTime> next = f.settle_down();
  REQUIRE(next);
  CHECK(*next - f.clock->steady_now() == 90s);
  f.clock->advance(90s - 1us);
  f.settle_down();
  CHECK(f.ready() == 0);
  f.clock->advance(1us);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("one exchange carries all outcomes that have accumulated, and the next runs",
          "[fetcher]") {
  Fetching f{3};
  f.broker.enqueue(many("t", 6));
  f.settle_down();
  const std::size_t before = f.exchanges();
  for (int i = 0; i < 3; ++i) f.end_next();
  f.fetcher.run_once();
  CHECK(f.exchanges() == before + 1);
  CHECK(f.settler.counts().of(SettleAction::complete) == 3);
  CHECK(f.ready() == 3);
}

TEST_CASE("after a wake-up that finds nothing it pauses before it looks again", "[fetcher]") {
  Fetching f;
  f.settle_down();
  enqueue(f.broker, message("t1"));
  take_one(f.memory);  // Another server is faster.
  const std::optional<SteadyTime> next = f.settle_down();
  REQUIRE(next);
  const auto pause = *next - f.clock->steady_now();
  CHECK(pause >= 500us);
  CHECK(pause <= 20ms);
  f.clock->advance(20ms);
  CHECK(f.settle_down() == std::nullopt);  // Armed again.
  enqueue(f.broker, message("t2"));
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("consecutive spurious hints lead to growing pauses", "[fetcher]") {
  Fetching f;
  const auto pause = [&]() -> Duration {
    f.fetcher.hint();
    const std::optional<SteadyTime> next = f.settle_down();
    if (!next) return Duration{0};
    return std::chrono::ceil<Duration>(*next - f.clock->steady_now());
  };
  f.settle_down();
  const std::size_t before = f.exchanges();
  Duration longest{0};
  for (Duration time{0}; time < 20s;) {
    const Duration step = pause();
    REQUIRE(step >= 500us);
    REQUIRE(step <= 500ms);
    longest = std::max(longest, step);
    f.clock->advance(step);
    time += step;
    REQUIRE(f.settle_down() == std::nullopt);  // Armed again.
  }
  CHECK(longest > 100ms);
  CHECK(f.exchanges() - before < 200);

  // Once they come seldom, or one tells of a task, the pause is short again.
  for (int i = 0; i < 20; ++i) {
    f.clock->advance(1s);
    CHECK(pause() <= 20ms);
    f.clock->advance(20ms);
    f.settle_down();
  }
  for (int i = 0; i < 10; ++i) {
    f.clock->advance(pause());
    f.settle_down();
  }
  enqueue(f.broker, message("t1"));
  f.clock->advance(500ms);
  f.settle_down();
  CHECK(f.ready() == 1);
  f.settle_down();
  CHECK(pause() <= 20ms);
}

TEST_CASE("a lone task costs no look at queues without a hint", "[fetcher]") {
  struct Asked final : BrokerWrapper {
    using BrokerWrapper::BrokerWrapper;
    ExchangeReply exchange(const ExchangeRequest& request) override {
      for (const QueueQuota& quota : request.quotas) queues.push_back(quota.queue);
      return BrokerWrapper::exchange(request);
    }
    std::vector<std::string> queues;
  };
  using Names = std::vector<std::string>;
  FetchingThrough<Asked> f{2, {{"a", 1}, {"b", 1}, {"c", 1}}, true};
  const auto asked = [&] {
    f.wrapper.queues.clear();
    f.settle_down();
    return f.wrapper.queues;
  };
  CHECK(asked() == Names{"a", "b", "c"});
  enqueue(f.memory, message("t1", "b"));
  CHECK(asked() == Names{"b"});
  CHECK(f.ready() == 1);
  // The watch is armed: it would have reported what is ready.
  f.end_next();
  CHECK(asked().empty());
  CHECK(f.settler.unsettled() == 0);

  // What came to another queue beside it is found when the watch is armed again.
  enqueue(f.memory, message("t2", "b"));
  enqueue(f.memory, message("t3", "c"));
  CHECK(asked() == Names{"b", "a", "b", "c"});
  CHECK(f.ready() == 2);
  f.end_next();
  f.end_next();
  asked();

  // A queue that is never empty does not keep the others from being looked at.
  f.broker.enqueue(many("b", 100, "b"));
  asked();
  enqueue(f.memory, message("a1", "a"));
  for (int i = 0; i < 4; ++i) {
    f.end_next();
    asked();
  }
  CHECK(state_of(f.memory, "a1", "a") == std::nullopt);

  // Nor does a task that is due wait for a hint.
  f.clock->advance(1s);
  enqueue(f.memory, scheduled(message("a2", "a"), 1h));
  for (int i = 0; i < 200 && f.memory.queue_info("b").pending > 0; ++i) {
    f.end_next();
    asked();
  }
  while (f.ready() > 0) f.end_next();
  asked();
  CHECK(f.ready() == 0);
  f.clock->advance(1h);
  asked();
  CHECK(state_of(f.memory, "a2", "a") == TaskState::active);
}

TEST_CASE("strict priority holds for queues that fill while a worker is busy", "[fetcher]") {
  Fetching f{1, {{"high", 3}, {"low", 1}}, true};
  f.settle_down();
  const bool many_at_once = GENERATE(true, false);
  CAPTURE(many_at_once);
  enqueue(f.broker, message("low1", "low"));
  f.settle_down();
  const auto first = f.begin_next();
  if (many_at_once) enqueue(f.broker, message("low2", "low"));
  f.settle_down();
  enqueue(f.broker, message("low3", "low"));
  enqueue(f.broker, message("high1", "high"));
  f.end(first);
  f.settle_down();
  REQUIRE(f.ready() == 1);
  CHECK(f.slots->ready().pop()->message().id == "high1");
}

TEST_CASE("a hint limits the look to its queue only for a moment", "[fetcher]") {
  Fetching f{2, {{"high", 3}, {"low", 1}}, true};
  f.settle_down();
  enqueue(f.broker, message("first", "low"));
  f.fetcher.run_once();  // Takes it.
  REQUIRE(f.ready() == 1);
  const auto first = f.begin_next();
  f.broker.enqueue(many("low", 10, "low"));
  enqueue(f.broker, message("high1", "high"));
  f.clock->advance(200ms);
  f.end(first);
  f.fetcher.run_once();
  CHECK(state_of(f.memory, "high1", "high") == TaskState::active);
}

TEST_CASE("an event contains the delay of an attempt, not the age of its task", "[fetcher]") {
  Fetching f{1};
  enqueue(f.broker, scheduled(message("t1"), 1h));
  f.settle_down();
  f.clock->advance(1h + 3s);
  f.settle_down();
  const auto run = f.slots->ready().pop();
  f.clock->advance(20ms);
  f.begin(*run);
  f.clock->advance(5s);
  const TaskEvent event = detail::event_of(TaskEvent::Change::succeeded, run->run(), run.get(), {},
                                           f.clock->steady_now());
  CHECK(event.waited == 3s + 20ms);
  CHECK(event.ran == 5s);
}

TEST_CASE("the pause after a spurious wake-up does not delay an outcome", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, message("long"));
  f.settle_down();
  const auto run = f.begin_next();
  enqueue(f.broker, message("t1"));
  take_one(f.memory);  // Another server is faster.
  REQUIRE(f.settle_down());
  f.end(run);
  f.fetcher.run_once();
  CHECK(f.settler.unsettled() == 0);
}

TEST_CASE("settlements with an unknown outcome are repeated later, and delay no others",
          "[fetcher]") {
  struct Forgetful final : BrokerWrapper {
    using BrokerWrapper::BrokerWrapper;
    ExchangeReply exchange(const ExchangeRequest& request) override {
      ++exchanges;
      ExchangeReply reply;
      std::vector<Settlement> known;
      for (const Settlement& s : request.settlements) {
        if (s.run.message->id != forgets) known.push_back(s);
      }
      ExchangeRequest rest = request;
      rest.settlements = known;
      ExchangeReply inner = BrokerWrapper::exchange(rest);
      std::size_t next = 0;
      std::vector<SettleReply> replies;
      for (const Settlement& s : request.settlements) {
        replies.push_back(s.run.message->id == forgets ? SettleReply{} : inner.settled.at(next++));
      }
      inner.settled = replies;
      return inner;
    }
    std::string forgets = "bad";
    int exchanges = 0;
  };
  FetchingThrough<Forgetful> f{4};
  enqueue(f.memory, message("bad"));
  f.settler.finish(f.take_runs().at(0), Outcome::success(), 0.0);
  const std::optional<SteadyTime> repeat = f.settle_down();
  REQUIRE(repeat);
  CHECK(*repeat - f.clock->steady_now() < 100ms);
  CHECK(f.settler.unsettled() == 1);

  enqueue(f.memory, message("good"));
  f.settler.finish(f.take_runs().at(0), Outcome::success(), 0.0);
  f.settle_down();
  CHECK(f.state("good") == std::nullopt);
  CHECK(f.settler.unsettled() == 1);

  const int before = f.wrapper.exchanges;
  f.wrapper.forgets = "";
  f.clock->advance(100ms);
  f.settle_down();
  CHECK(f.wrapper.exchanges > before);
  CHECK(f.settler.unsettled() == 0);
  CHECK(f.state("bad") == std::nullopt);
}

TEST_CASE("an outage leads to growing pauses, and nothing is lost", "[fetcher]") {
  Fetching f;
  enqueue(f.broker, message("t1"));
  f.settle_down();
  f.broker.fail(Operation::exchange);
  f.end_next();
  Duration last{0};
  for (int i = 0; i < 8; ++i) {
    const std::optional<SteadyTime> next = f.fetcher.run_once();
    REQUIRE(next);
    const auto pause = std::chrono::duration_cast<Duration>(*next - f.clock->steady_now());
    CHECK(pause > last / 3);
    CHECK(pause <= 450ms);  // So that work goes on within a second of the broker's return.
    last = pause;
    const std::size_t before = f.exchanges();
    f.fetcher.run_once();  // Too early: no call.
    CHECK(f.exchanges() == before);
    f.clock->advance(pause + 1us);
  }
  CHECK(last > 100ms);
  CHECK_FALSE(f.health.health().healthy);
  CHECK(f.health_changes.size() == 1);
  CHECK(f.log.size() == 1);
  CHECK(f.settler.unsettled() == 1);

  f.broker.recover();
  f.settle_down();
  CHECK(f.settler.unsettled() == 0);
  CHECK(f.state("t1") == std::nullopt);
  CHECK(f.health.health().healthy);
  CHECK(f.health_changes.size() == 2);
}

TEST_CASE("after a lost reply a settlement is repeated; one that was applied is then stale",
          "[fetcher]") {
  Fetching f;
  enqueue(f.broker, message("t1"));
  f.settle_down();
  f.end_next();
  f.broker.lose_reply(Operation::exchange, 1);
  f.fetcher.run_once();
  CHECK(f.settler.unsettled() == 1);
  CHECK(f.state("t1") == std::nullopt);
  f.clock->advance(10s);
  f.settle_down();
  CHECK(f.settler.unsettled() == 0);
  CHECK(f.registry.size() == 0);
}

TEST_CASE("tasks of a call whose reply was lost are given back, taken again, and not counted",
          "[fetcher]") {
  Fetching f{2};
  std::vector<EnqueueRequest> batch = many("t", 3);
  batch[0].message.max_retry = 0;
  f.broker.enqueue(std::move(batch));
  f.broker.lose_reply(Operation::exchange, 1);
  const std::optional<SteadyTime> again = f.settle_down();
  CHECK(ids(f.memory, TaskState::active) == std::vector<std::string>{"t1", "t2"});
  CHECK(f.registry.size() == 0);
  CHECK(f.fetcher.owes());
  REQUIRE(again);
  CHECK(*again - f.clock->steady_now() < 1s);

  f.clock->advance(1s);
  CHECK(f.settle_down() == std::nullopt);
  CHECK_FALSE(f.fetcher.owes());
  REQUIRE(f.ready() == 2);
  for (const char* const id : {"t1", "t2"}) {
    const auto run = f.slots->ready().pop();
    CHECK(run->message().id == id);
    CHECK(run->message().retried == 0);
    CHECK(run->run().crashes == 0);
  }
  CHECK(ids(f.memory, TaskState::pending) == std::vector<std::string>{"t3"});
}

TEST_CASE("a run that is given back is not taken before the broker has replied", "[fetcher]") {
  Fetching f{2};
  f.broker.enqueue(many("t", 3));
  f.broker.lose_reply(Operation::exchange, 3);
  for (int i = 0; i < 3; ++i) {
    f.settle_down();
    f.clock->advance(10s);
    CHECK(f.memory.queue_info("default").active <= 2);
  }
  f.settle_down();
  CHECK(f.ready() == 2);
  CHECK_FALSE(f.fetcher.owes());
  CHECK(f.slots->ready().pop()->message().id == "t1");
}

TEST_CASE("tasks of a call that is carried out late are given back, too", "[fetcher]") {
  Fetching f{1};
  f.broker.enqueue(many("t", 1));
  f.broker.delay_exchange();
  f.settle_down();
  f.clock->advance(1s);
  f.settle_down();  // Takes t1: the late call finds the next one.
  CHECK(f.ready() == 1);
  CHECK(f.fetcher.owes());
  enqueue(f.broker, message("t2"));
  f.broker.carry_out_late();
  CHECK(f.state("t2") == TaskState::active);
  f.clock->advance(1s);
  f.settle_down();
  CHECK(f.state("t2") == TaskState::pending);
  CHECK_FALSE(f.fetcher.owes());
}

TEST_CASE("a queue that does not answer for a lost call does not delay the others", "[fetcher]") {
  // Of queue "a" nothing is known as long as it is away.
  struct HalfAway final : BrokerWrapper {
    using BrokerWrapper::BrokerWrapper;
    ExchangeReply exchange(const ExchangeRequest& request) override {
      ++exchanges;
      std::vector<QueueQuota> there;
      ExchangeReply reply;
      LostTake silent{.token_block = request.token_block};
      for (const QueueQuota& quota : request.quotas) {
        if (away && quota.queue == "a") {
          silent.queues.push_back("a");
        } else {
          there.push_back(quota);
        }
      }
      ExchangeRequest rest = request;
      rest.quotas = there;
      if (away) rest.lost_takes = {};
      reply = BrokerWrapper::exchange(rest);
      if (!silent.queues.empty()) reply.lost_takes.push_back(silent);
      if (away)
        reply.lost_takes.insert(reply.lost_takes.end(), request.lost_takes.begin(),
                                request.lost_takes.end());
      most_named = std::max(most_named, reply.lost_takes.size());
      return reply;
    }
    bool away = true;
    int exchanges = 0;
    std::size_t most_named = 0;
  };
  FetchingThrough<HalfAway> f{4, {{"a", 1}, {"b", 1}}};
  enqueue(f.memory, message("a1", "a"));
  const auto turns = [&] {
    for (int i = 0; i < 20; ++i) f.fetcher.run_once();
  };
  turns();
  enqueue(f.memory, message("b1", "b"));
  for (int i = 0; i < 10; ++i) {
    f.clock->advance(1s);
    turns();
  }
  CHECK(f.ready() == 1);
  CHECK(f.wrapper.most_named == 1);
  CHECK(f.wrapper.exchanges < 100);
  CHECK(f.fetcher.owes());
  f.wrapper.away = false;
  f.clock->advance(1s);
  turns();
  CHECK_FALSE(f.fetcher.owes());
  CHECK(f.ready() == 2);
}

TEST_CASE("a task that is never retried is not taken ahead of a free worker", "[fetcher]") {
  Fetching f{1};
  f.learn_fast_pace();
  std::vector<EnqueueRequest> batch = many("t", 3);
  batch.push_back(pending(never_retried("once")));
  f.broker.enqueue(std::move(batch));
  CHECK(f.settle_down() ==
        std::nullopt);  // And waits for the worker, instead of asking again and again.
  CHECK(f.ready() == 3);
  CHECK(f.state("once") == TaskState::pending);
}

TEST_CASE("a free worker gets a task that is never retried first", "[fetcher]") {
  Fetching f{3, {{"a", 1}, {"b", 1}}};
  f.learn_fast_pace();
  f.broker.enqueue(many("t", 2000, "a"));
  TaskMessage once = never_retried("once");
  once.queue = "b";
  enqueue(f.broker, once);
  f.fetcher.run_once();
  CHECK(f.ready() > 100);
  // Whether it is taken depends on whose turn comes first.
  const bool taken = state_of(f.memory, "once", "b") == TaskState::active;
  CHECK((f.slots->ready().pop()->message().id == "once") == taken);
}

TEST_CASE("a task whose last run was cancelled and given back ends without a handler",
          "[fetcher]") {
  Fetching f{2};
  f.broker.enqueue(many("t", 2));
  Run run = take_one(f.memory);
  f.memory.cancel("default", "t1", CancelMode::archive);
  settle(f.memory, given_back(run));
  f.settle_down();
  CHECK(f.ready() == 1);
  CHECK(f.slots->ready().pop()->message().id == "t2");
  CHECK(f.state("t1") == TaskState::archived);
  CHECK(f.registry.size() == 1);
}

TEST_CASE("nothing is taken while runs are being given back", "[fetcher]") {
  Fetching f{1};
  f.broker.enqueue(many("t", 2));
  f.settle_down();
  CHECK(f.ready() == 1);
  f.exchanges_due = 0;
  f.settler.give_back_from([&] {
    std::vector<RunPtr> runs =
        f.slots->ready().take_all_if_first([](const detail::RunState&) { return true; });
    const std::size_t before = f.exchanges();
    // It sleeps until it is woken: a clock that stands still must not keep it from going on.
    CHECK_FALSE(f.fetcher.run_once());
    CHECK(f.exchanges() == before);
    return runs;
  });
  CHECK(f.exchanges_due > 0);
  f.settle_down();
  REQUIRE(f.ready() == 1);
  CHECK(f.slots->ready().pop()->message().id == "t1");
}

TEST_CASE("a fetcher that waited for runs to be given back is woken if there were none",
          "[fetcher]") {
  Fetching f{1};
  f.broker.enqueue(many("t", 1));
  f.exchanges_due = 0;
  f.settler.give_back_from([&] {
    CHECK_FALSE(f.fetcher.run_once());
    return std::vector<RunPtr>{};
  });
  CHECK(f.exchanges_due == 1);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("when it is to take no more, it only settles", "[fetcher]") {
  Fetching f;
  f.broker.enqueue(many("t", 3));
  f.fetcher.stop_taking();
  CHECK(f.settle_down() == std::nullopt);
  CHECK(f.ready() == 0);
  CHECK(f.exchanges() == 0);
}

TEST_CASE("after closing, no worker gets a run, not even one of a call in progress", "[fetcher]") {
  Fetching f{3};
  f.broker.enqueue(many("t", 3));
  f.broker.hold(Operation::exchange, 1);
  std::thread turns{[&] { f.fetcher.run_once(); }};
  f.broker.wait_held(Operation::exchange);
  f.fetcher.close();
  f.broker.release(Operation::exchange);
  turns.join();
  CHECK(f.ready() == 0);
  f.settle_down();
  CHECK(ids(f.memory, TaskState::pending) == std::vector<std::string>{"t1", "t2", "t3"});
}

TEST_CASE("closing gives back waiting runs, in their order", "[fetcher]") {
  Fetching f{3};
  f.broker.enqueue(many("t", 4));
  f.settle_down();
  CHECK(f.ready() == 3);
  f.fetcher.close();
  CHECK(f.ready() == 0);
  f.settle_down();
  CHECK(ids(f.memory, TaskState::pending) == std::vector<std::string>{"t1", "t2", "t3", "t4"});
  CHECK(f.registry.size() == 0);
}

namespace {

/// A task whose last `crashes` workers were lost is next in line.
void enqueue_suspect(Broker& broker, const std::string& id, int crashes, int max_retry = 25) {
  TaskMessage suspect = message(id);
  suspect.max_retry = max_retry;
  enqueue(broker, suspect);
  const QueueQuota all[] = {{"default", 100}};
  for (int i = 0; i < crashes; ++i) {
    std::vector<Settlement> back;
    for (const Run& run : broker.exchange({.quotas = all}).runs) {
      back.push_back(run.message->id == id ? crashed(run) : given_back(run));
    }
    settle(broker, back);
  }
}

struct WithSuspects : Fetching {
  using Fetching::Fetching;

  Begun begun(const std::string& id) {
    clock->advance(1h);
    return begun_of(test::upkeep(memory).lost, id).value();
  }
};

}  // namespace

TEST_CASE("the start of a suspect is recorded before a worker gets it", "[fetcher][suspects]") {
  WithSuspects f{4};
  enqueue_suspect(f.broker, "suspect", 1);
  enqueue(f.broker, message("t1"));
  f.settle_down();
  CHECK(f.broker.calls(Operation::extend) == 1);
  CHECK(f.ready() == 2);
  CHECK(f.begun("suspect") == Begun::yes);
}

TEST_CASE("no other task waits while the start of a suspect is recorded", "[fetcher][suspects]") {
  WithSuspects f{4};
  enqueue_suspect(f.broker, "suspect", 1);
  f.broker.enqueue(many("t", 2));
  f.broker.hold(Operation::extend, 1);
  {
    const std::jthread turns{[&] { f.settle_down(); }};
    f.broker.wait_held(Operation::extend);
    CHECK(f.ready() == 2);
    CHECK(f.arrived == 1);
    f.broker.release(Operation::extend);
  }
  CHECK(f.ready() == 3);
  CHECK(f.arrived == 2);
  CHECK(f.slots->ready().pop()->message().id == "suspect");  // It counts as begun.
}

TEST_CASE("without suspects nothing is recorded", "[fetcher][suspects]") {
  WithSuspects f{4};
  f.broker.enqueue(many("t", 4));
  f.settle_down();
  CHECK(f.ready() == 4);
  CHECK(f.broker.calls(Operation::extend) == 0);
}

TEST_CASE("a suspect whose start is not recorded is given back, and soon tried again",
          "[fetcher][suspects]") {
  WithSuspects f{4};
  enqueue_suspect(f.broker, "suspect", 1);
  f.broker.fail(Operation::extend, 1);
  CHECK(f.settle_down() > f.clock->steady_now());
  CHECK(f.ready() == 0);
  CHECK(f.state("suspect") == TaskState::pending);
  CHECK(f.registry.size() == 0);
  f.clock->advance(2s);
  f.settle_down();
  CHECK(f.ready() == 1);
}

TEST_CASE("a suspect on its last attempt runs alone", "[fetcher][suspects]") {
  WithSuspects f{4};
  enqueue(f.broker, message("long"));
  f.settle_down();
  const auto busy = f.begin_next();
  enqueue_suspect(f.broker, "last1", 2);
  enqueue_suspect(f.broker, "last2", 1, 1);
  enqueue(f.broker, message("t1"));
  f.fetcher.hint();
  f.settle_down();
  // One is kept, the other goes back; what was taken together with them begins first.
  CHECK(f.state("last1") == TaskState::pending);
  CHECK(f.state("last2") == TaskState::active);
  CHECK(f.ready() == 1);
  const auto beside = f.begin_next();
  CHECK(beside->message().id == "t1");
  CHECK(f.broker.calls(Operation::extend) == 0);

  enqueue(f.broker, message("t2"));
  f.settle_down();
  CHECK(f.state("t2") == TaskState::pending);
  f.end(busy);
  f.settle_down();
  CHECK(f.ready() == 0);
  f.end(beside);
  f.settle_down();
  REQUIRE(f.ready() == 1);
  CHECK(f.broker.calls(Operation::extend) == 1);
  const auto alone = f.begin_next();
  CHECK(alone->message().id == "last2");
  f.clock->advance(1s);
  f.settle_down();
  CHECK(f.state("last1") == TaskState::pending);
  CHECK(f.state("t2") == TaskState::pending);

  // Then it goes on: with the next of them.
  f.end(alone);
  f.settle_down();
  CHECK(f.state("last2") == std::nullopt);
  CHECK(f.state("last1") == TaskState::active);
  CHECK(f.ready() == 1);
  f.end_next();
  f.settle_down();
  f.end_next();
  f.settle_down();
  CHECK(f.memory.queue_info("default").size() == 0);
}

TEST_CASE("a suspect that waits to run alone can be cancelled, lost, and given back",
          "[fetcher][suspects]") {
  WithSuspects f{4};
  enqueue(f.broker, message("long"));
  f.settle_down();
  const auto busy = f.begin_next();
  enqueue_suspect(f.broker, "last", 2);
  f.fetcher.hint();
  f.settle_down();
  REQUIRE(f.state("last") == TaskState::active);
  detail::LeaseKeeper keeper{
      {f.broker, f.registry, f.settler, f.health, f.logger, f.clock, f.events}, 10s};

  SECTION("cancelled") {
    f.memory.cancel("default", "last", CancelMode::remove);
    keeper.cancel("last");
    keeper.run_once();
    f.settle_down();
    CHECK(f.state("last") == std::nullopt);
  }
  SECTION("lost") {
    f.clock->advance(12s);
    REQUIRE(begun_of(upkeep(f.memory).lost, "last") == Begun::no);
    keeper.run_once();
    f.settle_down();
  }
  SECTION("lost, which is found when it may begin") {
    f.clock->advance(12s);
    upkeep(f.memory);
    f.end(busy);
    f.settle_down();
    CHECK(f.ready() == 0);
  }
  SECTION("given back") {
    f.fetcher.close();
    f.settle_down();
    CHECK(f.state("last") == TaskState::pending);
    CHECK(f.memory.find("default", "last")->crashes == 2);
    return;
  }
  // It goes on.
  enqueue(f.broker, message("t1"));
  f.fetcher.hint();
  f.clock->advance(1s);
  f.settle_down();
  CHECK(f.ready() == 1);
}

namespace {

/// A handler runs, and a suspect on its last chance waits for its end.
struct WithLastChance : WithSuspects {
  WithLastChance() : WithSuspects{4} {
    enqueue(broker, message("long"));
    settle_down();
    busy = begin_next();
    enqueue_suspect(broker, "last", 2);
    look();
  }
  void look() {
    fetcher.hint();
    settle_down();
  }
  /// Until the suspect comes back after the delay.
  Duration wait_until_back() {
    const SteadyTime from = clock->steady_now();
    while (state("last") != TaskState::active) {
      clock->advance(100ms);
      look();
    }
    return std::chrono::duration_cast<Duration>(clock->steady_now() - from);
  }
  /// Whether the suspect waits for just about `length`, and is put off then.
  bool waits_for(Duration length) {
    clock->advance(length - 1s);
    settle_down();
    if (state("last") != TaskState::active) return false;
    clock->advance(1s);
    const int before = exchanges_due;
    settle_down();
    if (exchanges_due > before) settle_down();  // What is handed in wakes the fetcher.
    return state("last") == TaskState::scheduled;
  }

  RunPtr busy;
};

}  // namespace

TEST_CASE("a suspect waits for a long handler for a limited time, and the server works in between",
          "[fetcher][suspects]") {
  WithLastChance f;
  REQUIRE(f.state("last") == TaskState::active);
  CHECK(f.fetcher.alone());
  enqueue(f.broker, message("t1"));
  f.look();
  CHECK(f.state("t1") == TaskState::pending);
  CHECK(f.waits_for(10s));
  CHECK_FALSE(f.fetcher.alone());
  CHECK(f.memory.find("default", "last")->crashes == 2);
  CHECK(f.memory.find("default", "last")->retried == 2);
  f.look();
  REQUIRE(f.state("t1") == TaskState::active);
  f.end_next();

  // As long as it waited, and then it waits twice as long.
  const Duration first = f.wait_until_back();
  CHECK(first >= 7s);
  CHECK(first <= 13s);
  CHECK(f.waits_for(20s));
  const Duration second = f.wait_until_back();
  CHECK(second >= 14s);
  CHECK(second <= 26s);

  // It runs in the end, and then its wait is forgotten.
  f.end(f.busy);
  f.settle_down();
  REQUIRE(f.ready() == 1);
  f.end_next();
  f.settle_down();
  CHECK(f.state("last") == std::nullopt);
  CHECK_FALSE(f.fetcher.alone());
  enqueue(f.broker, message("long"));
  f.look();
  f.busy = f.begin_next();
  enqueue_suspect(f.broker, "last", 2);
  f.look();
  CHECK(f.waits_for(10s));
}

TEST_CASE("while a server works in between, no other suspect stops it", "[fetcher][suspects]") {
  WithLastChance f;
  CHECK(f.waits_for(10s));
  enqueue_suspect(f.broker, "other", 2);
  f.look();
  CHECK(f.state("other") == TaskState::scheduled);
  CHECK(f.memory.find("default", "other")->crashes == 2);
  CHECK_FALSE(f.fetcher.alone());
}

TEST_CASE("a suspect on its last attempt does not run beside a handler that hangs",
          "[fetcher][suspects]") {
  WithLastChance f;
  f.runner->start();  // Its worker is to be given up.
  f.busy->request_stop(StopReason::cancelled, f.clock->steady_now());
  REQUIRE(f.runner->give_up(*f.busy, false));
  f.settle_down();
  CHECK(f.slots->load().busy == 0);
  CHECK(f.ready() == 0);
  CHECK(f.waits_for(10s));
}

TEST_CASE("a hint that arrives after the watch was armed again is ignored", "[fetcher]") {
  Fetching f;
  // Callbacks are slow: they come when the test lets them.
  std::vector<Hint> late;
  f.fetcher.set_watch(f.broker.watch({"default"}, [&](const Hint& hint) { late.push_back(hint); }));
  f.settle_down();
  enqueue(f.broker, message("t1"));
  REQUIRE(late.size() == 1);
  const Hint first = std::exchange(late, {}).front();
  // Something else than the hint makes it look, such as an outcome that it carries to the broker.
  f.fetcher.hint();
  f.settle_down();
  REQUIRE(f.ready() == 1);
  const std::size_t exchanges = f.exchanges();

  SECTION("and costs no look, and no pause") {
    f.fetcher.hint(first.queue, first.report);
    CHECK_FALSE(f.settle_down());
    CHECK(f.exchanges() == exchanges);
  }
  SECTION("and hides no hint of something new") {
    enqueue(f.broker, message("t2"));
    REQUIRE(late.size() == 1);
    f.fetcher.hint(late.front().queue, late.front().report);
    f.fetcher.hint(first.queue, first.report);
    f.settle_down();
    CHECK(f.ready() == 2);
  }
}
