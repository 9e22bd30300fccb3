#pragma once

#include <string>
#include <string_view>

namespace taskmux::redis {

/// The MD5 of `bytes` (RFC 1321), as 32 lower-case hexadecimal digits. Only for asynq's unique lock
/// keys; MD5 protects nothing.
std::string md5_hex(std::string_view bytes);

}  // namespace taskmux::redis
