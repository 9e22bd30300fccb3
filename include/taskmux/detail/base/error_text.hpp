#pragma once

#include <cxxabi.h>

#include <chrono>
#include <concepts>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <typeinfo>

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

/// Returns a task as log lines and errors name it: `task 42 ("email:welcome", queue "default")`.
/// Empty arguments are left out.
inline std::string task_in_words(std::string_view id, std::string_view type,
                                 std::string_view queue) {
  std::string text = "task ";
  text += id;
  if (type.empty() && queue.empty()) return text;
  text += " (";
  if (!type.empty()) text += in_quotes(type);
  if (!type.empty() && !queue.empty()) text += ", ";
  if (!queue.empty()) text += "queue " + in_quotes(queue);
  return text + ')';
}

/// Returns `text` without line breaks and other control characters, for a log line.
inline std::string in_one_line(std::string_view text) {
  std::string line{text};
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return line;
}

/// Returns the type of the exception that is being handled, as spelt in the source; empty if it is
/// not known. Needs no RTTI.
inline std::string type_of_exception() {
  const std::type_info* const type = abi::__cxa_current_exception_type();
  if (type == nullptr) return {};
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name{
      abi::__cxa_demangle(type->name(), nullptr, nullptr, &status), &std::free};
  return name ? name.get() : type->name();
}

/// Returns a text for the exception `e` that is being handled: its what(), or else its type.
inline std::string text_of_exception(const std::exception& e) {
  const char* const text = e.what();
  if (text != nullptr && *text != '\0') return text;
  return "an exception without text, of type " + type_of_exception();
}

/// The same for an exception that is not a std::exception.
inline std::string text_of_exception() {
  return "something that is not a std::exception, of type " + type_of_exception();
}

/// Returns a text such as "5 s" or "250 ms".
inline std::string in_words(Duration duration) {
  using namespace std::chrono_literals;
  if (duration % 1s == Duration{0}) return std::to_string(duration / 1s) + " s";
  if (duration % 1ms == Duration{0}) return std::to_string(duration / 1ms) + " ms";
  return std::to_string(duration.count()) + " us";
}

/// Returns what is wrong with a duration that must be at least `least` and at most Limits::longest;
/// empty if nothing is.
inline std::string fault_of(Duration duration, Duration least) {
  if (duration < Duration{0}) return "is negative";
  if (duration < least) return least == Duration{1} ? "is zero" : "is under " + in_words(least);
  return duration > Limits::longest ? "is longer than 100 years" : "";
}

/// Runs `call`; prepends `operation` to the text of an Error that it throws.
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
