#pragma once

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <ctime>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// While one lives, a write of this thread to a pipe that nobody reads raises no SIGPIPE.
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
    // One that was there before is not ours to take.
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

/// Writes `line` with the time and the level; in one call of write(), so that lines of several
/// threads do not mix. What standard error does not take is dropped.
inline void write_to_stderr(LogLevel level, std::string_view line) {
  timespec now{};
  tm utc{};
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  char time[32];
  const std::size_t length = std::strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S", &utc);
  const std::string milliseconds = std::to_string(1000 + now.tv_nsec / 1'000'000);

  std::string text{time, length};
  text.append(".").append(milliseconds, 1).append("Z ");
  text.append(to_string(level)).append(" taskmux: ").append(line).append("\n");
  const NoSigpipe guard;
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return;
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
}

inline std::string in_words(const TaskMessage& message) {
  return task_in_words(message.id, message.task.type, message.queue);
}

/// An entry about a task.
inline LogRecord about(const TaskMessage& message, LogLevel level, std::string_view text) noexcept {
  return {.level = level,
          .text = text,
          .task_id = message.id,
          .task_type = message.task.type,
          .queue = message.queue};
}

/// An entry about a queue.
inline LogRecord about_queue(std::string_view queue, LogLevel level,
                             std::string_view text) noexcept {
  return {.level = level, .text = text, .queue = queue};
}

/// Logs the exception that is being handled as `what` and its text; `what` alone if memory is short.
inline void log_exception(const Logger& logger, std::string_view what) noexcept {
  try {
    std::string text{what};
    text += ": ";
    try {
      throw;
    } catch (const std::exception& e) {
      text += text_of_exception(e);
    } catch (...) {
      text += text_of_exception();
    }
    logger(LogLevel::error, text);
  } catch (...) {
    logger(LogLevel::error, what);
  }
}

}  // namespace detail

inline std::string to_line(const LogRecord& record) {
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

inline Logger::Logger(LogLevel least, Sink sink)
    : Logger{least, sink ? RecordSink{[lines = std::move(sink)](const LogRecord& record) {
               lines(record.level, to_line(record));
             }}
                         : RecordSink{}} {}

inline void Logger::operator()(const LogRecord& record) const noexcept {
  if (!enabled(record.level)) return;
  try {
    if (kind_ == Kind::function) {
      sink_(record);
    } else {
      detail::write_to_stderr(record.level, to_line(record));
    }
  } catch (...) {
    // There is nothing left to which this could be logged.
  }
}

}  // namespace v0
}  // namespace taskmux
