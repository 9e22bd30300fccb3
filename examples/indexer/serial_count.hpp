#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "files.hpp"
#include "text_index.hpp"

namespace indexer {

/// The same work as the queue's, done the plain way: one file after the other, a character at a
/// time. `rejected` are the files that can't be indexed.
struct SerialCount {
  Totals totals{};
  std::uint64_t rejected = 0;

  explicit SerialCount(const std::set<std::string>& files) {
    for (const std::string& path : files) {
      if (!add_file(path)) ++rejected;
    }
  }

 private:
  bool add_file(const std::string& path) {
    std::error_code no_file;
    if (!std::filesystem::is_regular_file(path, no_file)) return false;
    if (std::filesystem::file_size(path, no_file) > largest_file || no_file) return false;
    std::ifstream file{path, std::ios::binary};
    std::string text;
    char part[8192];
    while (file.read(part, sizeof part) || file.gcount() > 0) {
      text.append(part, static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof() || file.bad() || !is_utf8(text)) return false;

    ++totals.files;
    totals.bytes += text.size();
    totals.hashes += fnv1a(text);
    std::string word;
    for (const char c : text + ' ') {
      if (is_letter(c)) {
        word += to_lower(c);
      } else if (!word.empty()) {
        ++totals.words;
        ++totals.counts[std::exchange(word, {})];
      }
    }
    return true;
  }
};

}  // namespace indexer
