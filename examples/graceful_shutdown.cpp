/// A service that shuts down gracefully: on SIGTERM it takes no more tasks, lets running handlers
/// finish for a while, then asks them to stop, and returns unfinished tasks to their queue.
///
/// A server leaves signals to the application. Here SignalWaiter blocks them before any thread is
/// started, and main() waits for them, so that it may call functions that a signal handler must not
/// call.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <latch>
#include <taskmux/signals.hpp>
#include <taskmux/taskmux.hpp>
#include <thread>

using namespace std::chrono_literals;
using taskmux::Context, taskmux::Outcome, taskmux::Task;

int main() {
  taskmux::SignalWaiter signals;  // For SIGINT and SIGTERM by default.

  // Service managers send SIGTERM; here the program sends it once both tasks are running.
  std::latch running{2};
  std::jthread service_manager{[&] {
    running.wait();
    kill(getpid(), SIGTERM);
  }};

  taskmux::ServeMux mux;
  mux.handle("work:short", [&](Context& context, const Task&) {
    running.count_down();
    context.wait_for(100ms);  // The work, which ends within the shutdown timeout.
    std::cout << "short work done: " << !context.stop_requested() << std::endl;
  });
  mux.handle("work:long", [&](Context& context, const Task&) {
    running.count_down();
    // A long handler checks context.stop_requested() from time to time, passes context.stop_token()
    // on, or waits like this; it saves its progress before it returns.
    if (context.wait_for(1h)) return Outcome::success();
    std::cout << "long work stopped: " << to_string(context.stop_reason()) << std::endl;
    return Outcome::fail("stopped half-way");  // Not counted as a failure: the server stopped it.
  });

  taskmux::MemoryBroker broker;
  taskmux::Client client{broker};
  client.enqueue({.type = "work:short"});
  client.enqueue({.type = "work:long"});
  taskmux::Server server{broker, std::move(mux), {.concurrency = 2, .shutdown_timeout = 1s}};
  server.start();
  signals.wait();
  std::cout << "told to end" << std::endl;
  server.shutdown();

  const taskmux::QueueInfo queue = taskmux::Inspector{broker}.queue_info("default");
  std::cout << queue.pending << " task back in the queue, " << queue.failed_total << " failed\n";
}
