/// A worker on Redis: takes what redis_producer (or a Go client of asynq) enqueues, until SIGINT or
/// SIGTERM. Start as many as you like, on as many machines.
///
///     redis_worker [redis://user:password@host:port/db]

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <taskmux/redis/redis_broker.hpp>
#include <taskmux/signals.hpp>
#include <taskmux/taskmux.hpp>

using namespace std::chrono_literals;

int main(int argc, char** argv) try {
  taskmux::SignalWaiter signals;  // Before any thread is started: see graceful_shutdown.cpp.

  taskmux::RedisOptions options =
      taskmux::parse_redis_url(argc > 1 ? argv[1] : "redis://127.0.0.1:6379");
  options.client_name = "redis_worker";
  options.logger = taskmux::Logger::to_stderr(taskmux::LogLevel::info);  // The server uses it, too.
  taskmux::RedisBroker broker{options};

  taskmux::ServeMux mux;
  mux.handle("email:welcome", [](taskmux::Context& context, const taskmux::Task& task) {
    context.log(taskmux::LogLevel::info, "to " + task.payload);
    context.set_result("sent to " + task.payload);
  });
  taskmux::Server server{
      broker,
      std::move(mux),
      {.concurrency = 10, .queues = {{"critical", 6}, {"default", 3}, {"low", 1}}}};

  server.start();  // Throws if Redis can't be reached; a later outage is waited for.
  std::printf("working as %s\n", server.id().c_str());
  std::fflush(stdout);
  signals.wait();
  server.shutdown();
  std::printf("%llu tasks done\n", static_cast<unsigned long long>(server.stats().succeeded));
} catch (const std::exception& error) {
  std::fprintf(stderr, "redis_worker: %s\n", error.what());
  return 1;
}
