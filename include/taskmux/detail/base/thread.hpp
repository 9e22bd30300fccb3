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

/// Returns the signals that the calling thread blocks.
inline sigset_t signal_mask() noexcept {
  sigset_t mask;
  sigemptyset(&mask);
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return mask;
}

/// Returns every asynchronous signal: for the library's own threads, so that the application's
/// signal handlers run on the application's threads.
inline sigset_t all_signals() noexcept {
  sigset_t all;
  sigfillset(&all);
  for (const int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
    sigdelset(&all, synchronous);
  return all;
}

/// Starts a thread named `name` (at most 15 characters) that blocks the signals `mask`. `on_start`,
/// if any, runs first on it; its exceptions are ignored. `body` must not throw. Throws
/// std::system_error if no thread can be started.
///
/// A thread that runs application code has the mask of the thread that started the server:
/// processes that are spawned there inherit it, and a process that blocks all signals could not be
/// ended by SIGTERM. All other threads block all_signals().
inline std::thread start_thread(const std::string& name, const sigset_t& mask,
                                std::function<void()> on_start, std::function<void()> body) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  // The new thread inherits the mask; the calling thread's own mask is restored in any case.
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
        // A hook of the application must not end a worker, and there is nowhere to report its
        // exception.
      }
    }
    body();
  }};
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
