#pragma once

#include <string>
#include <string_view>

namespace taskmux::redis {

/// Returns the SHA-1 of `bytes` in lower-case hexadecimal, as EVALSHA expects it.
std::string sha1_hex(std::string_view bytes);

}  // namespace taskmux::redis
