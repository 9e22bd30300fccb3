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

/// Waits for the signals that ask a process to end, for a host that has no way of its own. A server
/// never looks at signals; this is how a host ends one with them:
///
///     int main() {
///       taskmux::SignalWaiter signals;  // Before anything that starts a thread.
///       ...
///       server.start();
///       signals.wait();
///       server.shutdown();
///     }
///
/// It blocks the signals for the calling thread, and takes them when a wait asks for them, on a
/// thread that, unlike a signal handler, may call anything. It installs no handler.
///
/// Make it in main(), before any other thread: a thread inherits the mask of the one that starts
/// it. The system hands a signal to any thread that does not block it, and one that was started
/// earlier does not: there the signal does what it does by default, which is to end the process.
/// (Of a server's threads, those that run handlers and hooks have the mask of the thread that
/// started the server; all others block all such signals.) A program started by fork() and exec(),
/// also one that a handler starts, inherits the mask as well, and may have to unblock them for
/// itself.
///
/// What comes while nobody waits is kept for the next wait; of one signal that came several times,
/// one is kept. So a second SIGTERM during the shutdown is the host's to handle: it may wait for it
/// on a further thread, to end at once; or destroy this before the shutdown, so that the next
/// signal does what it does by default; or do nothing. In the last case the destructor lets it
/// loose.
///
/// The waits are thread-safe, on the thread that made this and on those that it started since; each
/// signal ends one wait. Another thread that is to end a wait sends the process a signal: `kill(
/// getpid(), SIGTERM)`.
class SignalWaiter {
 public:
  /// Blocks `signals`, which are asynchronous ones. Throws std::invalid_argument for none, for a
  /// number that is no signal, and for SIGKILL and SIGSTOP, which nobody can wait for.
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

  /// Gives the thread the mask that it had; so it must be the thread that made this. A signal that
  /// came and that nobody waited for does then what it would have done without this.
  ~SignalWaiter() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalWaiter(const SignalWaiter&) = delete;
  SignalWaiter& operator=(const SignalWaiter&) = delete;

  /// Waits for one of the signals, takes it, and returns its number. Handlers of the host for other
  /// signals may run meanwhile.
  int wait() const {
    for (;;) {
      const int signal = sigwaitinfo(&signals_, nullptr);
      if (signal > 0) return signal;
      throw_unless_interrupted("sigwaitinfo");
    }
  }

  /// As wait(), for up to `duration` of the machine's steady clock; none if no signal came. With 0
  /// (or less) it takes what has come, and does not wait.
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
  /// EINTR says that a handler of the host ran on this thread.
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
