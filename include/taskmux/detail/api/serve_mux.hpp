#pragma once

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/serve_mux.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The one place where exceptions of user code turn into outcomes. Never throws.
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
    return Outcome::fail("out of memory");  // Short enough to need none.
  }
}

/// Blank as asynq means it, for ASCII: empty, or only white space.
constexpr bool is_blank(std::string_view text) noexcept {
  return text.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos;
}

}  // namespace detail

inline Outcome Next::operator()(Context& context, const Task& task) const noexcept {
  return detail::outcome_of([&] {
    if (index_ == chain_.size()) return handler_.handle(context, task);
    return chain_[index_](context, task, Next{chain_, index_ + 1, handler_});
  });
}

inline void ServeMux::handle(std::string pattern, std::unique_ptr<TaskHandler> handler,
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

inline void ServeMux::use(Middleware middleware) {
  if (!middleware) throw std::invalid_argument{"ServeMux::use: the middleware is empty"};
  middleware_.push_back(std::move(middleware));
}

inline void ServeMux::not_found(std::unique_ptr<TaskHandler> handler) {
  if (!handler) throw std::invalid_argument{"ServeMux::not_found: no handler"};
  not_found_ = std::move(handler);
}

inline TaskRoute ServeMux::route(std::string_view type) const noexcept {
  TaskRoute route;
  const auto* const found = find(type);
  route.handler = found        ? found->second.handler.get()
                  : not_found_ ? not_found_.get()
                               : default_not_found_.get();
  refine(type, route);
  return route;
}

/// What this mux knows of the type counts more than what is in `route`, and what its handler knows
/// if that is a mux counts more than both.
inline void ServeMux::refine(std::string_view type, TaskRoute& route) const noexcept {
  const auto* const found = find(type);
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

inline Outcome ServeMux::handle(Context& context, const Task& task) noexcept {
  return handle(context, task, route(task.type));
}

inline Outcome ServeMux::handle(Context& context, const Task& task,
                                const TaskRoute& route) const noexcept {
  return Next{middleware_, 0, *route.handler}(context, task);
}

inline Outcome ServeMux::DefaultNotFound::handle(Context&, const Task& task) {
  return Outcome::fail("handler not found for task \"" + task.type + '"');
}

inline const ServeMux::Registrations::value_type* ServeMux::find(
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
