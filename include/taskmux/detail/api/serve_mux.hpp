#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/detail/run/outcome_of.hpp"
#include "taskmux/serve_mux.hpp"

namespace taskmux {
inline namespace v0 {
TASKMUX_INLINE Outcome Next::operator()(Context& context, const Task& task) const noexcept {
  return detail::outcome_of([&] {
    if (index_ == chain_.size()) return handler_.handle(context, task);
    return chain_[index_](context, task, Next{chain_, index_ + 1, handler_});
  });
}

TASKMUX_INLINE ServeMux::ServeMux() : default_not_found_{std::make_unique<DefaultNotFound>()} {}
TASKMUX_INLINE ServeMux::ServeMux(ServeMux&&) noexcept = default;
TASKMUX_INLINE ServeMux& ServeMux::operator=(ServeMux&&) noexcept = default;
TASKMUX_INLINE ServeMux::~ServeMux() = default;

TASKMUX_INLINE void ServeMux::handle(std::string pattern, std::unique_ptr<TaskHandler> handler,
                             HandleOptions options) {
  if (detail::is_blank(pattern))
    throw std::invalid_argument{"ServeMux::handle: the pattern is blank"};
  if (!handler) throw std::invalid_argument{"ServeMux::handle: no handler for \"" + pattern + '"'};
  if (options.timeout && *options.timeout <= Duration{0}) {
    throw std::invalid_argument{"ServeMux::handle: the timeout for \"" + pattern +
                                "\" is not positive; leave it out for none"};
  }
  if (routes_.contains(pattern)) {
    throw std::invalid_argument{"ServeMux::handle: \"" + pattern + "\" is registered already"};
  }
  routes_.emplace(std::move(pattern), Registration{std::move(handler), std::move(options)});
}

TASKMUX_INLINE void ServeMux::use(Middleware middleware) {
  if (!middleware) throw std::invalid_argument{"ServeMux::use: the middleware is empty"};
  middleware_.push_back(std::move(middleware));
}

TASKMUX_INLINE void ServeMux::not_found(std::unique_ptr<TaskHandler> handler) {
  if (!handler) throw std::invalid_argument{"ServeMux::not_found: no handler"};
  not_found_ = std::move(handler);
}

TASKMUX_INLINE TaskRoute ServeMux::route(std::string_view type) const noexcept {
  TaskRoute route;
  const auto* const found = find(type);
  route.handler = &handler_of(found);
  refine(found, type, route);
  return route;
}

TASKMUX_INLINE TaskHandler& ServeMux::handler_of(
    const Registrations::value_type* found) const noexcept {
  if (found != nullptr) return *found->second.handler;
  return not_found_ ? *not_found_ : *default_not_found_;
}

TASKMUX_INLINE void ServeMux::refine(std::string_view type, TaskRoute& route) const noexcept {
  refine(find(type), type, route);
}

/// What this mux knows of the type counts more than what is in `route`, and what its handler knows
/// if that is a mux counts more than both.
TASKMUX_INLINE void ServeMux::refine(const Registrations::value_type* found, std::string_view type,
                                     TaskRoute& route) const noexcept {
  route.known = found != nullptr || not_found_ != nullptr;
  if (found != nullptr) {
    const auto& [pattern, registration] = *found;
    route.pattern = pattern;
    if (registration.options.retry_policy) route.retry_policy = &registration.options.retry_policy;
    if (registration.options.timeout) route.timeout = registration.options.timeout;
    registration.handler->refine(type, route);
  } else if (not_found_) {
    not_found_->refine(type, route);
  }
}

TASKMUX_INLINE Outcome ServeMux::handle(Context& context, const Task& task) noexcept {
  return Next{middleware_, 0, handler_of(find(task.type))}(context, task);
}

TASKMUX_INLINE Outcome ServeMux::handle(Context& context, const Task& task,
                                const TaskRoute& route) const noexcept {
  return Next{middleware_, 0, *route.handler}(context, task);
}

TASKMUX_INLINE Outcome ServeMux::DefaultNotFound::handle(Context&, const Task& task) {
  return Outcome::fail("handler not found for task \"" + task.type + '"');
}

TASKMUX_INLINE const ServeMux::Registrations::value_type* ServeMux::find(
    std::string_view type) const noexcept {
  // The greatest pattern <= the text is either a prefix of it, or shares a shorter prefix with it
  // than which no match can be.
  std::string_view text = type;
  while (!text.empty()) {
    const auto it = routes_.lower_bound(text);
    if (it == routes_.end()) return nullptr;
    const std::string& pattern = it->first;
    if (text.starts_with(pattern)) return &*it;
    std::size_t shared = 0;
    while (shared < pattern.size() && shared < text.size() && pattern[shared] == text[shared])
      ++shared;
    text = text.substr(0, shared);
  }
  return nullptr;
}

}  // namespace v0
}  // namespace taskmux
