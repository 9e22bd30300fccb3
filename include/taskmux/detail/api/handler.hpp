#pragma once

#include <any>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/handler.hpp"

namespace taskmux {
inline namespace v0 {

TASKMUX_INLINE std::string_view Context::task_id() const noexcept { return state_->message().id; }
TASKMUX_INLINE std::string_view Context::queue() const noexcept { return state_->message().queue; }
TASKMUX_INLINE std::string_view Context::type() const noexcept {
  return state_->message().task.type;
}
TASKMUX_INLINE const Headers& Context::headers() const noexcept {
  return state_->message().task.headers;
}
TASKMUX_INLINE int Context::retry_count() const noexcept { return state_->message().retried; }
TASKMUX_INLINE int Context::max_retry() const noexcept { return state_->message().max_retry; }
TASKMUX_INLINE Time Context::deadline() const noexcept { return state_->deadline_wall(); }
TASKMUX_INLINE std::stop_token Context::stop_token() const { return state_->stop_token(); }
TASKMUX_INLINE bool Context::stop_requested() const noexcept { return state_->must_stop(); }
TASKMUX_INLINE StopReason Context::stop_reason() const noexcept {
  const StopReason reason = state_->stop_reason();
  return reason == StopReason::none && state_->is_over() ? StopReason::ended : reason;
}
TASKMUX_INLINE bool Context::wait_for(Duration duration) const {
  return state_->wait_for(duration);
}
TASKMUX_INLINE void Context::set_result(std::string result) {
  state_->set_result(std::move(result));
}
TASKMUX_INLINE void Context::set_value(std::string name, std::any value) {
  state_->set_value(std::move(name), std::move(value));
}
TASKMUX_INLINE void Context::log(LogLevel level, std::string_view text) const noexcept {
  state_->log(level, text);
}
TASKMUX_INLINE const std::any* Context::find_value(std::string_view name) const {
  return state_->find_value(name);
}

}  // namespace v0
}  // namespace taskmux
