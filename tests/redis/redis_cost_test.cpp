#include <map>
#include <optional>
#include <string>
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
    fetcher.emplace(detail::Fetcher::Parts{t.broker, e.settler, e.registry, *e.pool, e.health, e.environment, [] {}},
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
    REQUIRE(e.pool->load().ready == 1);
    auto run = e.pool->ready().pop();
    e.begin(*run);
    run->advance(detail::RunState::Phase::running, detail::RunState::Phase::ended);
    e.pool->ready().done();
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
  const std::size_t count = GENERATE(std::size_t{1}, std::size_t{20}, std::size_t{100});
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

}  // namespace
}  // namespace taskmux::test
