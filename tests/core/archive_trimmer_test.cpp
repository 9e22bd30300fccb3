#include "taskmux/detail/engine/archive_trimmer.hpp"

#include <stdexcept>

#include "support/engine.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

struct Trimming : Engine {
  /// Archives tasks "<first>" ... one second apart.
  void archive(int first, int count) {
    for (int i = first; i < first + count; ++i) {
      settle(broker, archived(started(broker, message("t" + std::to_string(i)))));
      clock->advance(1s);
    }
  }
  detail::ArchiveTrimmer trimmer(ArchiveLimits limits,
                                 std::function<void(const TaskInfo&)> hook = {},
                                 std::vector<std::string> queues = {"default"},
                                 std::function<bool()> stopping = {}) {
    return {{broker, logger, clock, std::move(hook), std::move(stopping)}, queues, limits};
  }
  /// Until nothing is left to do at once; returns how many were deleted.
  std::size_t trim(detail::ArchiveTrimmer& trimmer) {
    const std::uint64_t before = trimmer.evicted();
    for (auto next = trimmer.run_once(); next && *next <= clock->steady_now();) {
      next = trimmer.run_once();
    }
    return static_cast<std::size_t>(trimmer.evicted() - before);
  }
  std::size_t trim(detail::ArchiveTrimmer&& trimmer) { return trim(trimmer); }
  std::size_t archived_count() { return memory.queue_info("default").archived; }
};

}  // namespace

TEST_CASE("the oldest tasks are deleted when there are too many", "[archive]") {
  Trimming t;
  t.archive(0, 250);
  auto trimmer = t.trimmer({.max_tasks = 20});
  CHECK(t.trim(trimmer) == 230);
  CHECK(t.archived_count() == 20);
  CHECK(t.state("t229") == std::nullopt);
  CHECK(t.state("t230") == TaskState::archived);
  t.clock->advance(10s);
  CHECK(t.trim(trimmer) == 0);
}

TEST_CASE("many queues are checked in turn, some of them each time", "[archive]") {
  Trimming t;
  t.archive(0, 3);
  std::vector<std::string> queues;
  for (int i = 0; i < 299; ++i) queues.push_back("q" + std::to_string(i));
  queues.push_back("default");
  auto trimmer = t.trimmer({.max_tasks = 1}, {}, queues);
  CHECK(t.trim(trimmer) == 0);
  t.clock->advance(10s);
  CHECK(t.trim(trimmer) == 0);
  t.clock->advance(10s);
  CHECK(t.trim(trimmer) == 2);
  t.archive(3, 1);
  for (int look = 0; look < 3; ++look) {
    CHECK(t.archived_count() == 2);
    t.clock->advance(10s);
    t.trim(trimmer);
  }
  CHECK(t.archived_count() == 1);
}

TEST_CASE("tasks that are too old are deleted, however few there are", "[archive]") {
  Trimming t;
  t.archive(0, 3);
  t.clock->advance(1h);
  t.archive(3, 2);
  CHECK(t.trim(t.trimmer({.max_age = 30min})) == 3);
  CHECK(t.archived_count() == 2);
}

TEST_CASE("the hook gets a task before it is deleted, and can keep it", "[archive]") {
  Trimming t;
  t.archive(0, 150);
  std::vector<std::string> seen;
  const auto hook = [&](const TaskInfo& task) {
    CHECK(t.state(task.id) == TaskState::archived);
    CHECK(task.last_error == "boom");
    seen.push_back(task.id);
    if (task.id == "t1" || task.id == "t120") throw std::runtime_error{"not yet"};
  };
  CHECK(t.trim(t.trimmer({.max_tasks = 10}, hook)) == 138);
  CHECK(seen.size() == 140);
  CHECK(t.archived_count() == 12);
  CHECK(t.state("t1") == TaskState::archived);
  CHECK(t.state("t120") == TaskState::archived);
  CHECK(t.log.size() == 3);  // Two hooks that threw, and what was deleted.
}

TEST_CASE("a task that is run again while the hook looks at it is not deleted", "[archive]") {
  Trimming t;
  t.archive(0, 1);
  const auto hook = [&](const TaskInfo& task) {
    act(t.memory, "default", TaskAction::run, std::vector{task.id}, std::nullopt);
  };
  CHECK(t.trim(t.trimmer({.max_tasks = 0}, hook)) == 0);
  CHECK(t.state("t0") == TaskState::pending);
}

TEST_CASE("a queue that was never used has no archive to trim", "[archive]") {
  Trimming t;
  CHECK(t.trim(t.trimmer({}, {}, {"never used"})) == 0);
}

TEST_CASE("one step deletes one chunk, of the queue that is furthest beyond its limit",
          "[archive]") {
  Trimming t;
  const auto fill = [&](const std::string& queue, std::size_t count) {
    t.broker.enqueue(many("t", count, queue));
    t.memory.act_all(queue, TaskAction::archive, TaskState::pending, count);
  };
  fill("small", 110);
  fill("large", 1200);
  fill("within", 100);
  const auto left = [&](const std::string& queue) { return t.memory.queue_info(queue).archived; };
  auto trimmer = t.trimmer({.max_tasks = 100}, {}, {"large", "small", "unused", "within"});
  CHECK(trimmer.run_once() == t.clock->steady_now());  // The look.
  CHECK(trimmer.run_once() == t.clock->steady_now());
  CHECK(left("large") == 700);
  CHECK(trimmer.run_once() == t.clock->steady_now());
  CHECK(left("large") == 200);
  CHECK(left("small") == 110);
  CHECK(trimmer.run_once() == t.clock->steady_now());
  CHECK(left("large") == 100);
  CHECK(trimmer.run_once() == t.clock->steady_now() + 10s);
  CHECK(left("small") == 100);
  CHECK(left("within") == 100);
  CHECK(trimmer.evicted() == 1110);
}

TEST_CASE("a step is followed by a pause of the same length, whoever calls in the meantime",
          "[archive]") {
  Trimming t;
  t.broker.enqueue(many("t", 300));
  t.memory.act_all("default", TaskAction::archive, TaskState::pending, 300);
  // Each hook takes a millisecond, and a chunk has 100.
  auto trimmer = t.trimmer({.max_tasks = 0}, [&](const TaskInfo&) { t.clock->advance(1ms); });
  trimmer.run_once();  // The look.
  const auto next = trimmer.run_once();
  REQUIRE(trimmer.evicted() == 100);
  CHECK(next == t.clock->steady_now() + 100ms);
  t.clock->advance(99ms);
  CHECK(trimmer.run_once() == next);
  CHECK(trimmer.evicted() == 100);
  t.clock->advance(1ms);
  trimmer.run_once();
  CHECK(trimmer.evicted() == 200);
}

TEST_CASE("a trim ends early when its server stops", "[archive]") {
  Trimming t;
  t.archive(0, 150);
  int seen = 0;
  auto trimmer = t.trimmer(
      {.max_tasks = 0}, [&](const TaskInfo&) { ++seen; }, {"default"}, [&] { return seen == 120; });
  CHECK(t.trim(trimmer) == 120);
  CHECK(t.archived_count() == 30);
  CHECK_FALSE(trimmer.run_once());
}

TEST_CASE("a hook that keeps everything is called once per check", "[archive]") {
  Trimming t;
  t.archive(0, 150);
  int asked = 0;
  auto trimmer = t.trimmer({.max_tasks = 20}, [&](const TaskInfo&) {
    ++asked;
    throw std::runtime_error{"not yet"};
  });
  CHECK(t.trim(trimmer) == 0);
  CHECK(asked == 130);
  CHECK(t.trim(trimmer) == 0);
  CHECK(asked == 130);
  t.clock->advance(10s);
  CHECK(t.trim(trimmer) == 0);
  CHECK(asked == 260);
}

TEST_CASE("deletions are logged once a minute, and the rest at the end", "[archive]") {
  Trimming t;
  auto trimmer = t.trimmer({.max_tasks = 0});
  t.archive(0, 3);
  t.trim(trimmer);
  REQUIRE(t.log.size() == 1);
  CHECK(t.log[0] ==
        "queue \"default\": the 3 oldest archived tasks were deleted to keep the limits of 0 tasks "
        "and 2160 h");
  for (int i = 0; i < 5; ++i) {
    t.archive(3 + i, 1);
    t.clock->advance(10s);
    t.trim(trimmer);
  }
  CHECK(t.log.size() == 1);
  t.clock->advance(10s);
  CHECK(t.trim(trimmer) == 0);
  REQUIRE(t.log.size() == 2);
  CHECK(t.log[1].find("the 5 oldest") != std::string::npos);
  t.archive(8, 1);
  t.clock->advance(10s);
  t.trim(trimmer);
  trimmer.tell_rest();
  trimmer.tell_rest();
  CHECK(t.log.size() == 3);
  CHECK(trimmer.evicted() == 9);
}
