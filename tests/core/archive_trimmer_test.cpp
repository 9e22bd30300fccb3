#include "taskmux/detail/archive_trimmer.hpp"

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
                                 std::function<void(const TaskInfo&)> hook = {}) {
    return {broker, limits, std::move(hook), logger};
  }
  std::size_t archived_count() { return memory.queue_info("default").archived; }
};

}  // namespace

TEST_CASE("the oldest go when there are too many", "[archive]") {
  Trimming t;
  t.archive(0, 250);
  auto trimmer = t.trimmer({.max_tasks = 20});
  CHECK(trimmer.trim("default") == 230);
  CHECK(t.archived_count() == 20);
  CHECK(t.state("t229") == std::nullopt);
  CHECK(t.state("t230") == TaskState::archived);
  CHECK(trimmer.trim("default") == 0);
}

TEST_CASE("those that are too old go, however few there are", "[archive]") {
  Trimming t;
  t.archive(0, 3);
  t.clock->advance(1h);
  t.archive(3, 2);
  CHECK(t.trimmer({.max_age = 30min}).trim("default") == 3);
  CHECK(t.archived_count() == 2);
}

TEST_CASE("the hook sees a task before it goes, and can keep it", "[archive]") {
  Trimming t;
  t.archive(0, 150);
  std::vector<std::string> seen;
  const auto hook = [&](const TaskInfo& task) {
    CHECK(t.state(task.id) == TaskState::archived);
    CHECK(task.last_error == "boom");
    seen.push_back(task.id);
    if (task.id == "t1" || task.id == "t120") throw std::runtime_error{"not yet"};
  };
  CHECK(t.trimmer({.max_tasks = 10}, hook).trim("default") == 138);
  CHECK(seen.size() == 140);
  CHECK(t.archived_count() == 12);
  CHECK(t.state("t1") == TaskState::archived);
  CHECK(t.state("t120") == TaskState::archived);
  CHECK(t.log.size() == 2);
}

TEST_CASE("a task that is run again while the hook looks at it is not deleted", "[archive]") {
  Trimming t;
  t.archive(0, 1);
  const auto hook = [&](const TaskInfo& task) {
    t.memory.act("default", TaskAction::run, std::vector{task.id}, std::nullopt);
  };
  CHECK(t.trimmer({.max_tasks = 0}, hook).trim("default") == 0);
  CHECK(t.state("t0") == TaskState::pending);
}

TEST_CASE("a queue that nobody has used yet has no archive to trim", "[archive]") {
  Trimming t;
  CHECK(t.trimmer({}).trim("never used") == 0);
}

TEST_CASE("many queues have their archives trimmed in turn", "[archive]") {
  Trimming t;
  std::vector<std::string> queues;
  for (int i = 0; i < 10; ++i) {
    queues.push_back("q" + std::to_string(i));
    enqueue(t.broker, message("t", queues.back()));
    settle(t.broker, archived(take(t.broker, queues.back()).front()));
  }
  auto trimmer = t.trimmer({.max_tasks = 0});
  const auto untrimmed = [&] {
    std::size_t count = 0;
    for (const std::string& queue : queues) count += t.memory.queue_info(queue).archived;
    return count;
  };
  trimmer.trim_next(queues);
  CHECK(untrimmed() == 6);
  trimmer.trim_next(queues);
  trimmer.trim_next(queues);
  CHECK(untrimmed() == 0);
}

TEST_CASE("a trim ends where it is when its server stops", "[archive]") {
  Trimming t;
  t.archive(0, 150);
  int seen = 0;
  detail::ArchiveTrimmer trimmer{t.broker,
                                 {.max_tasks = 0},
                                 [&](const TaskInfo&) { ++seen; },
                                 t.logger,
                                 [&] { return seen == 120; }};
  CHECK(trimmer.trim("default") == 120);
  CHECK(t.archived_count() == 30);
}
