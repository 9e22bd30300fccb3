#pragma once

#include <pthread.h>
#include <signal.h>

#include <functional>
#include <string>
#include <thread>
#include <utility>

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Starts a thread named `name` (15 characters at most) on which every asynchronous signal is
/// blocked, so that the host's handlers run on the host's threads. `on_start`, if any, runs first
/// on it; what it throws is swallowed. `body` must not throw. Throws std::system_error if there can
/// be no further thread.
inline std::thread start_thread(const std::string& name, std::function<void()> on_start,
                                std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  for (const int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
    sigdelset(&all, synchronous);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  // The mask is inherited; it is put back on this thread whatever happens.
  struct Restore {
    const sigset_t& mask;
    ~Restore() { pthread_sigmask(SIG_SETMASK, &mask, nullptr); }
  } restore{before};
  return std::thread{[name, on_start = std::move(on_start), body = std::move(body)] {
    pthread_setname_np(pthread_self(), name.c_str());
    if (on_start) {
      try {
        on_start();
      } catch (...) {
        // A hook of the host's must not end a worker; it has nowhere else to report to from here.
      }
    }
    body();
  }};
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
