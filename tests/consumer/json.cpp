#include <chrono>
#include <cstdio>
#include <future>
#include <taskmux/json.hpp>
#include <taskmux/taskmux.hpp>
#include <utility>

struct Greeting {
  int times = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Greeting, times)

// As core.cpp, with a typed payload.
int main() {
  std::promise<int> handled;
  taskmux::ServeMux mux;
  taskmux::handle_json<Greeting>(mux, "greet",
                                 [&handled](taskmux::Context&, const Greeting& greeting) {
                                   handled.set_value(greeting.times);
                                 });

  taskmux::MemoryBroker broker;
  taskmux::Server server{broker, std::move(mux), {.concurrency = 1}};
  server.start();
  taskmux::Client client{broker};
  taskmux::enqueue_json(client, "greet", Greeting{.times = 3});

  std::future<int> times = handled.get_future();
  const bool done = times.wait_for(std::chrono::minutes{1}) == std::future_status::ready;
  server.shutdown();
  if (!done || times.get() != 3) {
    std::fputs("the task was not done\n", stderr);
    return 1;
  }
  std::puts("done");
  return 0;
}
