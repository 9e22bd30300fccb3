#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "files.hpp"
#include "text_index.hpp"

namespace indexer {

/// The files to be indexed, and the state of each before the queue started.
using Snapshot = std::map<std::string, Look>;

/// Does the same work as the queue in the plain way: one file after the other, one character at a
/// time. `rejected` are the files that can't be indexed, `changed` those whose state has changed:
/// they are not counted, since the queue may have read other contents.
struct SerialCount {
  Totals totals{};
  std::uint64_t rejected = 0;
  std::set<std::string> changed{};

  /// `before` and `now` contain all files, with their states then and now. The files in `restless`
  /// are counted whatever their state.
  SerialCount(const Snapshot& before, const Snapshot& now, const std::set<std::string>& restless) {
    for (const auto& [path, look] : now) {
      if (!before.contains(path)) changed.insert(path);
    }
    for (const auto& [path, look] : before) {
      Totals with_file;
      const bool good = add_file(path, with_file);
      if (!restless.contains(path) && (!now.contains(path) || look_at(path) != look)) {
        changed.insert(path);
      } else if (good) {
        totals.add(with_file);
      } else {
        ++rejected;
      }
    }
  }

 private:
  static bool add_file(const std::string& path, Totals& totals) {
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
