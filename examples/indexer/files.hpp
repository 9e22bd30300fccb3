#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

/// The indexer's access to the file system. Independent of queues.
namespace indexer {

constexpr std::uint64_t largest_file = 4u << 20;

/// Returns whether a name suggests a file without text.
inline bool is_binary_name(const std::filesystem::path& path) {
  constexpr std::array<std::string_view, 14> extensions{".gz",  ".xz",  ".bz2", ".zst", ".zip",
                                                        ".png", ".gif", ".jpg", ".ico", ".pdf",
                                                        ".so",  ".o",   ".a",   ".pyc"};
  const std::string extension = path.extension().string();
  return std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}

/// Returns the files under `root`, sorted, at most `limit`. Symlinks to directories are not
/// followed; other symlinks are included. Throws std::filesystem::filesystem_error if `root` can't
/// be read.
inline std::vector<std::string> list_files(const std::string& root, std::size_t limit) {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const fs::directory_entry& entry :
       fs::recursive_directory_iterator{root, fs::directory_options::skip_permission_denied}) {
    std::error_code unreadable;  // A dangling symlink is not a directory.
    const bool wanted =
        entry.is_symlink() ? !entry.is_directory(unreadable) : entry.is_regular_file(unreadable);
    if (wanted && !is_binary_name(entry.path())) files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  if (files.size() > limit) files.resize(limit);
  return files;
}

/// The state of a file at one moment. If a later state is equal, the file was not written in
/// between.
struct Look {
  std::uint64_t size = 0;
  std::uint64_t inode = 0;
  std::chrono::nanoseconds modified{};  ///< Since the epoch.
  std::chrono::nanoseconds changed{};   ///< The last change of its metadata, too.
  bool regular = false;

  explicit Look(const struct stat& status)
      : size{static_cast<std::uint64_t>(status.st_size)},
        inode{static_cast<std::uint64_t>(status.st_ino)},
        modified{since_epoch(status.st_mtim)},
        changed{since_epoch(status.st_ctim)},
        regular{S_ISREG(status.st_mode)} {}
  Look() = default;

  bool operator==(const Look&) const = default;

 private:
  static std::chrono::nanoseconds since_epoch(const timespec& time) {
    return std::chrono::seconds{time.tv_sec} + std::chrono::nanoseconds{time.tv_nsec};
  }
};

/// Returns the state of the file at `path`; an empty state if there is none.
inline Look look_at(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 ? Look{status} : Look{};
}

/// A file that is open for reading. Failures throw std::system_error with their errno.
class InputFile {
 public:
  explicit InputFile(const std::string& path)
      : descriptor_{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)} {
    if (descriptor_ < 0) throw_errno("open");
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;
  ~InputFile() { ::close(descriptor_); }

  Look look() const {
    struct stat status {};
    if (::fstat(descriptor_, &status) != 0) throw_errno("stat");
    return Look{status};
  }

  /// Returns the rest of the file, or a little more than `enough` bytes if the rest is longer.
  std::string read(std::uint64_t enough) {
    std::string text;
    std::array<char, 65536> buffer;
    while (text.size() <= enough) {
      const ssize_t count = ::read(descriptor_, buffer.data(), buffer.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw_errno("read");
      if (count == 0) break;
      text.append(buffer.data(), static_cast<std::size_t>(count));
    }
    return text;
  }

 private:
  [[noreturn]] static void throw_errno(const char* operation) {
    throw std::system_error{errno, std::generic_category(), operation};
  }

  int descriptor_;
};

}  // namespace indexer
