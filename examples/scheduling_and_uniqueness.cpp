/// When and how often a task runs: delayed, at an instant, not after a deadline, once per id, at
/// most once at a time.

#include <chrono>
#include <iostream>
#include <latch>
#include <string>
#include <taskmux/taskmux.hpp>

using namespace std::chrono_literals;

int main() {
  taskmux::MemoryBroker broker;
  taskmux::Client client{broker};
  const auto try_enqueue = [&](taskmux::Task task, taskmux::EnqueueOptions options) {
    try {
      const auto result = client.enqueue(std::move(task), std::move(options));
      std::cout << (result.accepted_before ? "accepted before\n" : "accepted\n");
    } catch (const taskmux::Error& error) {
      std::cout << "refused: " << to_string(error.errc()) << '\n';
    }
  };

  // At most one digest per user at a time, however often it is requested: the lock is held until
  // the task has succeeded, for an hour at most.
  try_enqueue({.type = "digest:send", .payload = "ada"}, {.unique_for = 1h});
  try_enqueue({.type = "digest:send", .payload = "ada"}, {.unique_for = 1h});
  try_enqueue({.type = "digest:send", .payload = "grace"}, {.unique_for = 1h});

  // A task with the id of an existing task, in any state, is refused. With idempotent_for, the
  // broker remembers the id for that time, whatever happens to the task: so the call can be
  // repeated, after a lost reply or from two places, and the order is shipped once.
  try_enqueue({.type = "order:ship", .payload = "16"}, {.task_id = "order-16"});
  try_enqueue({.type = "order:ship", .payload = "16"}, {.task_id = "order-16"});
  try_enqueue({.type = "order:ship", .payload = "17"},
              {.task_id = "order-17", .idempotent_for = 24h});
  try_enqueue({.type = "order:ship", .payload = "17"},
              {.task_id = "order-17", .idempotent_for = 24h});

  // Worthless when late: it does not run after this time, but becomes a dead letter.
  client.enqueue({.type = "price:show", .payload = "too late"}, {.expires_in = 1us});

  // Delayed, or at an instant.
  const auto began = std::chrono::system_clock::now();
  client.enqueue({.type = "reminder:send", .payload = "third"}, {.process_in = 400ms});
  client.enqueue({.type = "reminder:send", .payload = "second"}, {.process_at = began + 200ms});
  client.enqueue({.type = "reminder:send", .payload = "first"});

  std::latch reminders{3};
  taskmux::ServeMux mux;
  mux.handle("reminder:send", [&](taskmux::Context&, const taskmux::Task& task) {
    const auto late = std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::system_clock::now() - began);
    std::cout << task.payload << " reminder, after " << late / 100 * 100 << '\n';
    reminders.count_down();
  });
  mux.not_found([](taskmux::Context&, const taskmux::Task&) {});
  taskmux::Server server{broker, std::move(mux), {.concurrency = 1}};
  server.start();
  reminders.wait();
  server.shutdown();

  // The digests have been sent, so the next one is accepted.
  try_enqueue({.type = "digest:send", .payload = "ada"}, {.unique_for = 1h});
  for (const taskmux::TaskInfo& task : taskmux::DeadLetterQueue{broker, "default"}.list())
    std::cout << task.task.type << ": " << task.last_error << '\n';
}
