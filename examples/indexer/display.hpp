#pragma once

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <mutex>
#include <string>

namespace indexer {

/// Shows progress on stderr: on a terminal as one live line at the bottom, else as plain lines. Log
/// lines are written above the live line. Thread-safe.
class Display {
 public:
  Display() = default;
  Display(const Display&) = delete;
  Display& operator=(const Display&) = delete;
  ~Display() { clear(); }

  bool live() const { return terminal_; }

  /// Replaces the live line, or writes a plain one.
  void show(const std::string& text) {
    const std::lock_guard lock{mutex_};
    live_ = terminal_ ? text : std::string{};
    if (terminal_) {
      draw();
    } else {
      std::fprintf(stderr, "%s\n", text.c_str());
    }
  }

  /// Writes a permanent line.
  void log(const std::string& text) {
    const std::lock_guard lock{mutex_};
    std::fprintf(stderr, "%s%s\n", terminal_ ? erase : "", text.c_str());
    draw();
  }

  /// Removes the live line.
  void clear() {
    const std::lock_guard lock{mutex_};
    if (!live_.empty()) std::fputs(erase, stderr);
    live_.clear();
  }

 private:
  static constexpr const char* erase = "\r\033[K";

  void draw() const {
    if (live_.empty()) return;
    // A line longer than the window would wrap, and could not be erased.
    winsize window{};
    const bool known = ::ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 1;
    const std::size_t width = known ? window.ws_col - 1U : 79U;
    std::fprintf(stderr, "%s%s", erase, live_.substr(0, width).c_str());
  }

  const bool terminal_ = ::isatty(STDERR_FILENO) == 1;
  std::mutex mutex_;
  std::string live_;
};

}  // namespace indexer
