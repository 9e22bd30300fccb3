#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/run/task_rules.hpp"
#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Makes enqueue requests: checks a task and its options, fills in the defaults of its type, rounds
/// what the wire format stores in whole seconds, and assigns an id. Does not use a broker.
/// Thread-safe.
class RequestMaker {
 public:
  struct Rules {
    /// Defaults by task type; the type must match exactly.
    std::map<std::string, TypeDefaults, std::less<>> defaults{};
    /// A larger payload is refused.
    std::size_t max_payload_bytes = Limits::payload_bytes;
    /// The clock that instants (`deadline`, `expires_at`) are checked against; the machine's clock
    /// when null.
    std::shared_ptr<Clock> clock{};
    /// The name of the settings that these rules come from, for error texts.
    std::string settings = "ClientConfig";
  };

  /// Throws std::invalid_argument if the defaults hold a value that make() would refuse.
  explicit RequestMaker(Rules rules)
      : rules_{std::move(rules)}, clock_{clock_or_system(rules_.clock)} {
    for (const auto& [type, defaults] : rules_.defaults) {
      try {
        check(type, defaults);
      } catch (const Error& e) {
        throw std::invalid_argument{rules_.settings + "::defaults for \"" + type +
                                    "\": " + e.what()};
      }
    }
  }

  /// Returns the request for `task`, with the id of the options or a new one. Throws
  /// Error{invalid_argument} or {payload_too_large}, whose task_id() is the id in any case.
  EnqueueRequest make(Task task, const EnqueueOptions& options) {
    EnqueueRequest request;
    make(std::move(task), options, request);
    return request;
  }

  /// The same, in place, since a request is expensive to move. `request` must be
  /// default-constructed; if this throws, it must not be used.
  void make(Task&& task, const EnqueueOptions& options, EnqueueRequest& request) {
    if (options.task_id) {
      request.message.id = *options.task_id;
    } else {
      request.message.id = ids_.next();
    }
    request.message.task = std::move(task);
    try {
      fill(options, request);
    } catch (const Error& e) {
      throw Error{e.errc(), e.what(), request.message.id};
    }
  }

 private:
  static void check(const std::string& type, const TypeDefaults& defaults) {
    check_name("the type", type);
    if (defaults.queue) check_name("the queue", *defaults.queue);
    if (defaults.max_retry && *defaults.max_retry < 0) refuse("max_retry", "is negative");
    if (defaults.timeout) check_timeout(*defaults.timeout);
    if (defaults.retention) check_duration("retention", *defaults.retention, Duration{0});
  }

  const TypeDefaults& defaults_of(const std::string& type) const {
    const auto found = rules_.defaults.find(type);
    return found != rules_.defaults.end() ? found->second : no_defaults_;
  }

  /// Returns the option, or else the default of the type.
  template <typename T>
  static const std::optional<T>& pick(const std::optional<T>& option,
                                      const std::optional<T>& of_type) noexcept {
    return option ? option : of_type;
  }

  void fill(const EnqueueOptions& options, EnqueueRequest& request) const {
    TaskMessage& message = request.message;
    const TypeDefaults& defaults = defaults_of(message.task.type);
    if (const auto& queue = pick(options.queue, defaults.queue)) {
      message.queue = *queue;
    } else {
      message.queue = "default";
    }
    message.max_retry = pick(options.max_retry, defaults.max_retry).value_or(default_max_retry);
    check_task(options, message);

    const bool any_instant = options.deadline || options.process_at || options.expires_at;
    const Time now = any_instant ? clock_->now() : Time{};
    set_start(options, now, request);
    set_limits(options, defaults, now, message);
    set_locks(options, request);
    set_expiry(options, now, request);
    check_order(options, now);
  }

  void check_task(const EnqueueOptions& options, const TaskMessage& message) const {
    check_name("the type", message.task.type);
    if (options.queue) check_name("the queue", message.queue);
    if (options.task_id) check_name("the task id", *options.task_id);
    if (message.max_retry < 0) refuse("max_retry", "is negative");
    if (!message.task.headers.empty()) check_headers(message.task.headers);
    const std::size_t bytes = message.task.payload.size();
    if (bytes <= rules_.max_payload_bytes) return;
    throw Error{Errc::payload_too_large,
                "enqueue: " + task_in_words(message.id, message.task.type, message.queue) +
                    ": the payload has " + std::to_string(bytes) + " bytes, more than the " +
                    std::to_string(rules_.max_payload_bytes) + " of " + rules_.settings +
                    "::max_payload_bytes"};
  }

  static void set_start(const EnqueueOptions& options, Time now, EnqueueRequest& request) {
    if (options.process_at && options.process_in)
      refuse("process_at", "and process_in are both given");
    if (options.process_at) check_instant("process_at", *options.process_at, now);
    if (options.process_in) check_duration("process_in", *options.process_in, Duration{0});
    request.process_at = options.process_at;
    request.process_in = options.process_in;
  }

  static void set_limits(const EnqueueOptions& options, const TypeDefaults& defaults, Time now,
                         TaskMessage& message) {
    if (const auto& timeout = pick(options.timeout, defaults.timeout)) {
      check_timeout(*timeout);
      message.timeout = whole_seconds(*timeout);
    }
    if (options.deadline) {
      if (*options.deadline <= now) refuse("deadline", "is in the past");
      check_instant("deadline", *options.deadline, now);
      message.deadline = whole_seconds(*options.deadline);
    }
    if (message.timeout.count() == 0 && message.deadline == Time{})
      message.timeout = default_timeout;
    if (const auto& retention = pick(options.retention, defaults.retention)) {
      check_duration("retention", *retention, Duration{0});
      message.retention = whole_seconds(*retention);
    }
  }

  static void set_locks(const EnqueueOptions& options, EnqueueRequest& request) {
    if (options.unique_for) {
      check_duration("unique_for", *options.unique_for, std::chrono::seconds{1});
      request.unique_for = whole_seconds(*options.unique_for);
      request.unique_empty_payload = options.unique_empty_payload;
    }
    if (options.idempotent_for) {
      check_duration("idempotent_for", *options.idempotent_for, std::chrono::seconds{1});
      request.idempotent_for = whole_seconds(*options.idempotent_for);
    }
  }

  static void set_expiry(const EnqueueOptions& options, Time now, EnqueueRequest& request) {
    if (options.expires_at && options.expires_in)
      refuse("expires_at", "and expires_in are both given");
    if (options.expires_at) {
      if (*options.expires_at <= now) refuse("expires_at", "is in the past");
      check_instant("expires_at", *options.expires_at, now);
      request.message.expires_at = *options.expires_at;
    }
    if (options.expires_in) {
      check_duration("expires_in", *options.expires_in, Duration{1});
      request.expires_in = options.expires_in;
    }
  }

  /// Throws if the task would end before it may begin.
  static void check_order(const EnqueueOptions& options, Time now) {
    if (options.deadline && options.process_at && *options.deadline <= *options.process_at)
      refuse("deadline", "is not after process_at: no attempt could succeed");
    if (options.deadline && options.process_in && *options.deadline - now <= *options.process_in)
      refuse("deadline", "comes before process_in has passed: no attempt could succeed");
    // An instant on the broker's clock and one on this machine's clock can't be compared.
    if (options.process_in && options.expires_in && *options.expires_in <= *options.process_in)
      refuse("expires_in", "is not longer than process_in");
    if (options.process_at && options.expires_at && *options.expires_at <= *options.process_at)
      refuse("expires_at", "is not after process_at");
  }

  const Rules rules_;
  const TypeDefaults no_defaults_{};
  const std::shared_ptr<Clock> clock_;
  UuidSource ids_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
