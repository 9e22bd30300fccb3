#include <chrono>
#include <iostream>
#include <stdexcept>
#include <taskmux/taskmux.hpp>

using namespace std::chrono_literals;

int main() {
  taskmux::MemoryBroker broker;  // Or a RedisBroker, to share the queues with other processes.

  taskmux::ServeMux mux;
  mux.handle("email:welcome", [](taskmux::Context& context, const taskmux::Task& task) {
    if (context.retry_count() == 0) throw std::runtime_error{"the mail server is busy"};
    context.set_result("sent to " + task.payload);
  });
  taskmux::Server server{
      broker, std::move(mux), {.concurrency = 4, .retry_policy = taskmux::FixedDelay{100ms}}};
  server.start();

  taskmux::Client client{broker};
  const auto sent = client.enqueue({.type = "email:welcome", .payload = "ada@example.org"},
                                   {.max_retry = 5, .timeout = 30s, .retention = 1h});

  taskmux::Inspector inspector{broker};
  const auto done = inspector.wait_for_result(sent.queue, sent.id, 10s);
  std::cout << done.result << " at attempt " << done.retried + 1 << '\n';
  server.shutdown();
}
