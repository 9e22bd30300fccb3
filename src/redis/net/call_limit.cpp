#include "redis/net/call_limit.hpp"

namespace taskmux::redis {
namespace {

thread_local const CallLimit* limit_of_thread = nullptr;

}  // namespace

void limit_calls_of_this_thread(const CallLimit* limit) noexcept { limit_of_thread = limit; }

SteadyTime call_limit() noexcept {
  return limit_of_thread == nullptr ? SteadyTime::max() : limit_of_thread->end();
}

}  // namespace taskmux::redis
