#pragma once

#include "taskmux/redis/redis_options.hpp"

namespace taskmux::redis {

/// Throws Error{invalid_argument}, which names the field, unless `options` can work.
void check(const RedisOptions& options);

}  // namespace taskmux::redis
