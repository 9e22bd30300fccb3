#include "redis/route/key_slot.hpp"

#include <array>
#include <cstddef>

namespace taskmux::redis {
namespace {

constexpr std::array<std::uint16_t, 256> crc16_table() {
  std::array<std::uint16_t, 256> table{};
  for (std::size_t i = 0; i < table.size(); ++i) {
    auto crc = static_cast<std::uint16_t>(i << 8);
    for (int bit = 0; bit < 8; ++bit)
      crc = static_cast<std::uint16_t>((crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1);
    table[i] = crc;
  }
  return table;
}

std::uint16_t crc16(std::string_view bytes) noexcept {
  static constexpr auto table = crc16_table();
  std::uint16_t crc = 0;
  for (const char c : bytes)
    crc = static_cast<std::uint16_t>((crc << 8) ^
                                     table[((crc >> 8) ^ static_cast<unsigned char>(c)) & 0xff]);
  return crc;
}

}  // namespace

std::uint16_t slot_of(std::string_view key) noexcept {
  if (const auto open = key.find('{'); open != std::string_view::npos) {
    const auto close = key.find('}', open + 1);
    if (close != std::string_view::npos && close > open + 1)
      key = key.substr(open + 1, close - open - 1);
  }
  return crc16(key) & 0x3fff;
}

}  // namespace taskmux::redis
