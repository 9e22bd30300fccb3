#pragma once

#include <cstddef>
#include <string>
#include <string_view>

// The golden vectors of asynq's messages, in hexadecimal: what Go's library wrote and read.
namespace taskmux::test::golden {

// A: plain.
inline constexpr std::string_view plain =
    "0a0d656d61696c3a77656c636f6d65120e7b22757365725f6964223a34327d1a2430663866616435"
    "622d643963622d343639662d613136352d373038363737323839353065220764656661756c742819"
    "40880e";

// A2: A after one failed attempt.
inline constexpr std::string_view failed =
    "0a0d656d61696c3a77656c636f6d65120e7b22757365725f6964223a34327d1a2430663866616435"
    "622d643963622d343639662d613136352d373038363737323839353065220764656661756c742819"
    "30013a04626f6f6d40880e5882f2d6ca06";

// B: binary payload, unique, header, UTF-8 error.
inline constexpr std::string_view full =
    "0a0c696d6167653a726573697a65120400ff10801a067461736b2d372208637269746963616c2803"
    "30023a0ac3a96368656320e29c97405a4880f2d6ca0652456173796e713a7b637269746963616c7d"
    "3a756e697175653a696d6167653a726573697a653a37333862356163386636363032303461333638"
    "3239316539633465316539646558f0d5d6ca066080a3057a140a0874726163652d69641208346266"
    "3932663335";

// C: no payload, no retries, deadline, group, completed, header with empty value.
inline constexpr std::string_view completed =
    "0a0c7265706f72743a6275696c641a03722d3122036c6f774880b1ef860752206173796e713a7b6c"
    "6f777d3a756e697175653a7265706f72743a6275696c643a60901c6881f2d6ca06720874656e616e"
    "742d397a090a05656d7074791200";

// D: two headers, in the order that ours writes.
inline constexpr std::string_view two_headers =
    "0a01741a0469642d31220764656661756c74281940880e7a060a01611201317a060a0162120132";

// D, as Go may write it as well.
inline constexpr std::string_view two_headers_reversed =
    "0a01741a0469642d31220764656661756c74281940880e7a060a01621201327a060a0161120131";

// N: negative timeout.
inline constexpr std::string_view negative_timeout =
    "0a036e65671a016e220171281940ffffffffffffffffff01";

// must be refused: error_msg with an invalid byte.
inline constexpr std::string_view invalid_utf8 = "3a01ff";

// ServerInfo.
inline constexpr std::string_view server =
    "0a057765622d311092211a2437643434343834302d396463302d313164312d623234352d35666664"
    "6365373466616432200a2a0b0a0764656661756c7410033a06616374697665420b0880f2d6ca0610"
    "959aef3a4801";

// WorkerInfo.
inline constexpr std::string_view worker =
    "0a057765622d311092211a2437643434343834302d396463302d313164312d623234352d35666664"
    "6365373466616432222430663866616435622d643963622d343639662d613136352d373038363737"
    "3238393530652a0d656d61696c3a77656c636f6d65320e7b22757365725f6964223a34327d3a0764"
    "656661756c74420c088af2d6ca061080cab5ee014a06089280d7ca06";

inline std::string from_hex(std::string_view hex) {
  const auto digit = [](char c) { return c <= '9' ? c - '0' : c - 'a' + 10; };
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2)
    bytes += static_cast<char>(digit(hex[i]) << 4 | digit(hex[i + 1]));
  return bytes;
}

inline std::string to_hex(std::string_view bytes) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string hex;
  for (const char c : bytes) {
    hex += digits[static_cast<unsigned char>(c) >> 4];
    hex += digits[static_cast<unsigned char>(c) & 0xf];
  }
  return hex;
}

}  // namespace taskmux::test::golden
