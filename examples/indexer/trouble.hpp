#pragma once

#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>

#include "files.hpp"

namespace indexer {

/// An empty directory that exists as long as this object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "indexer-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) {
      throw std::system_error{errno, std::generic_category(), "mkdtemp " + name};
    }
    path_ = std::filesystem::canonical(name);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code left_behind;  // The system cleans up temporary files eventually.
    std::filesystem::remove_all(path_, left_behind);
  }

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A directory of files that cause real failures.
class TroubleDirectory {
 public:
  TroubleDirectory() {
    std::filesystem::create_symlink("endless_symlink", file("endless_symlink"));  // ELOOP
    std::filesystem::create_symlink("/proc/self/mem", file("io_error"));  // EIO, even for root.
    std::ofstream{file("latin1.txt")} << "caf\xe9 cr\xe8me\n";
    std::ofstream{file("too_large.txt")} << "and then a hole\n";
    std::filesystem::resize_file(file("too_large.txt"), 16 * largest_file);
    std::ofstream{growing_file()} << "a log\n";
    writer_ = std::jthread{[this](std::stop_token stop) { write(stop); }};
  }

  std::string path() const { return directory_.path().string(); }

  /// A log to which lines are appended until stop_growing().
  std::string growing_file() const { return file("still_growing.log"); }
  void stop_growing() { writer_.request_stop(); }

 private:
  std::string file(const char* name) const { return (directory_.path() / name).string(); }

  void write(const std::stop_token& stop) const {
    std::ofstream log{growing_file(), std::ios::app};
    while (!stop.stop_requested()) {
      log << "one more line\n" << std::flush;
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
  }

  TemporaryDirectory directory_;
  std::jthread writer_;
};

}  // namespace indexer
