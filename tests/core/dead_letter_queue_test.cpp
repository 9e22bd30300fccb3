#include "taskmux/dead_letter_queue.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <string>
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

using Ids = std::vector<std::string>;

struct Fixture {
  std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  MemoryBroker broker{{.clock = clock}};
  DeadLetterQueue dead{broker, "default"};

  void bury(std::string id, std::string error = "boom", std::string type = "email:welcome") {
    TaskMessage dead_message = message(std::move(id));
    dead_message.task.type = std::move(type);
    settle(broker, archived(started(broker, std::move(dead_message)), std::move(error)));
  }

  /// Archives "t1", "t2", ... one a minute. Those whose number is divisible by `odd_error` have
  /// another error.
  void bury_many(int count, int odd_error = 2) {
    for (int i = 1; i <= count; ++i) {
      bury("t" + std::to_string(i), i % odd_error == 0 ? "disk full" : "boom");
      clock->advance(1min);
    }
  }
};

/// Returns "t<first>", "t<first + step>", ... up to "t<last>".
Ids numbered(int first, int last, int step = 1) {
  Ids ids;
  for (int i = first; i <= last; i += step) ids.push_back("t" + std::to_string(i));
  return ids;
}

std::string text_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a dead letter shows its task, its error and its time", "[dead_letter_queue]") {
  Fixture t;
  t.clock->advance(5s);
  t.bury("t", "no luck", "image:resize");
  CHECK(t.dead.queue() == "default");
  CHECK(t.dead.count() == 1);
  const auto letter = t.dead.find("t");
  REQUIRE(letter);
  CHECK(letter->task.type == "image:resize");
  CHECK(letter->task.payload == "payload");
  CHECK(letter->last_error == "no luck");
  CHECK(letter->archived_at == t.clock->now());

  enqueue(t.broker, message("alive"));
  CHECK_FALSE(t.dead.find("alive"));
  CHECK_FALSE(t.dead.find("nobody"));
}

TEST_CASE("dead letters are listed oldest first, as many as asked for", "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(7);
  CHECK(ids(t.dead.list()) == numbered(1, 7));
  CHECK(ids(t.dead.list({}, 3)) == numbered(1, 3));
  CHECK(t.dead.list({}, 0).empty());
}

TEST_CASE("dead letters are filtered by type, error text and age", "[dead_letter_queue]") {
  Fixture t;
  t.bury("a", "smtp: refused", "email:send");
  t.clock->advance(1h);
  t.bury("b", "smtp: timeout", "email:send:bulk");
  t.clock->advance(1h);
  t.bury("c", "disk full", "image:resize");
  t.clock->advance(1h);  // a is 3 h old, b 2 h, c 1 h

  struct Case {
    DeadLetterFilter filter;
    Ids ids;
  };
  const std::vector<Case> cases{
      {{}, {"a", "b", "c"}},
      {{.type_pattern = "email:send"}, {"a"}},
      {{.type_pattern = "email:*"}, {"a", "b"}},
      {{.id_prefix = "b"}, {"b"}},
      {{.error_contains = "smtp"}, {"a", "b"}},
      {{.error_contains = "full"}, {"c"}},
      {{.error_contains = "Full"}, {}},
      {{.older_than = 2h}, {"a", "b"}},
      {{.older_than = 2h + 1us}, {"a"}},
      {{.older_than = 0s}, {"a", "b", "c"}},
      {{.younger_than = 2h}, {"c"}},
      {{.younger_than = 2h + 1us}, {"b", "c"}},
      {{.younger_than = 0s}, {}},
      {{.older_than = 90min, .younger_than = 150min}, {"b"}},
      {{.type_pattern = "email:*", .error_contains = "timeout", .older_than = 1h}, {"b"}},
  };
  for (const Case& c : cases) {
    CHECK(ids(t.dead.list(c.filter)) == c.ids);
  }
  for (const Case& c : cases) {
    CHECK(t.dead.remove_matching(c.filter) == c.ids.size());
    for (const std::string& id : c.ids) CHECK_FALSE(t.dead.find(id));
    if (!c.ids.empty()) break;
  }
}

TEST_CASE("a limit counts what matches alone", "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(300, 3);
  const DeadLetterFilter filter{.error_contains = "disk"};
  CHECK(ids(t.dead.list(filter, 4)) == numbered(3, 12, 3));
  CHECK(ids(t.dead.list(filter, 1000)) == numbered(3, 300, 3));
  CHECK(t.dead.list(filter, 0).empty());
}

TEST_CASE("a filter by age reads only the matching part of the archive", "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(1000);
  HookedView view{t.broker};
  DeadLetterQueue dead{view, "default"};
  CHECK(ids(dead.list({.younger_than = 2min + 30s})) == numbered(999, 1000));
  CHECK(dead.remove_older_than(998min) == 3);
  CHECK(dead.requeue_matching({.younger_than = 1min + 30s}) == 1);
  CHECK(view.listed < 250);
}

TEST_CASE("a dead letter is requeued or removed if it is still archived", "[dead_letter_queue]") {
  Fixture t;
  t.bury("a");
  t.bury("b");
  t.dead.requeue("a");
  CHECK(state_of(t.broker, "a") == TaskState::pending);
  t.dead.remove("b");
  CHECK_FALSE(state_of(t.broker, "b"));

  CHECK(text_of([&] { t.dead.requeue("b"); }) ==
        "requeue: task b (queue \"default\"): there is none");
  CHECK(error_of([&] { t.dead.requeue("b"); }) == Errc::task_not_found);
  CHECK(error_of([&] { t.dead.remove("a"); }) == Errc::wrong_state);
  CHECK(state_of(t.broker, "a") == TaskState::pending);
}

TEST_CASE("all dead letters are requeued, oldest first, or removed", "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(120);
  enqueue(t.broker, message("alive"));
  SECTION("requeued") {
    CHECK(t.dead.requeue_all() == 120);
    const Ids pending = ids(t.broker, TaskState::pending);
    REQUIRE(pending.size() == 121);
    CHECK(pending[0] == "alive");
    CHECK(pending[1] == "t1");
  }
  SECTION("removed") {
    CHECK(t.dead.remove_all() == 120);
    CHECK(ids(t.broker, TaskState::pending) == Ids{"alive"});
  }
  CHECK(t.dead.count() == 0);
}

TEST_CASE("all matching dead letters are requeued or removed", "[dead_letter_queue]") {
  Fixture t;
  const int odd_error = GENERATE(1, 2, 7, 49, 50, 51);  // every one to a few of a hundred
  t.bury_many(175, odd_error);
  const DeadLetterFilter filter{.error_contains = "disk"};
  const auto matching = static_cast<std::size_t>(175 / odd_error);
  SECTION("requeued") {
    CHECK(t.dead.requeue_matching(filter) == matching);
    CHECK(ids(t.broker, TaskState::pending).size() == matching);
  }
  SECTION("removed") { CHECK(t.dead.remove_matching(filter) == matching); }
  CHECK(t.dead.count() == 175 - matching);
  CHECK(t.dead.list(filter).empty());
}

TEST_CASE("concurrent changes of the archive make an action skip no dead letter",
          "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(2000);
  HookedView view{t.broker};
  DeadLetterQueue dead{view, "default"};
  int taken = 0;
  int brought = 0;
  const auto disturb = [&] {
    Ids oldest;
    for (int i = 0; i < 7; ++i) oldest.push_back("t" + std::to_string(++taken));
    act(t.broker, "default", TaskAction::remove, oldest);
    t.bury("new" + std::to_string(++brought), "disk full");
  };
  SECTION("before a page is read") { view.before_list = disturb; }
  SECTION("before a page is acted on") { view.before_act = disturb; }
  const std::size_t removed = dead.remove_matching({.error_contains = "disk"});
  CHECK(taken >= 14);
  CHECK(removed <= static_cast<std::size_t>(1000 + brought));
  const auto left = t.dead.list({.error_contains = "disk"}, 1000);
  for (const TaskInfo& task : left) CHECK(task.id.starts_with("new"));
  CHECK(t.dead.count() == static_cast<std::size_t>(1000 - (taken + 1) / 2) + left.size());
}

TEST_CASE("a task that is no longer archived is neither changed nor counted",
          "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(4);
  HookedView view{t.broker};
  view.before_act = [&] { t.dead.requeue("t2"); };
  CHECK(DeadLetterQueue{view, "default"}.remove_matching({.error_contains = "disk"}) == 1);
  CHECK(state_of(t.broker, "t2") == TaskState::pending);
  CHECK_FALSE(state_of(t.broker, "t4"));
}

TEST_CASE("a task that fails again while all are requeued is requeued once",
          "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(120);
  HookedView view{t.broker};
  const auto die_again = [&] {
    for (Run& run : take(t.broker)) settle(t.broker, archived(std::move(run)));
  };
  view.before_list = die_again;
  view.before_act = die_again;
  view.before_act_all = die_again;
  DeadLetterQueue dead{view, "default"};
  const bool filtered = GENERATE(true, false);
  CHECK((filtered ? dead.requeue_matching({}) : dead.requeue_all()) == 120);
}

TEST_CASE("dead letters older than an age are removed", "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(100);  // the last is a minute old
  CHECK(t.dead.remove_older_than(60min) == 41);
  CHECK(ids(t.dead.list({}, 1)) == Ids{"t42"});
  CHECK(t.dead.remove_older_than(60min) == 0);
  CHECK(t.dead.remove_older_than(0s) == 59);
  CHECK(t.dead.remove_older_than(0s) == 0);
}

TEST_CASE("bad ages are refused, and an unknown queue has no dead letters", "[dead_letter_queue]") {
  Fixture t;
  t.bury("t");
  const Duration age = GENERATE(Duration{-1}, Duration::min(), Duration::max());
  CHECK(error_of([&] { t.dead.remove_older_than(age); }) == Errc::invalid_argument);
  CHECK(error_of([&] { t.dead.list({.older_than = age}); }) == Errc::invalid_argument);
  CHECK(error_of([&] { t.dead.requeue_matching({.younger_than = age}); }) ==
        Errc::invalid_argument);
  CHECK(t.dead.count() == 1);

  DeadLetterQueue nowhere{t.broker, "nowhere"};
  CHECK(nowhere.count() == 0);
  CHECK(nowhere.list().empty());
  CHECK_FALSE(nowhere.find("t"));
  CHECK(nowhere.requeue_all() == 0);
  CHECK(nowhere.remove_matching({}) == 0);
  CHECK(error_of([&] { nowhere.requeue("t"); }) == Errc::task_not_found);
}

TEST_CASE("an action on many tasks that fails halfway reports how many were done",
          "[dead_letter_queue]") {
  Fixture t;
  t.bury_many(1200, 1);
  HookedView view{t.broker};
  int round = 0;
  view.before_act = [&] {
    if (++round == 2) throw Error{Errc::unavailable, "connection refused"};
  };
  DeadLetterQueue dead{view, "default"};
  CHECK(text_of([&] { dead.requeue_matching({.error_contains = "disk"}); }) ==
        "requeue matching dead letters of queue \"default\": after 500 were done: connection "
        "refused");
  CHECK(t.dead.count() == 700);
}
