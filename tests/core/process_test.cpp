// A server and its process: children by fork() and exec(), and the end of the process.

#include <signal.h>
#include <spawn.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "support/builders.hpp"
#include "support/child.hpp"
#include "support/eventually.hpp"
#include "support/limited_broker.hpp"
#include "support/test.hpp"
#include "taskmux/client.hpp"
#include "taskmux/inspector.hpp"
#include "taskmux/memory/memory_broker.hpp"
#include "taskmux/server.hpp"

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

// A child process must not touch the parent's memory, so leaks in it do not count.
extern "C" int __lsan_is_turned_off();
extern "C" int __lsan_is_turned_off() { return 1; }

extern char** environ;

namespace {

ServerConfig quiet(std::size_t concurrency = 2) {
  return {.concurrency = concurrency, .logger = Logger::none()};
}

/// Starts a program that waits for a signal. It inherits the signal mask of this thread.
pid_t spawn_sleeper() {
  std::string name = "sleep";
  std::string duration = "600";
  char* arguments[] = {name.data(), duration.data(), nullptr};
  pid_t pid = -1;
  if (::posix_spawnp(&pid, "sleep", nullptr, nullptr, arguments, environ) != 0) return -1;
  return pid;
}

/// Enqueues continuously on its own threads.
class Enqueueing {
 public:
  explicit Enqueueing(Client& client) {
    for (int i = 0; i < 2; ++i) {
      threads_.emplace_back([this, &client] {
        while (!stop_) client.enqueue({.type = "t", .payload = "payload"});
      });
    }
  }
  ~Enqueueing() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace

TEST_CASE("a process that a handler or a hook spawns can be terminated by SIGTERM", "[process]") {
  MemoryBroker broker;
  ServeMux mux;
  std::atomic<pid_t> by_handler{0};
  std::atomic<pid_t> by_hook{0};
  mux.handle("t", [&](Context&, const Task&) { by_handler = spawn_sleeper(); });
  ServerConfig config = quiet();
  config.hooks.on_state_change = [&](const TaskEvent& event) {
    if (event.change == TaskEvent::Change::succeeded) by_hook = spawn_sleeper();
  };
  Server server{broker, std::move(mux), config};
  server.start();
  Client{broker}.enqueue({.type = "t"});
  REQUIRE(eventually([&] { return by_hook != 0; }));
  for (const pid_t child : {by_handler.load(), by_hook.load()}) {
    REQUIRE(child > 0);
    ::kill(child, SIGTERM);
    const int status = end_of(child);
    CHECK(WIFSIGNALED(status));
    CHECK(WTERMSIG(status) == SIGTERM);
  }
}

TEST_CASE("a thread that replaces an abandoned one blocks the same signals", "[process]") {
  MemoryBroker broker;
  ServeMux mux;
  const auto go = std::make_shared<std::atomic<bool>>(false);
  std::atomic<int> blocked{-1};
  mux.handle("hang", [go](Context&, const Task&) { go->wait(false); });
  mux.handle("look", [&](Context&, const Task&) {
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    blocked = sigismember(&mask, SIGTERM);
  });
  ServerConfig config = quiet(1);
  config.abandon_after = 0s;
  config.max_abandoned = 2;
  Server server{broker, std::move(mux), config};
  server.start();
  Client client{broker};
  client.enqueue({.type = "hang"},
                 {.max_retry = 0, .deadline = std::chrono::system_clock::now() + 1ms});
  client.enqueue({.type = "look"});
  REQUIRE(eventually([&] { return blocked != -1; }));
  CHECK(blocked == 0);
  *go = true;
  go->notify_all();
  CHECK(eventually([&] { return server.stats().abandoned == 0; }));
}

TEST_CASE("in a child of a busy process, all calls are refused, and it exits at once",
          "[process]") {
  auto broker = std::make_unique<MemoryBroker>();
  auto client = std::make_unique<Client>(*broker);
  Inspector inspector{*broker};
  ServeMux mux;
  mux.handle("t", [](Context&, const Task&) {});
  auto server = std::make_unique<Server>(*broker, std::move(mux), quiet());
  server->start();
  for (int round = 0; round < 200; ++round) {
    const Enqueueing busy{*client};
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const bool refused = error_of([&] { client->enqueue({.type = "t"}); }) == Errc::forked &&
                           error_of([&] { inspector.queue_info("default"); }) == Errc::forked &&
                           error_of([&] { broker->exchange({}); }) == Errc::forked &&
                           error_of([&] { static_cast<void>(server->stats()); }) == Errc::forked &&
                           error_of([&] { server->shutdown(); }) == Errc::forked &&
                           !server->health().healthy;
      server->stop();
      // As at exit, if they had static storage duration.
      server.reset();
      client.reset();
      broker.reset();
      ::_exit(refused ? 7 : 1);
    }
    REQUIRE(exited_with(end_of(child), 7));
  }
}

TEST_CASE("std::exit in a handler or hook ends the process with that code", "[process]") {
  const bool in_hook = GENERATE(false, true);
  CAPTURE(in_hook);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    static MemoryBroker broker;
    ServeMux mux;
    mux.handle("t", [in_hook](Context&, const Task&) {
      if (!in_hook) std::exit(7);
    });
    mux.handle("busy", [](Context& context, const Task&) { context.wait_for(1h); });
    ServerConfig config = quiet(3);
    config.hooks.on_state_change = [in_hook](const TaskEvent& event) {
      if (in_hook && event.task->task.type == "t") std::exit(7);
    };
    static Server server{broker, std::move(mux), config};
    server.start();
    Client client{broker};
    client.enqueue({.type = "busy"});
    client.enqueue({.type = "t"});
    for (;;) ::pause();
  }
  CHECK(exited_with(end_of(child), 7));
}

TEST_CASE("std::exit in a handler does not wait for a broker that does not answer", "[process]") {
  const auto start = std::chrono::steady_clock::now();
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    static MemoryBroker memory;
    static LimitedBroker broker{memory};
    ServeMux mux;
    mux.handle("t", [](Context&, const Task&) {
      broker.hang();
      if (eventually([] { return broker.hanging() > 0; })) std::exit(7);
      ::_exit(1);
    });
    ServerConfig config = quiet();
    config.upkeep_interval = 1ms;
    static Server server{broker, std::move(mux), config};
    server.start();
    Client{broker}.enqueue({.type = "t"});
    for (;;) ::pause();
  }
  CHECK(exited_with(end_of(child), 7));
  CHECK(std::chrono::steady_clock::now() - start < 10s);
}
