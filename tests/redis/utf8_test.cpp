#include "taskmux/detail/base/utf8.hpp"

#include <array>
#include <string>
#include <string_view>

#include "support/test.hpp"

using namespace taskmux::detail;
using namespace std::string_literals;

namespace {

constexpr const char* replacement = "\xef\xbf\xbd";

// The character of `code` by the definition of UTF-8, also where that is not valid.
std::string encoded(std::uint32_t code) {
  const auto tail = [code](int shift) {
    return static_cast<char>(0x80 | ((code >> shift) & 0x3f));
  };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | (code >> 6)), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | (code >> 12)), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | (code >> 18)), tail(12), tail(6), tail(0)};
}

}  // namespace

TEST_CASE("every character but the surrogates is valid UTF-8", "[utf8]") {
  for (std::uint32_t code = 0; code < 0x120000; ++code) {
    const bool valid = code < 0x110000 && !(code >= 0xd800 && code < 0xe000);
    if (is_valid_utf8(encoded(code)) != valid) {
      CAPTURE(code);
      REQUIRE(is_valid_utf8(encoded(code)) == valid);
    }
  }
}

TEST_CASE("invalid UTF-8 is found anywhere in a long text", "[utf8]") {
  const std::string bad = GENERATE(
      as<std::string>{}, "\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xe0\x9f\xbf",
      "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\xfe",
      "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3(", "\xe2\x82(", "\xf0\x9f\x98(");
  for (std::size_t before = 0; before < 20; ++before) {
    for (const std::size_t after : {0u, 1u, 7u, 8u, 20u}) {
      const std::string text = std::string(before, 'a') + bad + std::string(after, 'b');
      CAPTURE(before, after);
      CHECK_FALSE(is_valid_utf8(text));
      CHECK(valid_utf8_prefix(text) == before);
      CHECK(is_valid_utf8(repaired_utf8(text)));
    }
  }
}

TEST_CASE("a valid text is not changed", "[utf8]") {
  const std::string text = GENERATE(as<std::string>{}, "", "plain",
                                    "\xc3\xa9"
                                    "chec \xe2\x9c\x97 \xf0\x9f\x98\x80 and more text",
                                    "a NUL: \0 within"s, "\xf4\x8f\xbf\xbf", "\xee\x80\x80");
  CHECK(is_valid_utf8(text));
  CHECK(repaired_utf8(text) == text);
  CHECK(bounded_utf8(text, 100) == text);
}

TEST_CASE("each maximal part of an invalid character becomes one U+FFFD", "[utf8]") {
  const std::string r = replacement;
  CHECK(repaired_utf8("\xff") == r);
  CHECK(repaired_utf8("a\xff\xfe"
                      "b") == "a" + r + r + "b");
  CHECK(repaired_utf8("\xe2\x82") == r);
  CHECK(repaired_utf8("\xf0\x9f\x98(") == r + "(");
  CHECK(repaired_utf8("\xed\xa0\x80") == r + r + r);
  CHECK(repaired_utf8("\xc0\x80") == r + r);
  // Table 3-8 of the Unicode standard.
  CHECK(repaired_utf8("\x61\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64") ==
        "a" + r + r + r + "b" + r + "c" + r + r + "d");
}

TEST_CASE("a text is truncated at a character boundary", "[utf8]") {
  const std::string text = "a\xc3\xa9\xe2\x9c\x97\xf0\x9f\x98\x80";  // 1, 2, 3 and 4 bytes
  const std::array<std::size_t, 12> kept{0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (std::size_t limit = 0; limit < kept.size(); ++limit) {
    CAPTURE(limit);
    CHECK(cut_utf8(text, limit) == text.substr(0, kept[limit]));
    CHECK(bounded_utf8(text, limit) == text.substr(0, kept[limit]));
  }
}

TEST_CASE("a bounded text is a prefix of the repaired one", "[utf8]") {
  const std::string text =
      GENERATE(as<std::string>{}, "abc\xff\xff\xff\xff\xff\xff\xff",
               "\xe2\x82\xe2\x82\xe2\x82\xe2\x82", "\xf0\x9f\x98\xf0\x9f\x98\x80\xf0\x9f\x98",
               "\xf0\x9f\x98\x80\xf0\x9f\x98\x80\xf0\x9f\x98\x80");
  const std::string repaired = repaired_utf8(text);
  for (std::size_t limit = 0; limit <= repaired.size() + 3; ++limit) {
    CAPTURE(limit);
    const std::string bounded = bounded_utf8(text, limit);
    CHECK(is_valid_utf8(bounded));
    CHECK(bounded.size() <= limit);
    CHECK(bounded.size() + 4 > std::min(limit, repaired.size()));
    CHECK(bounded == repaired.substr(0, bounded.size()));
  }
}
