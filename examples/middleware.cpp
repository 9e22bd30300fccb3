/// Middleware contains what all handlers have in common: here a log line with the elapsed time, and
/// an access check. The middleware that is added first is the outermost.

#include <chrono>
#include <iostream>
#include <string>
#include <taskmux/taskmux.hpp>

using namespace std::chrono_literals;
using taskmux::Context, taskmux::Next, taskmux::Outcome, taskmux::Task;

struct Tenant {
  std::string name;
};

/// Logs how each attempt ended. `next` never throws: exceptions have become outcomes already.
Outcome log_attempts(Context& context, const Task& task, const Next& next) {
  const auto began = std::chrono::steady_clock::now();
  Outcome outcome = next(context, task);
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - began;
  context.log(taskmux::LogLevel::info,
              (outcome.failed() ? "failed: " + outcome.error() : std::string{"succeeded"}) +
                  " after " + std::to_string(took.count()) + " ms");
  return outcome;
}

/// Admits only tasks of a known tenant, and passes the tenant to the handler.
Outcome require_tenant(Context& context, const Task& task, const Next& next) {
  const auto header = context.headers().find("tenant");
  if (header == context.headers().end()) return Outcome::skip_retry("no tenant");
  context.set_value("tenant", Tenant{header->second});
  return next(context, task);
}

int main() {
  taskmux::ServeMux mux;
  mux.use(log_attempts);
  mux.use(require_tenant);
  mux.handle("report:build", [](Context& context, const Task& task) {
    const Tenant& tenant = *context.value<Tenant>("tenant");
    context.set_result(task.payload + " report of " + tenant.name);
  });

  taskmux::MemoryBroker broker;
  // The default logger writes only warnings and errors.
  taskmux::Server server{
      broker, std::move(mux), {.logger = taskmux::Logger::to_stderr(taskmux::LogLevel::info)}};
  server.start();

  taskmux::Client client{broker};
  taskmux::Inspector inspector{broker};
  const auto wait = [&](const taskmux::EnqueueResult& task) {
    return inspector.wait_for_result(task.queue, task.id, 10s);
  };
  const auto known = client.enqueue(
      {.type = "report:build", .payload = "monthly", .headers = {{"tenant", "acme"}}},
      {.retention = 1h});
  std::cout << wait(known).result << std::endl;

  const auto unknown = client.enqueue({.type = "report:build"}, {.retention = 1h});
  try {
    wait(unknown);
  } catch (const taskmux::Error& error) {
    std::cout << to_string(error.errc()) << ": " << error.what() << std::endl;
  }
  server.shutdown();
}
