/// How an application tests code that uses taskmux: with a clock that the test moves, and a server
/// that runs tasks on the test's own thread. A day takes no time, and each run is deterministic.

#include <chrono>
#include <iostream>
#include <memory>
#include <string>
#include <taskmux/taskmux.hpp>
#include <taskmux/testing.hpp>
#include <vector>

using namespace std::chrono_literals;

/// The code under test: a reminder a day after the sign-up, sent by a mailer that may fail.
class Reminders {
 public:
  Reminders(taskmux::Client& client, std::vector<std::string>& outbox)
      : client_{client}, outbox_{outbox} {}

  void register_at(taskmux::ServeMux& mux) {
    mux.handle("user:signed_up", [this](taskmux::Context&, const taskmux::Task& task) {
      client_.enqueue({.type = "reminder:send", .payload = task.payload},
                      {.max_retry = 3, .process_in = 24h});
    });
    mux.handle("reminder:send", [this](taskmux::Context&, const taskmux::Task& task) {
      if (mailer_failures_left > 0 && mailer_failures_left-- > 0)
        return taskmux::Outcome::fail("the mailer is down");
      outbox_.push_back(task.payload);
      return taskmux::Outcome::success();
    });
  }

  int mailer_failures_left = 0;

 private:
  taskmux::Client& client_;
  std::vector<std::string>& outbox_;
};

int failures = 0;
void expect(bool holds, const char* what) {
  std::cout << (holds ? "ok: " : "NOT OK: ") << what << '\n';
  if (!holds) ++failures;
}

int main() {
  const auto clock = std::make_shared<taskmux::ManualClock>();
  taskmux::MemoryBroker broker{{.clock = clock}};
  taskmux::Client client{broker, {.clock = clock}};
  std::vector<std::string> outbox;
  Reminders reminders{client, outbox};
  taskmux::ServeMux mux;
  reminders.register_at(mux);
  taskmux::TestServer server{broker,
                             std::move(mux),
                             {.retry_policy = taskmux::FixedDelay{10min},
                              .logger = taskmux::Logger::none(),  // It fails on purpose.
                              .clock = clock}};

  client.enqueue({.type = "user:signed_up", .payload = "ada"});
  server.run_due();
  clock->advance(24h - 1us);
  expect(server.run_due() == 0 && outbox.empty(), "no reminder before the day is over");
  clock->advance(1us);
  expect(server.run_due() == 1 && outbox.size() == 1, "a reminder when it is");

  reminders.mailer_failures_left = 2;
  client.enqueue({.type = "user:signed_up", .payload = "grace"});
  const taskmux::Time began = clock->now();
  server.run_all(*clock);
  expect(outbox.size() == 2, "a mailer that fails twice sends at last");
  expect(clock->now() - began == 24h + 20min, "... after two delays of the policy");

  reminders.mailer_failures_left = 100;
  client.enqueue({.type = "user:signed_up", .payload = "edsger"});
  expect(server.run_all(*clock) == 1 + 4, "four attempts with three retries");
  expect(taskmux::DeadLetterQueue{broker, "default"}.count() == 1, "then a dead letter");
  return failures == 0 ? 0 : 1;
}
