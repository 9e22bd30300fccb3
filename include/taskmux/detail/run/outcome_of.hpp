#pragma once

#include <exception>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/handler.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The only place where exceptions of user code are turned into outcomes. Never throws.
template <typename Call>
Outcome outcome_of(Call&& call) noexcept {
  try {
    try {
      return call();
    } catch (const SkipRetry& e) {
      return Outcome::skip_retry(text_of_exception(e));
    } catch (const RevokeTask&) {
      return Outcome::revoke();
    } catch (const RetryAfter& e) {
      return Outcome::retry_after(e.delay(), text_of_exception(e));
    } catch (const std::exception& e) {
      return Outcome::fail(text_of_exception(e));
    } catch (...) {
      return Outcome::fail("the handler threw " + text_of_exception());
    }
  } catch (...) {
    return Outcome::fail("out of memory");  // Short enough to need no allocation.
  }
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
