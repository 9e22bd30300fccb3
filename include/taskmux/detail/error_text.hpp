#pragma once

#include <concepts>
#include <string>
#include <string_view>

#include "taskmux/error.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

inline std::string in_quotes(std::string_view name) {
  std::string text = "\"";
  text += name;
  text += '"';
  return text;
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
