#include <chrono>
#include <cstdio>
#include <future>
#include <string>
#include <taskmux/taskmux.hpp>
#include <utility>

// Enqueues a task, waits until its handler has run it, and says whether it did.
int main() {
  std::promise<std::string> handled;
  taskmux::ServeMux mux;
  mux.handle("greet", [&handled](taskmux::Context&, const taskmux::Task& task) {
    handled.set_value(task.payload);
  });

  taskmux::MemoryBroker broker;
  taskmux::Server server{broker, std::move(mux), {.concurrency = 1}};
  server.start();
  taskmux::Client client{broker};
  client.enqueue({.type = "greet", .payload = "hello"});

  std::future<std::string> payload = handled.get_future();
  const bool done = payload.wait_for(std::chrono::minutes{1}) == std::future_status::ready;
  server.shutdown();
  if (!done || payload.get() != "hello" || server.stats().succeeded != 1) {
    std::fputs("the task was not done\n", stderr);
    return 1;
  }
  std::puts("done");
  return 0;
}
