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

/// The signals that a thread blocks.
inline sigset_t signal_mask() noexcept {
  sigset_t mask;
  sigemptyset(&mask);
  pthread_sigmask(SIG_SETMASK, nullptr, &mask);
  return mask;
}

/// Every asynchronous signal: for a thread of the library's own, so that the host's handlers run on
/// the host's threads.
inline sigset_t all_signals() noexcept {
  sigset_t all;
  sigfillset(&all);
  for (const int synchronous : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS})
    sigdelset(&all, synchronous);
  return all;
}

/// Starts a thread named `name` (15 characters at most) that blocks the signals `mask`. `on_start`,
/// if any, runs first on it; what it throws is swallowed. `body` must not throw. Throws
/// std::system_error if there can be no further thread.
///
/// A thread that runs code of the application has the mask that the host had when it started the
/// server: processes that are spawned there inherit it, and one that blocks all signals could not
/// be ended by SIGTERM. All others block all_signals().
inline std::thread start_thread(const std::string& name, const sigset_t& mask,
                                std::function<void()> on_start, std::function<void()> body) {
  sigset_t before;
  pthread_sigmask(SIG_SETMASK, &mask, &before);
  // The mask is inherited; it is restored on this thread in any case.
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
