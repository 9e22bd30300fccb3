/// A producer on Redis: enqueues a batch for redis_worker (or for a Go worker of asynq) and waits
/// until all of it is processed.
///
///     redis_producer [redis://user:password@host:port/db] [how many]

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <taskmux/redis/redis_broker.hpp>
#include <taskmux/taskmux.hpp>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

int main(int argc, char** argv) try {
  taskmux::RedisBroker broker{argc > 1 ? argv[1] : "redis://127.0.0.1:6379"};
  const int count = argc > 2 ? std::stoi(argv[2]) : 100;

  // Defaults for all tasks of the type. They are stored in the message, so Go workers apply them,
  // too.
  taskmux::Client client{
      broker,
      {.defaults = {{"email:welcome", {.max_retry = 5, .timeout = 30s, .retention = 10min}}}}};
  std::vector<taskmux::NewTask> batch;
  for (int i = 0; i < count; ++i) {
    batch.push_back(
        {{.type = "email:welcome", .payload = "user" + std::to_string(i) + "@example.org"}, {}});
  }

  // There is one result per task: a refused task does not affect the others. A task whose outcome
  // is unknown, Errc::unavailable, may be sent again with the id that is in its result.
  std::vector<std::pair<std::string, std::string>> accepted;
  for (const taskmux::EnqueueResult& result : client.enqueue_all(std::move(batch))) {
    if (result.accepted()) {
      accepted.emplace_back(result.queue, result.id);
    } else {
      std::fprintf(stderr, "%s\n", result.error->what());
    }
  }
  std::printf("%zu enqueued\n", accepted.size());

  taskmux::Inspector inspector{broker};
  std::string last;
  for (const auto& [queue, id] : accepted) last = inspector.wait_for_result(queue, id, 30s).result;
  std::printf("%zu done; the last: %s\n", accepted.size(), last.c_str());
  return accepted.size() == static_cast<std::size_t>(count) ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "redis_producer: %s\n", error.what());
  return 1;
}
