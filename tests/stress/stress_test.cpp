// Many threads, little time: what only shows when everything happens at once. Written for the
// thread sanitizer.

#include <array>
#include <atomic>
#include <cstddef>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/builders.hpp"
#include "support/eventually.hpp"
#include "support/flaky_broker.hpp"
#include "support/test.hpp"
#include "support/violations.hpp"
#include "taskmux/taskmux.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;
using Operation = FlakyBroker::Operation;

namespace {

/// How often each task, whose payload is its number, has been handled with success.
class Ledger {
 public:
  explicit Ledger(std::size_t tasks) : done_(tasks) {}

  void add(const Task& task) { done_.at(std::stoul(task.payload)).fetch_add(1); }
  std::size_t times(std::size_t task) const { return done_.at(task); }
  /// How many tasks have been done at all.
  std::size_t done() const {
    std::size_t count = 0;
    for (const auto& times : done_) count += times > 0 ? 1 : 0;
    return count;
  }
  std::size_t size() const { return done_.size(); }

 private:
  std::vector<std::atomic<std::size_t>> done_;
};

Task numbered(std::size_t number, const std::string& type = "t") {
  return {.type = type, .payload = std::to_string(number)};
}

void produce(Broker& broker, std::size_t first, std::size_t last) {
  Client client{broker};
  for (std::size_t i = first; i < last; ++i) {
    while (true) {
      const std::string id = "task " + std::to_string(i);
      const auto error =
          error_of([&] { client.enqueue(numbered(i), {.task_id = id, .max_retry = 1000}); });
      // A lost reply is repeated with the same id; a conflict then says that it had come through.
      if (!error || error == Errc::task_id_conflict) break;
      std::this_thread::yield();
    }
  }
}

}  // namespace

TEST_CASE("a server can be shut down at any moment, and no task is lost", "[stress]") {
  for (std::size_t round = 0; round < 60; ++round) {
    MemoryBroker broker;
    constexpr std::size_t tasks = 200;
    Ledger ledger{tasks};
    produce(broker, 0, tasks / 2);
    std::thread producer{[&] { produce(broker, tasks / 2, tasks); }};
    {
      ServeMux mux;
      mux.handle("t", [&](Context&, const Task& task) { ledger.add(task); });
      Server server{broker, std::move(mux), {.concurrency = 1 + round % 4}};
      std::atomic<bool> begun{false};
      std::thread ends{[&] {
        eventually([&] { return begun.load(); });
        for (std::size_t i = 0; i < round * 20; ++i) std::this_thread::yield();
        server.shutdown();
      }};
      server.start();
      begun = true;
      if (round % 3 == 0) server.stop();
      ends.join();
    }
    producer.join();
    const QueueInfo info = broker.queue_info("default");
    INFO("round " << round);
    REQUIRE(info.active == 0);
    REQUIRE(info.pending + ledger.done() == tasks);
    REQUIRE(info.size() == info.pending);
    REQUIRE(broker.servers().empty());
  }
}

TEST_CASE("every task succeeds despite failures of the broker", "[stress]") {
  MemoryBroker memory;
  FlakyBroker broker{memory};
  constexpr std::size_t producers = 3;
  constexpr std::size_t each = 1500;
  Ledger ledger{producers * each};
  std::atomic<std::size_t> attempts{0};
  Violations violations;

  const auto make_server = [&] {
    ServeMux mux;
    mux.use([](Context& context, const Task& task, const Next& next) {
      context.set_value("seen", std::string{context.task_id()});
      return next(context, task);
    });
    mux.handle("t", [&](Context& context, const Task& task) -> Outcome {
      violations.expect(*context.value<std::string>("seen") == context.task_id(),
                        "another run's value");
      switch (attempts.fetch_add(1) % 7) {
        case 0: return Outcome::fail("boom");
        case 1: throw std::runtime_error{"thrown"};
        case 2: return Outcome::snooze(1ms);
        case 3: return Outcome::retry_after(1ms);
        default: break;
      }
      context.set_result(task.payload);
      ledger.add(task);
      return Outcome::success();
    });
    return std::make_unique<Server>(
        broker, std::move(mux),
        ServerConfig{.concurrency = 3,
                     .retry_policy = FixedDelay{1ms},
                     .lease = 5s,
                     .max_crashes = 1000,  // Each lost reply of an exchange is one.
                     .upkeep_interval = 5ms,
                     .hooks = {.on_failure =
                                   [&](const TaskEvent& e) {
                                     violations.expect(!e.error.empty(),
                                                       "a failure without a text");
                                   },
                               .on_state_change = [](const TaskEvent&) {}}});
  };
  std::array<std::unique_ptr<Server>, 2> servers{make_server(), make_server()};
  for (auto& server : servers) server->start();

  produce(broker, 0, 1);  // So that there is a queue for the operators.
  std::vector<std::thread> threads;
  for (std::size_t p = 0; p < producers; ++p) {
    threads.emplace_back([&, p] { produce(broker, p * each + (p == 0 ? 1 : 0), (p + 1) * each); });
  }
  std::atomic<bool> over{false};
  // A fault each time that the work has got on a little, so that it does get on.
  std::thread chaos{[&] {
    const std::array operations{Operation::enqueue, Operation::exchange, Operation::extend,
                                Operation::arm, Operation::upkeep};
    for (std::size_t i = 0; !over; ++i) {
      const Operation operation = operations[i % operations.size()];
      if (i % 2 == 0) {
        broker.fail(operation, 1);
      } else {
        broker.lose_reply(operation, 1);
      }
      const std::size_t enough = ledger.done() + 60;
      while (!over && ledger.done() < enough) std::this_thread::yield();
    }
  }};
  std::thread operators{[&] {
    Inspector inspector{broker};
    while (!over) {
      for (const TaskState state :
           {TaskState::pending, TaskState::retry, TaskState::scheduled, TaskState::active}) {
        for (const TaskInfo& task : listed(memory, "default", state, 5))
          violations.expect(task.state == state, "listed in another state");
      }
      memory.act_all("default", TaskAction::run, TaskState::retry, 3);
      memory.pause("default");
      memory.unpause("default");
      violations.expect(memory.servers().size() <= 2, "a server too many");
      for (auto& server : servers) static_cast<void>(server->stats());
    }
  }};

  const bool all = eventually([&] { return ledger.done() == ledger.size(); });
  over = true;
  for (std::thread& thread : threads) thread.join();
  chaos.join();
  operators.join();
  broker.recover();
  for (auto& server : servers) server->shutdown();
  const QueueInfo left = memory.queue_info("default");
  INFO(ledger.done() << " of " << ledger.size() << " done; pending " << left.pending << ", active "
                     << left.active << ", scheduled " << left.scheduled << ", retry " << left.retry
                     << ", archived " << left.archived);
  REQUIRE(all);
  CHECK(violations.all() == std::vector<std::string>{});

  CHECK(left.archived == 0);
}

TEST_CASE("hints, cancellations and the end of watches may be concurrent", "[stress]") {
  MemoryBroker broker;
  std::atomic<bool> over{false};
  std::atomic<std::size_t> hints{0};
  Violations violations;
  std::vector<std::thread> threads;
  threads.emplace_back([&] {
    while (!over) {
      std::atomic<bool> alive{true};
      {
        const auto watch = broker.watch({"default"}, [&](const Hint&) {
          violations.expect(alive, "a hint after the end of its watch");
          ++hints;
        });
        watch->arm();
        std::this_thread::yield();
        watch->arm();
      }
      alive = false;
    }
  });
  threads.emplace_back([&] {
    Client client{broker};
    for (std::size_t i = 0; !over; ++i) {
      const std::string id = client.enqueue(numbered(i)).id;
      for (Run& run : take(broker, "default", 1)) {
        static_cast<void>(
            error_of([&] { broker.cancel("default", run.message->id, CancelMode::remove); }));
        settle(broker, completed(std::move(run)));
      }
    }
  });
  CHECK(eventually([&] { return hints > 2000; }));
  over = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(violations.all() == std::vector<std::string>{});
}

TEST_CASE("servers may end while handlers hang", "[stress]") {
  constexpr std::size_t rounds = 20;
  struct Shared {
    std::latch go{1};
    std::atomic<std::size_t> left{0};
  };
  const auto shared = std::make_shared<Shared>();
  MemoryBroker broker;
  for (std::size_t round = 0; round < rounds; ++round) {
    std::latch entered{1};
    ServeMux mux;
    mux.handle("hang", [shared, &entered](Context& context, const Task&) {
      entered.count_down();
      shared->go.wait();
      context.set_result("late");
      context.log(LogLevel::error, "late");
      while (context.wait_for(1ms)) {
      }
      ++shared->left;
    });
    Server server{
        broker, std::move(mux), {.concurrency = 1, .shutdown_timeout = 0s, .abandon_after = 1ms}};
    server.start();
    Client{broker}.enqueue({.type = "hang"}, {.task_id = std::to_string(round)});
    entered.wait();
    server.shutdown();
    REQUIRE(state_of(broker, std::to_string(round)) == TaskState::pending);
    REQUIRE(server.stats().abandoned == 1);
    act(broker, "default", TaskAction::remove, std::vector{std::to_string(round)}, std::nullopt);
  }
  shared->go.count_down();
  CHECK(eventually([&] { return shared->left == rounds; }));
  CHECK(broker.queue_info("default").size() == 0);
}
