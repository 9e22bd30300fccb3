#include "redis/asynq/md5.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace taskmux::redis {
namespace {

constexpr std::size_t block_bytes = 64;

using State = std::array<std::uint32_t, 4>;

constexpr std::array<std::array<int, 4>, 4> shifts{
    {{7, 12, 17, 22}, {5, 9, 14, 20}, {4, 11, 16, 23}, {6, 10, 15, 21}}};

// floor(2^32 * |sin(i + 1)|): the RFC's table T.
constexpr std::array<std::uint32_t, 64> sines{
    0xd76aa478, 0xe8c7b756, 0x242070db, 0xc1bdceee, 0xf57c0faf, 0x4787c62a, 0xa8304613, 0xfd469501,
    0x698098d8, 0x8b44f7af, 0xffff5bb1, 0x895cd7be, 0x6b901122, 0xfd987193, 0xa679438e, 0x49b40821,
    0xf61e2562, 0xc040b340, 0x265e5a51, 0xe9b6c7aa, 0xd62f105d, 0x02441453, 0xd8a1e681, 0xe7d3fbc8,
    0x21e1cde6, 0xc33707d6, 0xf4d50d87, 0x455a14ed, 0xa9e3e905, 0xfcefa3f8, 0x676f02d9, 0x8d2a4c8a,
    0xfffa3942, 0x8771f681, 0x6d9d6122, 0xfde5380c, 0xa4beea44, 0x4bdecfa9, 0xf6bb4b60, 0xbebfbc70,
    0x289b7ec6, 0xeaa127fa, 0xd4ef3085, 0x04881d05, 0xd9d4d039, 0xe6db99e5, 0x1fa27cf8, 0xc4ac5665,
    0xf4292244, 0x432aff97, 0xab9423a7, 0xfc93a039, 0x655b59c3, 0x8f0ccc92, 0xffeff47d, 0x85845dd1,
    0x6fa87e4f, 0xfe2ce6e0, 0xa3014314, 0x4e0811a1, 0xf7537e82, 0xbd3af235, 0x2ad7d2bb, 0xeb86d391};

std::uint32_t little_endian_word(const unsigned char* bytes) noexcept {
  return std::uint32_t{bytes[0]} | std::uint32_t{bytes[1]} << 8 | std::uint32_t{bytes[2]} << 16 |
         std::uint32_t{bytes[3]} << 24;
}

struct Mixed {
  std::uint32_t value;
  std::size_t word;
};

// What step `i` of the 64 adds: the round's function of b, c and d, and the word of the block.
Mixed mix(std::size_t i, std::uint32_t b, std::uint32_t c, std::uint32_t d) noexcept {
  switch (i / 16) {
    case 0: return {(b & c) | (~b & d), i};
    case 1: return {(b & d) | (c & ~d), (5 * i + 1) % 16};
    case 2: return {b ^ c ^ d, (3 * i + 5) % 16};
    default: return {c ^ (b | ~d), (7 * i) % 16};
  }
}

void add_block(State& state, const unsigned char* block) noexcept {
  auto [a, b, c, d] = state;
  for (std::size_t i = 0; i < 64; ++i) {
    const auto [value, word] = mix(i, b, c, d);
    const std::uint32_t sum = a + value + sines[i] + little_endian_word(block + 4 * word);
    a = d;
    d = c;
    c = b;
    b += std::rotl(sum, shifts[i / 16][i % 4]);
  }
  state = {state[0] + a, state[1] + b, state[2] + c, state[3] + d};
}

// The last one or two blocks: the rest of the bytes, a one bit, zeros, and the length in bits.
void add_tail(State& state, std::string_view rest, std::uint64_t total_bytes) noexcept {
  std::array<unsigned char, 2 * block_bytes> tail{};
  const std::size_t length = rest.size() % block_bytes;  // A no-op that GCC 12 needs.
  for (std::size_t i = 0; i < length; ++i) tail[i] = static_cast<unsigned char>(rest[i]);
  tail[length] = 0x80;
  const std::size_t size = length < block_bytes - 8 ? block_bytes : 2 * block_bytes;
  for (std::size_t i = 0; i < 8; ++i)
    tail[size - 8 + i] = static_cast<unsigned char>((total_bytes * 8) >> (8 * i));
  for (std::size_t at = 0; at < size; at += block_bytes) add_block(state, tail.data() + at);
}

}  // namespace

std::string md5_hex(std::string_view bytes) {
  State state{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476};
  const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
  const std::size_t whole = bytes.size() / block_bytes * block_bytes;
  for (std::size_t at = 0; at < whole; at += block_bytes) add_block(state, data + at);
  add_tail(state, bytes.substr(whole), bytes.size());

  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  hex.reserve(32);
  for (const std::uint32_t word : state) {
    for (int shift = 0; shift < 32; shift += 8) {
      hex += digits[(word >> (shift + 4)) & 0xf];
      hex += digits[(word >> shift) & 0xf];
    }
  }
  return hex;
}

}  // namespace taskmux::redis
