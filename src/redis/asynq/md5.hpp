#pragma once

#include <string>
#include <string_view>

namespace taskmux::redis {

/// Returns the MD5 of `bytes` (RFC 1321), as 32 lower-case hexadecimal digits. Used only for
/// asynq's unique lock keys, never for security.
std::string md5_hex(std::string_view bytes);

}  // namespace taskmux::redis
