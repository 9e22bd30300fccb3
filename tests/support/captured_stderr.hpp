#pragma once

#include <unistd.h>

#include <array>
#include <cstdio>
#include <stdexcept>
#include <string>

namespace taskmux::test {

/// While an object of this class lives, the standard error of this process goes to a file.
class CapturedStderr {
 public:
  CapturedStderr() : before_{::dup(STDERR_FILENO)}, file_{std::tmpfile()} {
    if (before_ < 0 || file_ == nullptr || ::dup2(::fileno(file_), STDERR_FILENO) < 0)
      throw std::runtime_error{"can't capture standard error"};
  }
  ~CapturedStderr() {
    ::dup2(before_, STDERR_FILENO);
    ::close(before_);
    std::fclose(file_);
  }
  CapturedStderr(const CapturedStderr&) = delete;
  CapturedStderr& operator=(const CapturedStderr&) = delete;

  /// Returns what was written so far.
  std::string text() const {
    std::string text;
    std::array<char, 4096> buffer{};
    for (off_t at = 0;;) {
      const ssize_t got = ::pread(::fileno(file_), buffer.data(), buffer.size(), at);
      if (got <= 0) return text;
      text.append(buffer.data(), static_cast<std::size_t>(got));
      at += got;
    }
  }

 private:
  const int before_;
  std::FILE* const file_;
};

}  // namespace taskmux::test
