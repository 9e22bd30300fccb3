#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace indexer {

/// FNV-1a, 64 bits: small, and sufficient to notice a difference. Not for adversarial input.
inline std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) {
    hash ^= static_cast<unsigned char>(byte);
    hash *= 0x100000001b3;
  }
  return hash;
}

/// Returns whether `text` is UTF-8: no overlong form, no surrogate, nothing above U+10FFFF.
inline bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const auto byte = [&](std::size_t i) -> unsigned {
      return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0;
    };
    const unsigned lead = byte(0);
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xc2 ? 0
                               : lead < 0xe0 ? 2
                               : lead < 0xf0 ? 3
                               : lead < 0xf5 ? 4
                                             : 0;
    if (length == 0) return false;
    for (std::size_t i = 1; i < length; ++i) {
      if ((byte(i) & 0xc0) != 0x80) return false;
    }
    if (lead == 0xe0 && byte(1) < 0xa0) return false;
    if (lead == 0xed && byte(1) > 0x9f) return false;
    if (lead == 0xf0 && byte(1) < 0x90) return false;
    if (lead == 0xf4 && byte(1) > 0x8f) return false;
    at += length;
  }
  return true;
}

/// A word is a sequence of letters: ASCII letters, in lower case, or any non-ASCII characters.
inline bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
}
inline char to_lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

/// Returns the index of one file as the result of its task: `bytes words hash` on the first line,
/// then a line `count word` for each word.
inline std::string index_text(std::string text) {
  const std::uint64_t hash = fnv1a(text);
  std::transform(text.begin(), text.end(), text.begin(), to_lower);
  std::unordered_map<std::string_view, std::uint64_t> counts;
  std::uint64_t words = 0;
  const std::string_view all{text};
  for (auto at = text.cbegin(); at != text.cend();) {
    const auto begin = std::find_if(at, text.cend(), is_letter);
    at = std::find_if_not(begin, text.cend(), is_letter);
    if (begin == at) break;
    ++words;
    ++counts[all.substr(static_cast<std::size_t>(begin - text.cbegin()),
                        static_cast<std::size_t>(at - begin))];
  }
  std::ostringstream result;
  result << text.size() << ' ' << words << ' ' << hash << '\n';
  for (const auto& [word, count] : counts) result << count << ' ' << word << '\n';
  return std::move(result).str();
}

/// The totals of all files.
struct Totals {
  std::uint64_t files = 0;
  std::uint64_t bytes = 0;
  std::uint64_t words = 0;
  std::uint64_t hashes = 0;  ///< The sum of the hashes, modulo 2^64: independent of order.
  std::unordered_map<std::string, std::uint64_t> counts{};

  bool operator==(const Totals&) const = default;

  /// Adds the text that index_text() made for a file. Throws std::runtime_error if it is not such a
  /// text.
  void add(const std::string& index) {
    std::istringstream lines{index};
    std::uint64_t file_bytes = 0;
    std::uint64_t file_words = 0;
    std::uint64_t hash = 0;
    if (!(lines >> file_bytes >> file_words >> hash)) throw std::runtime_error{"not an index"};
    ++files;
    bytes += file_bytes;
    words += file_words;
    hashes += hash;
    std::string word;
    for (std::uint64_t count = 0; lines >> count >> word;) counts[word] += count;
  }

  void add(const Totals& other) {
    files += other.files;
    bytes += other.bytes;
    words += other.words;
    hashes += other.hashes;
    for (const auto& [word, count] : other.counts) counts[word] += count;
  }

  std::vector<std::pair<std::string, std::uint64_t>> top_words(std::size_t many) const {
    std::vector<std::pair<std::string, std::uint64_t>> top(counts.begin(), counts.end());
    std::sort(top.begin(), top.end(), [](const auto& one, const auto& other) {
      return one.second != other.second ? one.second > other.second : one.first < other.first;
    });
    if (top.size() > many) top.resize(many);
    return top;
  }
};

}  // namespace indexer
