#pragma once

#include <sys/random.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/error.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Fills `bytes` from the system's source of randomness. Throws Error{unavailable} if that fails.
inline void fill_random(void* bytes, std::size_t size) {
  auto* at = static_cast<unsigned char*>(bytes);
  while (size > 0) {
    const ssize_t got = ::getrandom(at, size, 0);
    if (got < 0) {
      if (errno == EINTR) continue;
      throw Error{Errc::unavailable, "getrandom: the system has no randomness"};
    }
    at += got;
    size -= static_cast<std::size_t>(got);
  }
}

/// Returns a random 64-bit number from the system.
inline std::uint64_t random_bits() {
  std::uint64_t bits = 0;
  fill_random(&bits, sizeof bits);
  return bits;
}

/// Generates random (version 4) UUIDs, RFC 9562, in lower case with hyphens. Draws randomness in
/// blocks, so that most ids cost no system call. Thread-safe. A copy of the block after fork()
/// would repeat ids: the owner must refuse to work in a child process, as Client does.
class UuidSource {
 public:
  std::string next() {
    std::array<unsigned char, 16> bytes;
    {
      MutexLock lock{mutex_};
      if (used_ == block_.size()) {
        fill_random(block_.data(), block_.size());
        used_ = 0;
      }
      std::memcpy(bytes.data(), block_.data() + used_, bytes.size());
      used_ += bytes.size();
    }
    bytes[6] = static_cast<unsigned char>((bytes[6] & 0x0f) | 0x40);
    bytes[8] = static_cast<unsigned char>((bytes[8] & 0x3f) | 0x80);
    return spell(bytes);
  }

 private:
  static std::string spell(const std::array<unsigned char, 16>& bytes) {
    constexpr char digits[] = "0123456789abcdef";
    std::string text(36, '-');
    std::size_t at = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (i == 4 || i == 6 || i == 8 || i == 10) ++at;
      text[at++] = digits[bytes[i] >> 4];
      text[at++] = digits[bytes[i] & 0x0f];
    }
    return text;
  }

  Mutex mutex_;
  std::array<unsigned char, 4096> block_ TASKMUX_GUARDED_BY(mutex_){};
  std::size_t used_ TASKMUX_GUARDED_BY(mutex_) = block_.size();
};

/// A small, fast generator for jitter and weighted choices, seeded from the system; not for
/// secrets. (splitmix64, by Sebastiano Vigna, public domain.) Not thread-safe; use one per thread.
class Random {
 public:
  Random() : state_{random_bits()} {}
  explicit Random(std::uint64_t seed) noexcept : state_{seed} {}

  std::uint64_t bits() noexcept {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  /// Returns a number that is uniform in [0, 1).
  double unit() noexcept { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }

  /// Returns a number that is uniform in [0, bound); `bound` must be above 0. The bias, bound /
  /// 2^64, is negligible here.
  std::uint64_t below(std::uint64_t bound) noexcept { return bits() % bound; }

 private:
  std::uint64_t state_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
