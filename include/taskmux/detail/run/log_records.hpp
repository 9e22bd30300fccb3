#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/logger.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

inline std::string in_words(const TaskMessage& message) {
  return task_in_words(message.id, message.task.type, message.queue);
}

/// Returns a log entry about a task.
inline LogRecord about(const TaskMessage& message, LogLevel level, std::string_view text) noexcept {
  return {.level = level,
          .text = text,
          .task_id = message.id,
          .task_type = message.task.type,
          .queue = message.queue};
}

/// Returns a log entry about a queue.
inline LogRecord about_queue(std::string_view queue, LogLevel level,
                             std::string_view text) noexcept {
  return {.level = level, .text = text, .queue = queue};
}

/// Logs the exception that is being handled as `what` and its text; only `what` if memory is short.
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
}  // namespace v0
}  // namespace taskmux
