#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Returns whether the whole of `text` matches `pattern`, in which `*` matches any bytes, including
/// none, and a backslash makes the next byte literal. The cost is at most the product of both
/// lengths.
inline bool fits(std::string_view pattern, std::string_view text) noexcept {
  std::size_t at = 0;
  std::size_t next = 0;
  std::size_t after_star = std::string_view::npos;  // in the pattern
  std::size_t given_to_star = 0;                    // in the text, up to here
  while (true) {
    if (at < pattern.size() && pattern[at] == '*') {
      after_star = ++at;
      given_to_star = next;
      continue;
    }
    if (next == text.size() && at == pattern.size()) return true;
    const bool escaped = at + 1 < pattern.size() && pattern[at] == '\\';
    const std::size_t literal = escaped ? at + 1 : at;
    if (literal < pattern.size() && next < text.size() && pattern[literal] == text[next]) {
      at = literal + 1;
      ++next;
      continue;
    }
    // The last star matches one more byte.
    if (after_star == std::string_view::npos || given_to_star >= text.size()) return false;
    at = after_star;
    next = ++given_to_star;
  }
}

/// Returns the longest literal part of `pattern` that every matching text contains; may be empty.
inline std::string longest_literal(std::string_view pattern) {
  std::string longest;
  std::string piece;
  for (std::size_t at = 0; at <= pattern.size(); ++at) {
    if (at == pattern.size() || pattern[at] == '*') {
      if (piece.size() > longest.size()) longest = piece;
      piece.clear();
    } else {
      if (pattern[at] == '\\' && at + 1 < pattern.size()) ++at;
      piece += pattern[at];
    }
  }
  return longest;
}

/// Returns a pattern that matches only `text`.
inline std::string exact_pattern(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (c == '*' || c == '\\') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
