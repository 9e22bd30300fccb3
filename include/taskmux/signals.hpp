#pragma once

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <chrono>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>

#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// Waits for the signals that ask a process to end, for a program that has no other signal
/// handling. A server never handles signals; a program can shut one down as follows:
///
///     int main() {
///       taskmux::SignalWaiter signals;  // Before anything that starts a thread.
///       ...
///       server.start();
///       signals.wait();
///       server.shutdown();
///     }
///
/// The constructor blocks the signals for the calling thread. A wait accepts them on the thread
/// that waits, which, unlike a signal handler, may call any function. No handler is installed.
///
/// Make it in main(), before any other thread is started: a thread inherits the mask of the thread
/// that starts it. The system delivers a signal to any thread that does not block it. A thread that
/// was started earlier does not block it, so the signal takes its default action there: it ends the
/// process. (A server's threads that run handlers and hooks have the mask of the thread that
/// started the server; all its other threads block all such signals.) A program that is started by
/// fork() and exec(), for example from a handler, inherits the mask, too, and may have to unblock
/// the signals.
///
/// A signal that arrives while nobody waits is kept for the next wait; a signal that arrives
/// several times is kept once. So the program decides what a second SIGTERM does during the
/// shutdown. It may wait for it on another thread, to exit at once; or destroy this object before
/// the shutdown, so that the next signal takes its default action; or do nothing. In the last case,
/// the signal takes its default action when this object is destroyed.
///
/// The waits are thread-safe, on the thread that made this object and on threads that it started
/// afterwards. Each signal ends one wait. To end a wait from another thread, send a signal to the
/// process: `kill(getpid(), SIGTERM)`.
class SignalWaiter {
 public:
  /// Blocks `signals`, which must be asynchronous ones. Throws std::invalid_argument for an empty
  /// list, for a number that is not a signal, and for SIGKILL and SIGSTOP, which can't be waited
  /// for.
  explicit SignalWaiter(std::initializer_list<int> signals = {SIGINT, SIGTERM}) {
    if (signals.size() == 0) throw std::invalid_argument{"SignalWaiter: no signals"};
    sigemptyset(&signals_);
    for (const int signal : signals) {
      if (signal == SIGKILL || signal == SIGSTOP || sigaddset(&signals_, signal) != 0) {
        throw std::invalid_argument{"SignalWaiter: can't wait for signal " +
                                    std::to_string(signal)};
      }
    }
    const int error = pthread_sigmask(SIG_BLOCK, &signals_, &before_);
    if (error != 0) throw std::system_error{error, std::generic_category(), "pthread_sigmask"};
  }

  /// Restores the signal mask; must be called on the thread that made this object. A pending signal
  /// that no wait has accepted then takes its usual action.
  ~SignalWaiter() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalWaiter(const SignalWaiter&) = delete;
  SignalWaiter& operator=(const SignalWaiter&) = delete;

  /// Waits for one of the signals, accepts it, and returns its number. The program's handlers for
  /// other signals may run in the meantime.
  int wait() const {
    for (;;) {
      const int signal = sigwaitinfo(&signals_, nullptr);
      if (signal > 0) return signal;
      throw_unless_interrupted("sigwaitinfo");
    }
  }

  /// As wait(), for up to `duration` on the machine's steady clock; returns nullopt if no signal
  /// arrived. With 0 or less, it accepts a pending signal and does not wait.
  std::optional<int> wait_for(Duration duration) const {
    const auto began = std::chrono::steady_clock::now();
    auto elapsed = Duration::zero();
    for (;;) {
      const timespec limit =
          to_timespec(duration > elapsed ? duration - elapsed : Duration::zero());
      const int signal = sigtimedwait(&signals_, nullptr, &limit);
      if (signal > 0) return signal;
      if (errno == EAGAIN) return std::nullopt;
      throw_unless_interrupted("sigtimedwait");
      elapsed = std::chrono::floor<Duration>(std::chrono::steady_clock::now() - began);
    }
  }

 private:
  /// EINTR means that a signal handler of the program ran on this thread.
  static void throw_unless_interrupted(const char* operation) {
    if (errno != EINTR) throw std::system_error{errno, std::generic_category(), operation};
  }

  static timespec to_timespec(Duration duration) {
    const auto whole = std::chrono::floor<std::chrono::seconds>(duration);
    const std::chrono::nanoseconds rest = duration - whole;
    timespec spec{};
    spec.tv_sec = whole.count();
    spec.tv_nsec = rest.count();
    return spec;
  }

  sigset_t signals_;
  sigset_t before_;
};

}  // namespace v0
}  // namespace taskmux
