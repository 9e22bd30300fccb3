#pragma once

#include <chrono>
#include <concepts>
#include <string>
#include <string_view>

#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

inline std::string in_quotes(std::string_view name) {
  std::string text = "\"";
  text += name;
  text += '"';
  return text;
}

/// `text` without line breaks and other control characters, for a line of a log.
inline std::string in_one_line(std::string_view text) {
  std::string line{text};
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return line;
}

/// Such as "5 s" or "250 ms".
inline std::string in_words(Duration duration) {
  using namespace std::chrono_literals;
  if (duration % 1s == Duration{0}) return std::to_string(duration / 1s) + " s";
  if (duration % 1ms == Duration{0}) return std::to_string(duration / 1ms) + " ms";
  return std::to_string(duration.count()) + " us";
}

/// What is wrong with a duration that should lie in least ... Limits::longest; empty if nothing is.
inline std::string fault_of(Duration duration, Duration least) {
  if (duration < Duration{0}) return "is negative";
  if (duration < least) return least == Duration{1} ? "is zero" : "is under " + in_words(least);
  return duration > Limits::longest ? "is longer than 100 years" : "";
}

/// Runs `call`; puts `operation` in front of the text of an Error that it throws.
template <std::invocable Call>
auto during(std::string_view operation, Call&& call) {
  try {
    return call();
  } catch (const Error& e) {
    throw Error{e.errc(), std::string{operation} + ": " + e.what(), e.task_id()};
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
