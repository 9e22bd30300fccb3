#include "redis/scripts/sha1.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace taskmux::redis {
namespace {

using Digest = std::array<std::uint32_t, 5>;

constexpr std::size_t block_bytes = 64;

std::uint32_t big_endian(const unsigned char* bytes) noexcept {
  return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 |
         std::uint32_t{bytes[2]} << 8 | std::uint32_t{bytes[3]};
}

void add_block(Digest& digest, const unsigned char* block) noexcept {
  std::array<std::uint32_t, 80> w{};
  for (std::size_t i = 0; i < 16; ++i) w[i] = big_endian(block + 4 * i);
  for (std::size_t i = 16; i < 80; ++i)
    w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);

  auto [a, b, c, d, e] = digest;
  for (std::size_t i = 0; i < 80; ++i) {
    std::uint32_t mixed = 0;
    if (i < 20) {
      mixed = ((b & c) | (~b & d)) + 0x5a827999u;
    } else if (i < 40) {
      mixed = (b ^ c ^ d) + 0x6ed9eba1u;
    } else if (i < 60) {
      mixed = ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdcu;
    } else {
      mixed = (b ^ c ^ d) + 0xca62c1d6u;
    }
    const auto next = std::rotl(a, 5) + mixed + e + w[i];
    e = d;
    d = c;
    c = std::rotl(b, 30);
    b = a;
    a = next;
  }
  digest[0] += a;
  digest[1] += b;
  digest[2] += c;
  digest[3] += d;
  digest[4] += e;
}

/// Returns `bytes` with the padding of SHA-1: a one bit, zeros, and the length in bits.
std::string padded(std::string_view bytes) {
  std::string result{bytes};
  result.push_back('\x80');
  while (result.size() % block_bytes != block_bytes - 8) result.push_back('\0');
  const auto bits = std::uint64_t{bytes.size()} * 8;
  for (int shift = 56; shift >= 0; shift -= 8)
    result.push_back(static_cast<char>((bits >> shift) & 0xff));
  return result;
}

}  // namespace

std::string sha1_hex(std::string_view bytes) {
  Digest digest{0x67452301u, 0xefcdab89u, 0x98badcfeu, 0x10325476u, 0xc3d2e1f0u};
  const auto message = padded(bytes);
  for (std::size_t i = 0; i < message.size(); i += block_bytes)
    add_block(digest, reinterpret_cast<const unsigned char*>(message.data()) + i);

  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  for (const auto word : digest)
    for (int shift = 28; shift >= 0; shift -= 4) hex.push_back(digits[(word >> shift) & 0xf]);
  return hex;
}

}  // namespace taskmux::redis
