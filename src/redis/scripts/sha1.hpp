#pragma once

#include <string>
#include <string_view>

namespace taskmux::redis {

/// The SHA-1 of `bytes` in lower-case hex, as EVALSHA wants it.
std::string sha1_hex(std::string_view bytes);

}  // namespace taskmux::redis
