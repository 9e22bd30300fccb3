#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The front of a text: one character if `valid`, else the bytes that one U+FFFD should replace
/// (Unicode's "maximal subpart": the longest beginning of a character, or one byte).
struct Utf8Step {
  std::size_t length = 0;
  bool valid = false;
};

/// Examines the front of `text`, which must not be empty. Surrogates, overlong forms and code
/// points above U+10FFFF are not valid.
constexpr Utf8Step utf8_step(std::string_view text) noexcept {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {1, true};
  if (lead < 0xc2 || lead > 0xf4) return {1, false};

  const std::size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  unsigned char lowest = 0x80;  // of the second byte, where some leads allow less
  unsigned char highest = 0xbf;
  if (lead == 0xe0) lowest = 0xa0;
  if (lead == 0xed) highest = 0x9f;
  if (lead == 0xf0) lowest = 0x90;
  if (lead == 0xf4) highest = 0x8f;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size() || byte(i) < lowest || byte(i) > highest) return {i, false};
    lowest = 0x80;
    highest = 0xbf;
  }
  return {length, true};
}

/// Returns how many bytes at the front of `text` are valid UTF-8; `text.size()` if all are.
inline std::size_t valid_utf8_prefix(std::string_view text) noexcept {
  std::size_t at = 0;
  while (at < text.size()) {
    if (text.size() - at >= 8) {  // eight ASCII bytes at a time
      std::uint64_t word;
      std::memcpy(&word, text.data() + at, sizeof word);
      if ((word & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const Utf8Step step = utf8_step(text.substr(at));
    if (!step.valid) return at;
    at += step.length;
  }
  return at;
}

inline bool is_valid_utf8(std::string_view text) noexcept {
  return valid_utf8_prefix(text) == text.size();
}

/// Returns `text` with U+FFFD in place of invalid UTF-8. The result is never shorter than `text`.
inline std::string repaired_utf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) {
    const std::size_t good = valid_utf8_prefix(text);
    repaired.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) break;
    repaired.append("\xef\xbf\xbd");
    text.remove_prefix(utf8_step(text).length);
  }
  return repaired;
}

/// Returns the longest prefix of `text`, which must be valid UTF-8, that has at most `limit` bytes
/// and ends at a character boundary. The result is a view into `text`.
inline std::string_view cut_utf8(std::string_view text, std::size_t limit) noexcept {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return text.substr(0, limit);
}

/// Returns a text from any source in a form that may be stored: repaired, then truncated to `limit`
/// bytes. The cost is bounded by `limit`.
inline std::string bounded_utf8(std::string_view text, std::size_t limit) {
  // Repairing never shortens a text, so no more than `limit` bytes of the original can be kept; the
  // few extra bytes are for a character at the limit.
  constexpr std::size_t longest_character = 4;
  if (text.size() > limit && text.size() - limit > longest_character)
    text = text.substr(0, limit + longest_character);
  std::string repaired = repaired_utf8(text);
  repaired.resize(cut_utf8(repaired, limit).size());
  return repaired;
}

/// Returns whether a text is blank as in asynq, for ASCII: empty, or only white space.
constexpr bool is_blank(std::string_view text) noexcept {
  return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
