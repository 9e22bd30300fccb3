#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace taskmux {
inline namespace v0 {

/// The severity of a log entry, in ascending order.
enum class LogLevel { debug, info, warning, error };

/// Returns the level's name, such as "warning".
constexpr std::string_view to_string(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warning";
    case LogLevel::error: return "error";
  }
  return "unknown";
}

/// One log entry, with its fields. The views are valid during the call. A field that does not apply
/// is empty.
struct LogRecord {
  LogLevel level = LogLevel::info;
  std::string_view text{};     ///< What happened, without the fields below. May have several lines.
  std::string_view server{};   ///< The id of the server that the entry is about.
  std::string_view task_id{};  ///< The task that the entry is about; so are type and queue.
  std::string_view task_type{};
  std::string_view queue{};
};

/// Returns `record` as one line, fields first, as a Logger::Sink receives it:
/// `task 42 ("email:welcome", queue "default"): archived: no such user`.
std::string to_line(const LogRecord& record);

/// The destination of log entries: a level, and a function that receives the entries at that level
/// or above. Thread-safe if the function is. Exceptions from the function are ignored: a log line
/// must not end a worker.
///
/// A default-constructed logger writes only warnings and errors, to standard error, each as one
/// line with its time (UTC) and level: a service that fails must not be silent. A server with a
/// default-constructed logger uses its broker's. Logger::none() is silent.
class Logger {
 public:
  /// Receives a level and one line of text.
  using Sink = std::function<void(LogLevel, std::string_view)>;
  /// Receives the entry with its fields, for structured logging.
  using RecordSink = std::function<void(const LogRecord&)>;

  Logger() = default;
  /// An empty function, `nullptr` and `{}` all mean the same as none().
  Logger(LogLevel least, Sink sink);
  Logger(LogLevel least, std::nullptr_t) : Logger{least, RecordSink{}} {}
  Logger(LogLevel least, RecordSink sink)
      : least_{least},
        kind_{sink ? Kind::function : Kind::none},
        chosen_{true},
        sink_{std::move(sink)} {}

  /// Writes nothing.
  static Logger none() { return {LogLevel::error, RecordSink{}}; }

  /// Writes entries at `least` or above to standard error, in the format of the default logger.
  /// Does not block: if standard error is a pipe, a socket or a terminal that is full at the
  /// moment, the line, or the rest of a long line, is dropped and counted; the next line that is
  /// written is preceded by one that reports how many were dropped. (If several processes write to
  /// one pipe, a write may still block at the instant at which the pipe becomes full.) A pipe
  /// without a reader is treated in the same way, and no SIGPIPE is raised. A regular file is
  /// written to as usual.
  static Logger to_stderr(LogLevel least = LogLevel::warning) {
    Logger logger;
    logger.least_ = least;
    logger.chosen_ = true;
    return logger;
  }

  /// Returns how many lines of this process were dropped, in whole or in part, by standard error.
  static std::uint64_t dropped_lines() noexcept;

  /// Returns whether it was chosen explicitly: false only for a default-constructed logger.
  bool is_chosen() const noexcept { return chosen_; }

  /// Returns whether an entry of this level would be written, so that a caller need not format it.
  bool enabled(LogLevel level) const noexcept { return level >= least_ && kind_ != Kind::none; }

  void operator()(LogLevel level, std::string_view text) const noexcept {
    (*this)({.level = level, .text = text});
  }
  void operator()(const LogRecord& record) const noexcept;

 private:
  enum class Kind : unsigned char { standard_error, function, none };

  LogLevel least_ = LogLevel::warning;
  Kind kind_ = Kind::standard_error;
  bool chosen_ = false;
  RecordSink sink_;
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/api/logger.hpp"
#endif
