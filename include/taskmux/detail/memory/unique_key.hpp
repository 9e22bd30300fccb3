#pragma once

#include <unistd.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// SipHash-2-4 with 128 bits: without the key, nobody can find two texts with the same hash.
class SipHash128 {
 public:
  using Key = std::array<std::uint64_t, 2>;
  using Digest = std::array<std::uint64_t, 2>;

  static Digest of(const Key& key, std::string_view text) noexcept {
    SipHash128 hash{key};
    const std::size_t whole = text.size() / 8 * 8;
    for (std::size_t i = 0; i < whole; i += 8) hash.add(load(text.substr(i, 8)));
    hash.add(load(text.substr(whole)) | std::uint64_t{text.size()} << 56);
    return hash.finish();
  }

 private:
  explicit SipHash128(const Key& key) noexcept
      : v0_{key[0] ^ 0x736f6d6570736575},
        v1_{key[1] ^ 0x646f72616e646f6d ^ 0xee},
        v2_{key[0] ^ 0x6c7967656e657261},
        v3_{key[1] ^ 0x7465646279746573} {}

  /// Loads up to eight bytes, the first one as the lowest.
  static std::uint64_t load(std::string_view bytes) noexcept {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      word |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    }
    return word;
  }

  void rounds(int count) noexcept {
    for (; count > 0; --count) {
      v0_ += v1_;
      v1_ = std::rotl(v1_, 13) ^ v0_;
      v0_ = std::rotl(v0_, 32);
      v2_ += v3_;
      v3_ = std::rotl(v3_, 16) ^ v2_;
      v0_ += v3_;
      v3_ = std::rotl(v3_, 21) ^ v0_;
      v2_ += v1_;
      v1_ = std::rotl(v1_, 17) ^ v2_;
      v2_ = std::rotl(v2_, 32);
    }
  }

  void add(std::uint64_t word) noexcept {
    v3_ ^= word;
    rounds(2);
    v0_ ^= word;
  }

  Digest finish() noexcept {
    v2_ ^= 0xee;
    rounds(4);
    const std::uint64_t low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    rounds(4);
    return {low, v0_ ^ v1_ ^ v2_ ^ v3_};
  }

  std::uint64_t v0_, v1_, v2_, v3_;
};

/// Makes the keys of unique locks: the type and a hash of the payload, since a key must not contain
/// a second copy of a large payload. Also makes digests of ids. Thread-safe.
class MemoryUniqueKeys {
 public:
  MemoryUniqueKeys() {
    if (::getentropy(secret_.data(), sizeof secret_) != 0) {
      throw Error{Errc::unavailable, "memory broker: no randomness from the system"};
    }
  }

  /// Returns the key for `task`, within its queue. An empty payload counts as no payload unless
  /// `empty_is_payload`.
  std::string key(const Task& task, bool empty_is_payload) const {
    std::string key = task.type + ':';
    if (task.payload.empty() && !empty_is_payload) return key;
    for (std::uint64_t word : SipHash128::of(secret_, task.payload)) append_hex(key, word);
    return key;
  }

  SipHash128::Digest digest(std::string_view id) const noexcept {
    return SipHash128::of(secret_, id);
  }

 private:
  static void append_hex(std::string& text, std::uint64_t word) {
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[word >> shift & 15];
  }

  SipHash128::Key secret_{};
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
