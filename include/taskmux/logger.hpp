#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace taskmux {
inline namespace v0 {

/// How serious a log line is, from the least to the most.
enum class LogLevel { debug, info, warning, error };

/// The level's name, such as "warning".
constexpr std::string_view to_string(LogLevel level) noexcept {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warning";
    case LogLevel::error: return "error";
  }
  return "unknown";
}

/// One entry of the log, with its fields. The views last for the call. A field that does not apply
/// is empty.
struct LogRecord {
  LogLevel level = LogLevel::info;
  std::string_view text{};     ///< What happened, without the fields below. May have several lines.
  std::string_view server{};   ///< The id of the server that it is about.
  std::string_view task_id{};  ///< Of the task that it is about, as the next two.
  std::string_view task_type{};
  std::string_view queue{};
};

/// `record` in one line, fields first, as a Logger::Sink gets it:
/// `task 42 ("email:welcome", queue "default"): archived: no such user`.
std::string to_line(const LogRecord& record);

/// Where log entries go: a level, and a function that takes what is at that level or above.
/// Thread-safe if the function is. What the function throws is swallowed: a log line must not end a
/// worker.
///
/// A logger that nobody chose (`Logger{}`) writes warnings and errors to standard error, each as one
/// line with its time (UTC) and level, and nothing else: a service that fails must not be silent. A
/// server whose logger nobody chose uses its broker's. Logger::none() is silent.
class Logger {
 public:
  /// Takes a level and one line of text.
  using Sink = std::function<void(LogLevel, std::string_view)>;
  /// Takes the entry with its fields, for a structured log.
  using RecordSink = std::function<void(const LogRecord&)>;

  Logger() = default;
  /// An empty function is the same as none(), and so are `nullptr` and `{}`.
  Logger(LogLevel least, Sink sink);
  Logger(LogLevel least, std::nullptr_t) : Logger{least, RecordSink{}} {}
  Logger(LogLevel least, RecordSink sink)
      : least_{least},
        kind_{sink ? Kind::function : Kind::none},
        chosen_{true},
        sink_{std::move(sink)} {}

  /// Writes nothing.
  static Logger none() { return {LogLevel::error, RecordSink{}}; }

  /// Writes lines from `least` on to standard error, as the default does with warnings and errors.
  /// Does not wait: where standard error is a pipe, a socket or a terminal that takes no more at the
  /// moment, the line, or the rest of a long one, is dropped and counted, and the next line that is
  /// taken comes after one that says how many were dropped. (Only where several write to one pipe, at
  /// the instant when it becomes full, can one of them wait until it is read.) Where nobody reads any
  /// more, the same holds, and no SIGPIPE is raised. A file is written to as usual.
  static Logger to_stderr(LogLevel least = LogLevel::warning) {
    Logger logger;
    logger.least_ = least;
    logger.chosen_ = true;
    return logger;
  }

  /// How many lines of this process standard error did not take, in whole or in part.
  static std::uint64_t dropped_lines() noexcept;

  /// Whether somebody chose it: false for `Logger{}` alone.
  bool is_chosen() const noexcept { return chosen_; }

  /// Whether an entry of this level would go anywhere; to save the making of it.
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
