#pragma once

#include <string>

#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// Throws std::invalid_argument, which names the field, unless `options` can work.
void check(const RedisOptions& options);

/// Where that Redis is, in words: no user, no password.
std::string describe(const RedisOptions& options);

}  // namespace taskmux::redis
