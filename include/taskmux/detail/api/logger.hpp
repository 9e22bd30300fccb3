#pragma once

#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// While an object of this class lives, a write of this thread to a pipe without a reader raises no
/// SIGPIPE.
class NoSigpipe {
 public:
  NoSigpipe() noexcept {
    sigset_t pending;
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~NoSigpipe() {
    const int error = errno;
    const timespec at_once{};
    // A signal that was pending before must not be consumed.
    while (!was_pending_ && sigtimedwait(&pipe_, nullptr, &at_once) == -1 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;

 private:
  sigset_t pipe_;
  sigset_t before_;
  bool was_pending_ = false;
};

/// Counters of the lines that standard error did not accept.
struct DroppedLines {
  std::atomic<std::uint64_t> all{0};
  std::atomic<std::uint64_t> untold{0};  ///< Those that no later line has reported.
};
inline DroppedLines dropped_lines;

/// Writes as much of `text` as standard error accepts without waiting; returns -1 and sets errno if
/// that fails. Does not change its flags, which other processes may share.
inline ssize_t write_some(std::string_view text) noexcept {
  const ssize_t sent = ::send(STDERR_FILENO, text.data(), text.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent >= 0 || errno != ENOTSOCK) return sent;
  pollfd standard_error{.fd = STDERR_FILENO, .events = POLLOUT, .revents = 0};
  const int ready = ::poll(&standard_error, 1, 0);
  if (ready == 0) errno = EAGAIN;
  if (ready <= 0) return -1;
  // A pipe that is ready accepts at least this much.
  struct stat status {};
  const bool pipe = ::fstat(STDERR_FILENO, &status) == 0 && !S_ISREG(status.st_mode);
  return ::write(STDERR_FILENO, text.data(),
                 pipe ? std::min<std::size_t>(text.size(), PIPE_BUF) : text.size());
}

/// Returns false if not all of `text` was written.
inline bool write_now(std::string_view text) noexcept {
  const NoSigpipe guard;
  while (!text.empty()) {
    const ssize_t written = write_some(text);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

/// Writes `line` with the time and the level. Uses one call of write() unless the line is longer
/// than a pipe accepts at once, so that lines of several threads do not mix. The part that standard
/// error does not accept at once is dropped.
inline void write_to_stderr(LogLevel level, std::string_view line) {
  timespec now{};
  tm utc{};
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  char time[32];
  const std::size_t length = std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &utc);
  const std::string milliseconds = std::to_string(1000 + now.tv_nsec / 1'000'000);

  std::string head{time, length};
  head.append(".").append(milliseconds, 1).append("Z ");
  std::string text;
  const std::uint64_t untold = dropped_lines.untold.exchange(0);
  if (untold > 0) {
    text.append(head).append(to_string(LogLevel::warning)).append(" taskmux: ");
    text.append(std::to_string(untold));
    text.append(untold == 1 ? " log line was" : " log lines were");
    text.append(" dropped before this, since standard error took no more\n");
  }
  text.append(head).append(to_string(level)).append(" taskmux: ").append(line).append("\n");
  if (write_now(text)) return;
  dropped_lines.all.fetch_add(1);
  dropped_lines.untold.fetch_add(untold + 1);
}

}  // namespace detail

TASKMUX_INLINE std::string to_line(const LogRecord& record) {
  std::string line;
  if (!record.server.empty()) line.append("server ").append(record.server).append(": ");
  if (!record.task_id.empty()) {
    line += detail::task_in_words(record.task_id, record.task_type, record.queue) + ": ";
  } else if (!record.queue.empty()) {
    line += "queue " + detail::in_quotes(record.queue) + ": ";
  }
  line += record.text;
  return detail::in_one_line(line);
}

TASKMUX_INLINE Logger::Logger(LogLevel least, Sink sink)
    : Logger{least, sink ? RecordSink{[lines = std::move(sink)](const LogRecord& record) {
               lines(record.level, to_line(record));
             }}
                         : RecordSink{}} {}

TASKMUX_INLINE std::uint64_t Logger::dropped_lines() noexcept { return detail::dropped_lines.all.load(); }

TASKMUX_INLINE void Logger::operator()(const LogRecord& record) const noexcept {
  if (!enabled(record.level)) return;
  try {
    if (kind_ == Kind::function) {
      sink_(record);
    } else {
      detail::write_to_stderr(record.level, to_line(record));
    }
  } catch (...) {
    // This failure can't be logged anywhere.
  }
}

}  // namespace v0
}  // namespace taskmux
