/// A service that ends well: on SIGTERM it takes no more tasks, lets those that run finish for a
/// while, then asks them to stop, and puts what is unfinished back into its queue.
///
/// A library leaves signals to its host. The way here: block them before there are threads, and
/// have one thread wait for them, which is free to do whatever a signal handler must not.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <latch>
#include <stop_token>
#include <taskmux/taskmux.hpp>
#include <thread>

using namespace std::chrono_literals;
using taskmux::Context, taskmux::Outcome, taskmux::Task;

int main() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::stop_source stop;
  std::jthread signal_waiter{[&] {
    int signal = 0;
    sigwait(&signals, &signal);
    std::cout << "told to end" << std::endl;
    stop.request_stop();
  }};

  // As service managers do it; here once both tasks run.
  std::latch running{2};
  std::jthread service_manager{[&] {
    running.wait();
    kill(getpid(), SIGTERM);
  }};

  taskmux::ServeMux mux;
  mux.handle("work:short", [&](Context& context, const Task&) {
    running.count_down();
    context.wait_for(100ms);  // The work. It ends within the shutdown timeout.
    std::cout << "short work done: " << !context.stop_requested() << std::endl;
  });
  mux.handle("work:long", [&](Context& context, const Task&) {
    running.count_down();
    // Long work looks at context.stop_requested() now and then, hands context.stop_token() on, or
    // waits like this; what can be saved is saved before it returns.
    if (context.wait_for(1h)) return Outcome::success();
    std::cout << "long work stopped: " << to_string(context.stop_reason()) << std::endl;
    return Outcome::fail("stopped half-way");  // Not counted as a failure: the server stopped it.
  });

  taskmux::MemoryBroker broker;
  taskmux::Client client{broker};
  client.enqueue({.type = "work:short"});
  client.enqueue({.type = "work:long"});
  taskmux::Server server{broker, std::move(mux), {.concurrency = 2, .shutdown_timeout = 1s}};
  server.run(stop.get_token());  // Until a signal comes.

  const taskmux::QueueInfo queue = taskmux::Inspector{broker}.queue("default");
  std::cout << queue.pending << " task back in the queue, " << queue.failed_total << " failed\n";
}
