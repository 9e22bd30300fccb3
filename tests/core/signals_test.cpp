#include "taskmux/signals.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <functional>
#include <future>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>

#include "support/eventually.hpp"
#include "support/test.hpp"
#include "taskmux/taskmux.hpp"

using namespace std::chrono_literals;
using namespace taskmux;
using taskmux::test::eventually;

static_assert(!std::is_copy_constructible_v<SignalWaiter>);
static_assert(!std::is_move_constructible_v<SignalWaiter>);

namespace {

bool blocked(int signal) {
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return sigismember(&mask, signal) == 1;
}

void send_to_process(int signal) { REQUIRE(kill(getpid(), signal) == 0); }

/// Returns whether the thread is waiting for `signal`, according to the kernel: the signal is
/// unblocked during the call.
bool waits_for(int signal, pid_t thread) {
  std::ifstream status{"/proc/self/task/" + std::to_string(thread) + "/status"};
  for (std::string name; status >> name; status.ignore(1000, '\n')) {
    if (name != "SigBlk:") continue;
    std::uint64_t mask = ~std::uint64_t{0};
    status >> std::hex >> mask;
    return (mask >> (signal - 1) & 1) == 0;
  }
  return false;
}

/// A thread that waits for a signal; the constructor returns once it waits.
class WaitingThread {
 public:
  WaitingThread(int signal, std::function<std::optional<int>()> wait)
      : thread_{[this, wait = std::move(wait)] {
          id_ = static_cast<pid_t>(syscall(SYS_gettid));
          came_.set_value(wait());
        }} {
    REQUIRE(eventually([&] { return id_ != 0 && waits_for(signal, id_); }));
  }

  pthread_t handle() { return thread_.native_handle(); }

  /// Returns the signal that ended the wait.
  std::optional<int> came() { return came_.get_future().get(); }

 private:
  std::atomic<pid_t> id_{0};
  std::promise<std::optional<int>> came_;
  std::jthread thread_;
};

std::atomic<int> handled{0};

/// A signal handler of the application, for SIGUSR1.
class CountingHandler {
 public:
  CountingHandler() {
    handled = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { ++handled; };
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR1, &action, &before_);
  }
  ~CountingHandler() { sigaction(SIGUSR1, &before_, nullptr); }

 private:
  struct sigaction before_ {};
};

}  // namespace

TEST_CASE("a signal before the wait ends it at once", "[signals]") {
  SignalWaiter signals;
  SECTION("sent to the process") {
    const int signal = GENERATE(SIGINT, SIGTERM);
    send_to_process(signal);
    CHECK(signals.wait() == signal);
  }
  SECTION("sent to the thread") {
    pthread_kill(pthread_self(), SIGTERM);
    CHECK(signals.wait() == SIGTERM);
  }
  SECTION("one wait for each signal") {
    send_to_process(SIGTERM);
    send_to_process(SIGINT);
    CHECK(signals.wait() + signals.wait() == SIGTERM + SIGINT);
  }
  CHECK(signals.wait_for(0s) == std::nullopt);
}

TEST_CASE("a signal during the wait ends it", "[signals]") {
  SignalWaiter signals;
  const bool with_limit = GENERATE(false, true);
  WaitingThread thread{SIGTERM, [&]() -> std::optional<int> {
                         if (with_limit) return signals.wait_for(1h);
                         return signals.wait();
                       }};
  SECTION("sent to the process") { send_to_process(SIGTERM); }
  SECTION("sent to the thread") { pthread_kill(thread.handle(), SIGTERM); }
  CHECK(thread.came() == SIGTERM);
}

TEST_CASE("a signal handler of the application does not end a wait", "[signals]") {
  CountingHandler handler;
  SignalWaiter signals;
  const bool with_limit = GENERATE(false, true);
  WaitingThread thread{SIGTERM, [&]() -> std::optional<int> {
                         if (with_limit) return signals.wait_for(1h);
                         return signals.wait();
                       }};
  pthread_kill(thread.handle(), SIGUSR1);
  REQUIRE(eventually([] { return handled == 1; }));
  send_to_process(SIGTERM);
  CHECK(thread.came() == SIGTERM);
}

TEST_CASE("a wait with a limit ends without a signal", "[signals]") {
  SignalWaiter signals;
  const auto began = std::chrono::steady_clock::now();
  CHECK(signals.wait_for(2ms) == std::nullopt);
  CHECK(std::chrono::steady_clock::now() - began >= 2ms);
  CHECK(signals.wait_for(Duration::min()) == std::nullopt);
}

TEST_CASE("the longest possible wait does not end at once", "[signals]") {
  SignalWaiter signals;
  WaitingThread thread{SIGTERM, [&] { return signals.wait_for(Duration::max()); }};
  send_to_process(SIGTERM);
  CHECK(thread.came() == SIGTERM);
}

TEST_CASE("only the given signals are waited for", "[signals]") {
  SignalWaiter signals{SIGHUP, SIGUSR2};
  CHECK(blocked(SIGHUP));
  CHECK(blocked(SIGUSR2));
  CHECK_FALSE(blocked(SIGTERM));
  CHECK_FALSE(blocked(SIGINT));
  send_to_process(SIGUSR2);
  CHECK(signals.wait() == SIGUSR2);
}

TEST_CASE("invalid signals are refused, and nothing is blocked then", "[signals]") {
  CHECK_THROWS_AS(SignalWaiter(std::initializer_list<int>{}), std::invalid_argument);
  const int wrong = GENERATE(SIGKILL, SIGSTOP, 0, -1, 1000);
  CHECK_THROWS_AS((SignalWaiter{SIGTERM, wrong}), std::invalid_argument);
  CHECK_FALSE(blocked(SIGTERM));
}

TEST_CASE("the destructor restores the signal mask", "[signals]") {
  sigset_t interrupt;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &interrupt, &before);
  {
    SignalWaiter signals;
    CHECK(blocked(SIGTERM));
    CHECK(blocked(SIGINT));
  }
  CHECK_FALSE(blocked(SIGTERM));
  CHECK(blocked(SIGINT));  // As before.
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

TEST_CASE("a signal that nobody waited for is delivered by the destructor", "[signals]") {
  CountingHandler handler;
  {
    SignalWaiter signals{SIGUSR1};
    send_to_process(SIGUSR1);
    CHECK(handled == 0);
  }
  CHECK(eventually([] { return handled == 1; }));
}

TEST_CASE("threads that are started afterwards block the signals, too", "[signals]") {
  SignalWaiter signals;
  bool inherited = false;
  std::thread{[&] { inherited = blocked(SIGTERM) && blocked(SIGINT); }}.join();
  CHECK(inherited);
}

TEST_CASE("a server works while the application waits for a signal, and afterwards", "[signals]") {
  MemoryBroker broker;
  Client client{broker};
  std::atomic<int> done{0};
  ServeMux mux;
  mux.handle("signal", [](Context&, const Task&) { kill(getpid(), SIGTERM); });
  mux.handle("work", [&](Context&, const Task&) { ++done; });
  Server server{broker, std::move(mux), {.concurrency = 2}};

  const bool started_first = GENERATE(false, true);
  if (started_first) server.start();  // Its threads block signals themselves.
  SignalWaiter signals;
  if (!started_first) server.start();
  client.enqueue({.type = "signal"});
  CHECK(signals.wait() == SIGTERM);
  client.enqueue({.type = "work"});
  CHECK(eventually([&] { return done == 1; }));
  server.shutdown();
  CHECK(server.stats().succeeded == 2);
}
