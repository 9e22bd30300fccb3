#include "judge.hpp"

#include <set>
#include <string>
#include <vector>

#include "plan.hpp"
#include "snapshot.hpp"
#include "support/builders.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"
#include "taskmux/redis/redis_broker.hpp"
#include "work.hpp"

using namespace taskmux;
using namespace taskmux::chaos;
using namespace std::chrono_literals;

namespace {

/// A ledger that a test writes.
class Book {
 public:
  void ask(const std::string& id, const Order& order) {
    add("producer-0.1", EventKind::ask, id, 0, to_text(order));
  }
  void accept(const std::string& id) { add("producer-0.1", EventKind::accepted, id); }
  void worker(EventKind kind, const std::string& id, std::int64_t number,
              const std::string& detail = {}, const std::string& process = "worker-0.1") {
    add(process, kind, id, number, detail);
  }
  void fault(const std::string& target, FaultKind kind = FaultKind::kill_worker) {
    add("driver", EventKind::fault, target, 0, std::string{to_string(kind)});
  }
  void pass(Moment time) { at_ += time; }

  const std::vector<Event>& events() const { return events_; }
  std::vector<Event>& events() { return events_; }

 private:
  void add(const std::string& process, EventKind kind, const std::string& id,
           std::int64_t number = 0, const std::string& detail = {}) {
    at_ += 10ms;
    events_.push_back({at_, process, kind, id, number, detail});
  }

  Moment at_ = 1s;
  std::vector<Event> events_;
};

/// A correct trial: a queue in Redis as taskmux leaves it, and the corresponding ledger. One task
/// of each outcome: "done", "kept" (with a result), "dead" (with a lock).
class Trial {
 public:
  Trial() : broker_{server_.url()} {
    order("done", {});
    run("done", 1, EventKind::good, "succeeded", [](Run run) { return test::completed(run); });
    order("kept", {.kind = WorkKind::result});
    run("kept", 2, EventKind::good, "succeeded",
        [](Run run) { return test::completed(run, result_of("kept")); });
    order("dead", {.kind = WorkKind::skip}, 1h);
    run("dead", 3, EventKind::bad, "archived boom", [](Run run) { return test::archived(run); });
    book_.ask("producer-0.1-open", {});
    book_.fault("producer-0.1");
  }

  Book& book() { return book_; }
  void command(std::initializer_list<std::string_view> words) { server_.command(words); }

  /// Returns the violated rules without their texts, each once.
  std::set<Rule> broken() {
    std::set<Rule> rules;
    for (const Finding& finding : judge(book_.events(), take_snapshot(server_), 2).findings) {
      UNSCOPED_INFO(to_string(finding.rule) << ": " << finding.text);
      rules.insert(finding.rule);
    }
    return rules;
  }

 private:
  void order(const std::string& id, const Order& order, std::chrono::seconds lock = 0s) {
    book_.ask(id, order);
    TaskMessage message = test::message(id);
    if (order.kind == WorkKind::result) message.retention = 1h;
    test::enqueue(broker_, lock > 0s ? test::unique(message, lock) : test::pending(message));
    book_.accept(id);
  }

  template <typename Settle>
  void run(const std::string& id, std::int64_t number, EventKind end, const std::string& change,
           Settle settlement) {
    const Run run = test::take_one(broker_);
    book_.worker(EventKind::start, id, number);
    book_.worker(end, id, number);
    test::settle(broker_, settlement(run));
    book_.worker(EventKind::settled, id, 1, change);
  }

  test::RedisServer server_{{.arguments = {"--appendonly", "yes"}}};
  RedisBroker broker_;
  Book book_;
};

constexpr const char* hash_of_kept = "asynq:{default}:t:kept";

}  // namespace

TEST_CASE("the judge finds nothing in a sound trial", "[chaos]") {
  Trial trial;
  CHECK(trial.broken() == std::set<Rule>{});
}

TEST_CASE("the judge finds each kind of damage to a queue", "[chaos]") {
  Trial trial;
  std::set<Rule> expected;
  SECTION("an archived task is deleted") {
    trial.command({"ZREM", "asynq:{default}:archived", "dead"});
    trial.command({"DEL", "asynq:{default}:t:dead"});
    // Its lock remains without it.
    expected = {Rule::nothing_lost, Rule::nothing_left};
  }
  SECTION("a task is completed though it never succeeded") {
    std::erase_if(trial.book().events(), [](const Event& event) {
      return event.id == "kept" && event.kind != EventKind::ask &&
             event.kind != EventKind::accepted;
    });
    expected = {Rule::nothing_lost, Rule::counters};
  }
  SECTION("a task is in two states") {
    trial.command({"LPUSH", "asynq:{default}:pending", "kept"});
    expected = {Rule::one_state, Rule::nothing_left};
  }
  SECTION("a task is in no state") {
    trial.command({"ZREM", "asynq:{default}:archived", "dead"});
    expected = {Rule::one_state};
  }
  SECTION("a task has another state than the place where it lies") {
    trial.command({"HSET", hash_of_kept, "state", "archived"});
    expected = {Rule::one_state, Rule::no_innocent_archived, Rule::counters};
  }
  SECTION("a container holds an id without a task") {
    trial.command({"DEL", hash_of_kept});
    expected = {Rule::one_state};
  }
  SECTION("a task has no message") {
    trial.command({"HDEL", hash_of_kept, "msg"});
    expected = {Rule::one_state};
  }
  SECTION("a task is stored that nobody asked for") {
    trial.command({"RENAME", hash_of_kept, "asynq:{default}:t:other"});
    expected = {Rule::one_state, Rule::nothing_invented, Rule::results};
    trial.command({"ZADD", "asynq:{default}:completed", "1", "other"});
  }
  SECTION("a success is counted twice") {
    trial.command({"INCR", "asynq:{default}:processed"});
    expected = {Rule::counters};
  }
  SECTION("a failure is not counted") {
    trial.command({"DECR", "asynq:{default}:failed"});
    trial.command({"DECR", "asynq:{default}:processed"});
    expected = {Rule::counters};
  }
  SECTION("failures are counted that no run had") {
    trial.command({"INCR", "asynq:{default}:failed"});
    trial.command({"INCR", "asynq:{default}:processed"});
    expected = {Rule::counters};
  }
  SECTION("a result is lost") {
    trial.command({"HDEL", hash_of_kept, "result"});
    expected = {Rule::results};
  }
  SECTION("a key is left") {
    const std::string key =
        GENERATE("asynq:{default}:tmx:due", "asynq:{default}:tmx:ids", "asynq:{default}:lease",
                 "asynq:{default}:active", "asynq:{default}:unique:quick:abc", "asynq:servers",
                 "asynq:{default}:paused", "x");
    trial.command({"ZADD", key, "1", "done"});
    expected = {Rule::nothing_left};
    if (key.ends_with("active")) expected.insert(Rule::one_state);
  }
  SECTION("a lock of an ended task is left") {
    trial.command({"SET", "asynq:{default}:unique:quick:abc", "done"});
    expected = {Rule::nothing_left};
  }
  SECTION("a task that does not run has the fields of a run") {
    trial.command({"HSET", hash_of_kept, GENERATE("tmx_run", "tmx_cancel"), "1 2 3"});
    expected = {Rule::nothing_left};
  }
  SECTION("a task expires with its key") {
    trial.command({"EXPIRE", hash_of_kept, "1000"});
    expected = {Rule::nothing_left};
  }
  CHECK(trial.broken() == expected);
}

TEST_CASE("the judge finds each kind of wrong run", "[chaos]") {
  Trial trial;
  Book& book = trial.book();
  std::set<Rule> expected;
  SECTION("of a task that nobody asked for") {
    book.worker(EventKind::start, "other", 4);
    expected = {Rule::nothing_invented};
  }
  SECTION("of a task that was refused") {
    book.ask("no", {});
    book.events().push_back({Moment{5s}, "producer-0.1", EventKind::refused, "no", 0, "duplicate"});
    book.worker(EventKind::start, "no", 4);
    expected = {Rule::nothing_invented};
  }
  SECTION("that was accepted and is gone without a success") {
    book.ask("lost", {});
    book.accept("lost");
    expected = {Rule::nothing_lost};
  }
  SECTION("after a success that was recorded, though a fault came") {
    book.fault("redis");
    book.worker(EventKind::start, "done", 4);
    expected = {Rule::no_second_run};
  }
  SECTION("after a success that was not recorded, without a fault of its worker") {
    std::erase_if(book.events(), [](const Event& event) {
      return event.id == "done" && event.kind == EventKind::settled;
    });
    book.fault("worker-1.1");
    book.fault("worker-0.1", FaultKind::stop_everybody);
    book.pass(1s);
    book.worker(EventKind::start, "done", 4);
    expected = {Rule::no_second_run};
  }
  SECTION("while another runs it, without a fault") {
    std::erase_if(book.events(), [](const Event& event) {
      return event.id == "kept" && event.process == "worker-0.1";
    });
    book.worker(EventKind::start, "kept", 4);
    book.worker(EventKind::start, "kept", 1, {}, "worker-1.1");
    book.worker(EventKind::good, "kept", 4);
    expected = {Rule::no_second_run};
  }
  SECTION("after one that lost its lease without a fault") {
    for (Event& event : book.events()) {
      if (event.id == "dead" && event.kind == EventKind::bad) {
        event.kind = EventKind::stopped;
        event.detail = "lease lost";
      }
    }
    book.worker(EventKind::start, "dead", 4);
    book.worker(EventKind::bad, "dead", 4);
    expected = {Rule::no_second_run};
  }
  SECTION("that ends without a start") {
    book.worker(EventKind::good, "done", 9);
    expected = {Rule::nothing_invented};
  }
  SECTION("before its time") {
    book.events().front().detail = to_text(Order{.kind = WorkKind::delayed, .delay = 1s});
    expected = {Rule::not_early};
  }
  SECTION("none of an archived task") {
    std::erase_if(book.events(), [](const Event& event) {
      return event.id == "dead" && event.process == "worker-0.1";
    });
    expected = {Rule::nothing_archived_unrun, Rule::counters};
  }
  SECTION("an innocent task is archived") {
    for (Event& event : book.events()) {
      if (event.id == "dead" && event.kind == EventKind::ask)
        event.detail = to_text(Order{.kind = GENERATE(WorkKind::quick, WorkKind::once)});
      if (event.id == "dead" && event.kind == EventKind::bad) event.kind = EventKind::good;
    }
    expected = {Rule::no_innocent_archived};
  }
  SECTION("two tasks wait under one lock") {
    for (const std::string id : {"first", "second"}) {
      book.ask(id, {.kind = WorkKind::unique, .lock = "lock-1"});
      book.accept(id);
    }
    expected = {Rule::nothing_lost, Rule::locks};
  }
  SECTION("no fault hit anything") {
    std::erase_if(book.events(), [](const Event& event) { return event.kind == EventKind::fault; });
    book.fault("worker-0.1");
    expected = {Rule::a_fault_hit};
  }
  CHECK(trial.broken() == expected);
}

TEST_CASE("the judge accepts a second run that a fault explains", "[chaos]") {
  Trial trial;
  Book& book = trial.book();
  std::erase_if(book.events(), [](const Event& event) {
    return event.id == "done" && event.kind == EventKind::settled;
  });
  SECTION("a fault of its worker") { book.fault("worker-0.1"); }
  SECTION("a fault of Redis") { book.fault("redis"); }
  SECTION("the end of its worker") {
    book.events().push_back({Moment{2s}, "driver", EventKind::gone, "worker-0.1", 0, "ended"});
  }
  book.pass(2s);
  book.worker(EventKind::start, "done", 1, {}, "worker-1.1");
  book.worker(EventKind::good, "done", 1, {}, "worker-1.1");
  CHECK(trial.broken() == std::set<Rule>{});
}

TEST_CASE("the judge excuses one start for each thread that a pause interrupted", "[chaos]") {
  Trial trial;
  Book& book = trial.book();
  book.fault("worker-1.1");
  for (int i = 1; i <= 2; ++i) book.worker(EventKind::start, "done", i, {}, "worker-1.1");
  CHECK(trial.broken() == std::set<Rule>{});
  book.worker(EventKind::start, "done", 3, {}, "worker-1.1");
  CHECK(trial.broken() == std::set<Rule>{Rule::no_second_run});
}

TEST_CASE("a plan is the same for the same seed, and another for another", "[chaos]") {
  for (const Scenario& each : scenarios()) {
    const auto plan = make_plan(each, 7);
    CHECK_FALSE(plan.empty());
    CHECK(plan == make_plan(each, 7));
    CHECK(plan != make_plan(each, 8));
  }
}

TEST_CASE("what a producer draws can be written and read again", "[chaos]") {
  const Mix mix = scenarios().front().mix;
  CHECK(to_text(parse_mix(to_text(mix))) == to_text(mix));
  Dice dice{1};
  for (int i = 0; i < 1000; ++i) {
    const Order order = draw(dice, mix);
    CHECK(parse_order(to_text(order)) == order);
  }
}
