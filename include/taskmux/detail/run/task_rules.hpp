#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

// The rules that a task and its options must satisfy to be enqueued, and the defaults of the
// options.

namespace taskmux {
inline namespace v0 {
namespace detail {

[[noreturn]] inline void refuse(std::string_view what, std::string_view why) {
  throw Error{Errc::invalid_argument, "enqueue: " + std::string{what} + ' ' + std::string{why}};
}

/// Throws Error{invalid_argument} unless `name` is valid for a queue, type, id or header key.
inline void check_name(std::string_view what, std::string_view name) {
  if (name.find_first_not_of(' ') == std::string_view::npos) refuse(what, "is blank");
  if (name.size() > Limits::name_bytes) {
    refuse(what, "is longer than " + std::to_string(Limits::name_bytes) + " bytes");
  }
  bool ascii = true;
  for (const char c : name) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) refuse(what, "holds a control character");
    ascii = ascii && byte < 0x80;
  }
  if (!ascii && !is_valid_utf8(name)) refuse(what, "is not valid UTF-8");
}

inline void check_headers(const Headers& headers) {
  std::size_t bytes = 0;
  for (const auto& [key, value] : headers) {
    check_name("a header key", key);
    if (value.find('\0') != std::string::npos) refuse("header \"" + key + '"', "holds a NUL");
    if (!is_valid_utf8(value)) refuse("header \"" + key + '"', "is not valid UTF-8");
    bytes += key.size() + value.size();
  }
  if (bytes > Limits::header_bytes) {
    refuse("headers",
           "are longer than " + std::to_string(Limits::header_bytes) + " bytes together");
  }
}

/// Throws unless `timeout` can be stored: 0 would mean no timeout to Go.
inline void check_timeout(Duration timeout) {
  if (timeout == Duration{0}) {
    refuse("timeout",
           "is zero: leave it out for the default of 30 min; for none, give one up to 100 years "
           "long");
  }
  if (const std::string fault = fault_of(timeout, Duration{1}); !fault.empty())
    refuse("timeout", fault);
}

/// Throws unless `duration` is at least `least` and at most Limits::longest.
inline void check_duration(std::string_view what, Duration duration, Duration least) {
  if (const std::string fault = fault_of(duration, least); !fault.empty()) refuse(what, fault);
}

/// Checks that an instant can be added to, rounded and stored without overflow.
inline void check_instant(std::string_view what, Time instant, Time now) {
  if (instant > now + Limits::longest) refuse(what, "is more than 100 years away");
}

/// Rounds up to whole seconds, since asynq's message has no finer resolution. `duration` must have
/// been checked.
inline std::chrono::seconds whole_seconds(Duration duration) {
  return std::chrono::ceil<std::chrono::seconds>(duration);
}
inline Time whole_seconds(Time instant) { return std::chrono::ceil<std::chrono::seconds>(instant); }

inline std::shared_ptr<Clock> clock_or_system(std::shared_ptr<Clock> clock) {
  return clock ? std::move(clock) : std::make_shared<SystemClock>();
}

constexpr int default_max_retry = 25;
constexpr std::chrono::seconds default_timeout{1800};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
