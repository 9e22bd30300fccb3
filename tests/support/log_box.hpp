#pragma once

#include <algorithm>
#include <cstddef>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/logger.hpp"

namespace taskmux::test {

/// Collects log lines. Must outlive all users of its logger. Thread-safe.
class LogBox {
 public:
  Logger logger(LogLevel level = LogLevel::warning) {
    return Logger{level, [this](LogLevel, std::string_view line) {
                    std::lock_guard lock{mutex_};
                    lines_.emplace_back(line);
                  }};
  }
  std::vector<std::string> lines() {
    std::lock_guard lock{mutex_};
    return lines_;
  }
  /// Returns how many lines contain `part`.
  std::size_t count(std::string_view part) {
    const auto all = lines();
    return static_cast<std::size_t>(std::count_if(
        all.begin(), all.end(), [&](const std::string& line) { return line.find(part) != npos; }));
  }

 private:
  static constexpr auto npos = std::string::npos;
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

}  // namespace taskmux::test
