#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>

#include "taskmux/error.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Encodes fields of any bytes as one line of printable ASCII without spaces: each field in
/// hexadecimal, followed by a dot. The first field names the kind of the cursor.
class CursorWriter {
 public:
  explicit CursorWriter(std::string_view kind) { add(kind); }

  CursorWriter& add(std::string_view field) {
    constexpr std::string_view digits = "0123456789abcdef";
    for (const char c : field) {
      const auto byte = static_cast<unsigned char>(c);
      text_ += digits[byte >> 4U];
      text_ += digits[byte & 15U];
    }
    text_ += '.';
    return *this;
  }
  CursorWriter& add(std::int64_t number) { return add(std::to_string(number)); }

  const std::string& text() const noexcept { return text_; }

 private:
  std::string text_;
};

/// Decodes the output of CursorWriter. Every function throws Error{invalid_argument} for any other
/// text.
class CursorReader {
 public:
  CursorReader(std::string_view kind, std::string_view text) : rest_{text} {
    if (next() != kind) fail();
  }

  bool at_end() const noexcept { return rest_.empty(); }
  void expect_end() const {
    if (!at_end()) fail();
  }

  std::string next() {
    const std::size_t dot = rest_.find('.');
    if (dot == std::string_view::npos || dot % 2 != 0) fail();
    std::string field;
    for (std::size_t i = 0; i < dot; i += 2) {
      field += static_cast<char>(digit(rest_[i]) * 16 + digit(rest_[i + 1]));
    }
    rest_.remove_prefix(dot + 1);
    return field;
  }

  std::int64_t next_number() {
    const std::string field = next();
    std::int64_t number = 0;
    const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), number);
    if (error != std::errc{} || end != field.data() + field.size()) fail();
    return number;
  }

  [[noreturn]] static void fail() {
    throw Error{Errc::invalid_argument, "the cursor is not one of this listing"};
  }

 private:
  static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    fail();
  }

  std::string_view rest_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
