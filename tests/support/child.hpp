#pragma once

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <stdexcept>
#include <thread>

namespace taskmux::test {

/// Waits for the child process `pid` to end; returns its status as reported by waitpid(). A child
/// that does not end within `limit` is killed, and has the status of a killed process.
inline int end_of(pid_t pid, std::chrono::seconds limit = std::chrono::seconds{30}) {
  const auto give_up = std::chrono::steady_clock::now() + limit;
  for (;;) {
    int status = 0;
    const pid_t ended = ::waitpid(pid, &status, WNOHANG);
    if (ended == pid) return status;
    if (ended < 0) throw std::runtime_error{"no such child process"};
    if (std::chrono::steady_clock::now() > give_up) ::kill(pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::microseconds{200});
  }
}

/// Returns whether it exited normally with `code`.
inline bool exited_with(int status, int code) {
  return WIFEXITED(status) && WEXITSTATUS(status) == code;
}

}  // namespace taskmux::test
