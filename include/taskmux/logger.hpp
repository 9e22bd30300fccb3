#pragma once

#include <functional>
#include <string_view>
#include <utility>

namespace taskmux {
inline namespace v0 {

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

/// Where log lines go: a level and a function. taskmux itself writes to no stream; without a
/// function it is silent. Thread-safe if the function is. What the function throws is swallowed: a
/// log line must not end a worker.
class Logger {
 public:
  using Sink = std::function<void(LogLevel, std::string_view)>;

  Logger() = default;
  Logger(LogLevel least, Sink sink) : least_{least}, sink_{std::move(sink)} {}

  /// Whether a line of this level would go anywhere; to save the making of it.
  bool enabled(LogLevel level) const noexcept { return sink_ && level >= least_; }

  void operator()(LogLevel level, std::string_view text) const noexcept {
    if (!enabled(level)) return;
    try {
      sink_(level, text);
    } catch (...) {
      // Nowhere is left to tell it.
    }
  }

 private:
  LogLevel least_ = LogLevel::info;
  Sink sink_;
};

}  // namespace v0
}  // namespace taskmux
