/// What happens to tasks that fail: they are retried after the policy's delay, moved to the
/// dead-letter queue when no retry is left or a retry can't help, and requeued from there.

#include <atomic>
#include <chrono>
#include <iostream>
#include <latch>
#include <string>
#include <taskmux/taskmux.hpp>

using namespace std::chrono_literals;
using taskmux::Context, taskmux::Outcome, taskmux::Task, taskmux::TaskEvent;

int main() {
  std::atomic<bool> mail_server_up{false};

  taskmux::ServeMux mux;
  mux.handle("invoice:send",
             [&](Context& context, const Task& task) {
               if (task.payload.find('@') == std::string::npos)
                 return Outcome::skip_retry("no address: \"" + task.payload + '"');
               // An exception has the same effect: a failure with its what().
               if (!mail_server_up) return Outcome::fail("the mail server is down");
               context.set_result("sent to " + task.payload);
               return Outcome::success();
             },
             // For tasks of this type, in place of ServerConfig::retry_policy.
             {.retry_policy = taskmux::ExponentialBackoff{.initial = 20ms, .max = 1s}});

  std::latch set_aside{2};
  taskmux::Hooks hooks;
  hooks.on_failure = [](const TaskEvent& event) {
    std::cout << event.task->task.payload << ": attempt " << event.attempt << " failed ("
              << event.error << "), " << to_string(event.change) << '\n';
  };
  hooks.on_dead_letter = [&](const TaskEvent&) { set_aside.count_down(); };

  taskmux::MemoryBroker broker;
  // The hook prints what would otherwise be logged.
  taskmux::Server server{broker,
                         std::move(mux),
                         {.concurrency = 1, .hooks = hooks, .logger = taskmux::Logger::none()}};
  taskmux::Client client{broker,
                         {.defaults = {{"invoice:send", {.max_retry = 2, .retention = 1h}}}}};
  server.start();
  const auto good = client.enqueue({.type = "invoice:send", .payload = "ada@example.org"});
  client.enqueue({.type = "invoice:send", .payload = "nowhere"});
  set_aside.wait();

  taskmux::DeadLetterQueue dead_letters{broker, "default"};
  std::cout << dead_letters.count() << " dead letters\n";
  mail_server_up = true;
  // It has no retries left, so it gets only this one attempt.
  std::cout << dead_letters.requeue_matching({.error_contains = "mail server"}) << " requeued\n";
  const auto done = taskmux::Inspector{broker}.wait_for_result(good.queue, good.id, 10s);
  std::cout << done.result << '\n';
  std::cout << dead_letters.remove_all() << " removed\n";
  server.shutdown();
}
