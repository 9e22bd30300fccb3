#include "taskmux/detail/engine/settler.hpp"

#include "support/engine.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

TEST_CASE("an outcome is applied by the next exchange", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  CHECK(e.exchanges_due == 1);
  CHECK(e.settler.unsettled() == 1);
  CHECK(e.registry.size() == 1);

  CHECK(e.carry_out() == std::vector{SettleStatus::applied});
  CHECK(e.settler.unsettled() == 0);
  CHECK(e.registry.size() == 0);
  CHECK(e.state("t1") == std::nullopt);
  CHECK(e.settler.counts().of(SettleAction::complete) == 1);
  CHECK(e.ends == std::vector{std::pair{std::string{"t1"}, SettleAction::complete}});
}

TEST_CASE("a failure waits for the policy's delay; a type's own policy takes precedence",
          "[settler]") {
  Engine e;
  e.mux->handle("own:", [](Context&, const Task&) {}, {.retry_policy = FixedDelay{7s}});
  enqueue(e.broker, message("t1"));
  TaskMessage own = message("t2");
  own.task.type = "own:x";
  enqueue(e.broker, own);
  const auto runs = e.take_runs();
  e.settler.finish(runs.at(0), Outcome::fail("boom"), 0.0);
  e.settler.finish(runs.at(1), Outcome::fail("boom"), 0.0);
  e.carry_out();
  CHECK(e.memory.find("default", "t1")->next_process_at == e.clock->now() + 1min);
  CHECK(e.memory.find("default", "t2")->next_process_at == e.clock->now() + 7s);
  CHECK(e.memory.find("default", "t1")->last_error == "boom");
}

TEST_CASE("a run that is cancelled before its start uses its type's own policy", "[settler]") {
  Engine e;
  e.mux->handle("own:", [](Context&, const Task&) {}, {.retry_policy = FixedDelay{7s}});
  TaskMessage own = message("t1");
  own.task.type = "own:x";
  enqueue(e.broker, own);
  const auto runs = e.take_runs();
  SECTION("it waits for a worker") {}
  SECTION("it is held") { CHECK(runs.at(0)->hold()); }
  e.settler.cancel(runs.at(0), CancelMode::retry, e.clock->steady_now());
  e.carry_out();
  CHECK(e.memory.find("default", "t1")->next_process_at == e.clock->now() + 7s);
}

TEST_CASE("a settlement with an unknown outcome is kept, and repeated later", "[settler]") {
  Engine e;
  e.broker.enqueue(many("t", 3));
  for (const auto& run : e.take_runs()) e.settler.finish(run, Outcome::success(), 0.0);
  e.settler.collect();
  REQUIRE(e.settler.batch(2).size() == 2);
  const SettleReply unknown[2];
  CHECK(e.settler.report(unknown, e.clock->steady_now()));
  CHECK(e.settler.unsettled() == 3);
  CHECK(e.registry.size() == 3);

  e.settler.collect(false);
  REQUIRE(e.settler.batch(10).size() == 1);
  CHECK(e.settler.batch(10)[0].run.message->id == "t3");
  CHECK(e.carry_out() == std::vector(3, SettleStatus::applied));
  CHECK(e.settler.unsettled() == 0);
  CHECK(e.memory.queue_info("default").size() == 0);
}

TEST_CASE("a stale outcome is dropped, counted and logged", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.clock->advance(12s);
  upkeep(e.broker);  // Another server takes the run over.
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  CHECK(e.carry_out() == std::vector{SettleStatus::stale});
  CHECK(e.settler.unsettled() == 0);
  CHECK(e.registry.size() == 0);
  CHECK(e.settler.counts().stale == 1);
  CHECK(e.ends.empty());
  REQUIRE(e.log.size() == 1);
  CHECK(e.log[0].find("t1") != std::string::npos);
  CHECK(e.state("t1") == TaskState::active);
}

TEST_CASE("a run that is given back returns to the front and loses nothing", "[settler]") {
  Engine e;
  e.broker.enqueue(many("t", 2));
  const auto runs = e.take_runs(1);
  e.settler.give_back(runs.at(0));
  e.carry_out();
  CHECK(ids(e.memory, TaskState::pending) == std::vector<std::string>{"t1", "t2"});
  CHECK(e.memory.find("default", "t1")->retried == 0);
}

TEST_CASE("a lost run is judged by its crashes, and needs no registered run", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  e.take_runs();
  e.clock->advance(12s);
  UpkeepReply reply = upkeep(e.broker);
  REQUIRE(reply.lost.size() == 1);
  e.settler.settle_lost(reply.lost[0], false, 0.0, e.clock->steady_now() + 10s);
  e.carry_out();
  CHECK(e.state("t1") == TaskState::pending);
  CHECK(e.memory.find("default", "t1")->retried == 1);
  CHECK(e.memory.find("default", "t1")->crashes == 1);
  CHECK(e.settler.counts().recovered == 1);
}

TEST_CASE("a result set during the run is written when it is settled", "[settler]") {
  Engine e;
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  enqueue(e.broker, kept);
  const auto runs = e.take_runs();
  Context context{runs.at(0)};
  context.set_result("first");
  context.set_result(std::string("se\0cond", 7));
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  e.carry_out();
  CHECK(e.memory.find("default", "t1")->result == std::string("se\0cond", 7));
}

TEST_CASE("an outcome whose reply was lost counts as recorded", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  enqueue(e.broker, message("t2"));
  const auto runs = e.take_runs();
  const bool unknown = GENERATE(false, true);  // An unknown status, or an error of the whole call.
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  e.settler.finish(runs.at(1), Outcome::skip_retry("no"), 0.0);
  if (unknown) {
    e.settler.collect();
    e.settler.sent(2);
    e.memory.exchange({.settlements = e.settler.batch(2)});
    e.settler.report(std::vector<SettleReply>(2), e.clock->steady_now());
  } else {
    e.broker.lose_reply(Engine::Operation::exchange, 1);
    CHECK_THROWS(e.carry_out());
  }
  CHECK(e.settler.unsettled() == 2);

  e.clock->advance(9s);
  CHECK(e.carry_out() == std::vector(2, SettleStatus::stale));
  CHECK(e.settler.unsettled() == 0);
  CHECK(e.registry.size() == 0);
  CHECK(e.settler.counts().stale == 0);
  CHECK(e.settler.counts().of(SettleAction::complete) == 1);
  CHECK(e.settler.counts().of(SettleAction::archive) == 1);
  CHECK(e.ends.size() == 2);
  REQUIRE(e.log.size() == 1);
  CHECK(e.log[0].find("archived: no") != std::string::npos);
}

TEST_CASE("a stale reply after the end of the lease counts as stale", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  e.broker.lose_reply(Engine::Operation::exchange, 1);
  CHECK_THROWS(e.carry_out());
  e.clock->advance(10s);
  CHECK(e.carry_out() == std::vector{SettleStatus::stale});
  CHECK(e.settler.counts().stale == 1);
  CHECK(e.settler.counts().of(SettleAction::complete) == 0);
  CHECK(e.ends.empty());
  REQUIRE(e.log.size() == 1);
  CHECK(e.log[0].find("may have recorded it") != std::string::npos);
}

TEST_CASE("a lost run is counted once if the repetition of its settlement is stale", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  e.take_runs();
  e.clock->advance(12s);
  UpkeepReply reply = upkeep(e.broker);
  REQUIRE(reply.lost.size() == 1);
  e.settler.settle_lost(reply.lost[0], false, 0.0, e.clock->steady_now() + 10s);
  e.broker.lose_reply(Engine::Operation::exchange, 1);
  CHECK_THROWS(e.carry_out());
  CHECK(e.carry_out() == std::vector{SettleStatus::stale});
  CHECK(e.settler.counts().recovered == 1);
  CHECK(e.settler.counts().stale == 0);
}

TEST_CASE("a run that can't be given back does not count as stale", "[settler]") {
  Engine e;
  enqueue(e.broker, message("t1"));
  const auto runs = e.take_runs();
  e.clock->advance(12s);
  upkeep(e.broker);  // Another server takes the run over.
  e.settler.give_back(runs.at(0));
  CHECK(e.carry_out() == std::vector{SettleStatus::stale});
  CHECK(e.settler.counts().stale == 0);
  CHECK(e.registry.size() == 0);
  CHECK(e.state("t1") == TaskState::active);
}

TEST_CASE("settlements that an exchange did not carry are first in the next one", "[settler]") {
  Engine e;
  e.broker.enqueue(many("t", 4));
  for (const auto& run : e.take_runs()) e.settler.finish(run, Outcome::success(), 0.0);
  e.settler.collect();
  REQUIRE(e.settler.batch(3).size() == 3);
  const auto replies =
      settle_replies({SettleStatus::applied, SettleStatus::later, SettleStatus::later});
  CHECK_FALSE(e.settler.report(replies, e.clock->steady_now()));
  CHECK(e.settler.unsettled() == 3);
  CHECK(e.registry.size() == 3);
  std::vector<std::string> left;
  for (const Settlement& each : e.settler.batch(10)) left.push_back(each.run.message->id);
  CHECK(left == std::vector<std::string>{"t2", "t3", "t4"});
}

TEST_CASE("a task whose outcome the broker rejects is archived with the reason", "[settler]") {
  Engine e;
  e.broker.enqueue(many("t", 2));
  for (const auto& run : e.take_runs()) e.settler.finish(run, Outcome::success(), 0.0);
  e.settler.collect();
  REQUIRE(e.settler.batch(10).size() == 2);
  const SettleReply replies[] = {
      {.status = SettleStatus::rejected, .error = Errc::malformed, .detail = "the header has a NUL"},
      {.status = SettleStatus::applied}};
  CHECK_FALSE(e.settler.report(replies, e.clock->steady_now()));
  const std::string reason =
      "the handler succeeded, but the broker can't record it: the header has a NUL";
  REQUIRE(e.log.size() == 1);
  CHECK(e.log[0] == "task t1 (\"email:welcome\", queue \"default\"): " + reason);
  CHECK(e.settler.counts().rejected == 1);
  CHECK(e.settler.unsettled() == 1);
  CHECK(e.registry.size() == 1);  // Its lease is extended until that is done.
  REQUIRE(e.settler.batch(10).size() == 1);
  const Settlement last = e.settler.batch(10).front();
  CHECK(last.action == SettleAction::archive);
  CHECK(last.last_resort);
  CHECK(last.error == reason);

  SECTION("which the broker carries out") {
    CHECK(e.carry_out() == std::vector{SettleStatus::applied});
    CHECK(e.state("t1") == TaskState::archived);
    CHECK(e.ends.back() == std::pair{std::string{"t1"}, SettleAction::archive});
  }
  SECTION("which is dropped if the broker rejects that, too") {
    CHECK_FALSE(e.settler.report(std::span{replies}.first(1), e.clock->steady_now()));
    CHECK(e.ends.size() == 1);
    REQUIRE(e.log.size() == 2);
    CHECK(e.log[1] ==
          "task t1 (\"email:welcome\", queue \"default\"): outcome dropped: the broker can't "
          "record it: the header has a NUL");
  }
  CHECK(e.settler.unsettled() == 0);
  CHECK(e.settler.counts().rejected == 1);
  CHECK(e.settler.counts().stale == 0);
  CHECK(e.registry.size() == 0);
}

TEST_CASE("a lost run whose settlement the broker rejects keeps what was to be said", "[settler]") {
  Engine e;
  const Run run = started(e.broker, message("t1"));
  const Settlement last = detail::last_resort(crashed(run, 5s), "no room");
  CHECK(last.action == SettleAction::archive);
  CHECK(last.error == "the broker can't record the outcome: no room (worker lost)");
  CHECK(last.attempt == Attempt::crashed);
  CHECK(last.delay == Duration{});
  CHECK(settle(e.broker, last) == SettleStatus::applied);
}

TEST_CASE("a batch is bounded in bytes, and contains at least one outcome", "[settler]") {
  Engine e;
  for (const auto& id : {"t1", "t2", "t3"}) {
    TaskMessage kept = message(id);
    kept.retention = 1h;
    enqueue(e.broker, kept);
  }
  for (const auto& run : e.take_runs()) {
    Context{run}.set_result(std::string(1000, 'r'));
    e.settler.finish(run, Outcome::success(), 0.0);
  }
  e.settler.collect();
  CHECK(e.settler.batch(10, 10).size() == 1);
  CHECK(e.settler.batch(10, 2500).size() == 2);
  CHECK(e.settler.batch(10, 1'000'000).size() == 3);
}

TEST_CASE("a run whose result is too large is settled without it", "[settler]") {
  Engine e;
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  enqueue(e.broker, kept);
  enqueue(e.broker, message("t2"));
  const auto runs = e.take_runs();
  for (const auto& run : runs) Context{run}.set_result("a result");
  e.settler.finish(runs.at(0), Outcome::success(), 0.0);
  e.settler.finish(runs.at(1), Outcome::fail("boom"), 0.0);
  e.settler.collect();
  REQUIRE(e.settler.batch(10).size() == 2);
  const auto too_large = settle_replies({SettleStatus::too_large, SettleStatus::too_large});
  CHECK_FALSE(e.settler.report(too_large, e.clock->steady_now()));
  CHECK(e.settler.unsettled() == 2);

  CHECK(e.carry_out() == std::vector(2, SettleStatus::applied));
  CHECK(e.state("t1") == TaskState::archived);
  CHECK(e.memory.find("default", "t1")->last_error ==
        "the handler succeeded, but its result of 8 bytes is too large for the connection to the "
        "broker");
  CHECK(e.state("t2") == TaskState::retry);
  CHECK(e.memory.find("default", "t2")->last_error ==
        "boom (its result of 8 bytes is too large for the connection to the broker)");
}
