#pragma once

#include <unistd.h>

#include <chrono>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/client.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/run/task_rules.hpp"

namespace taskmux {
inline namespace v0 {

TASKMUX_INLINE Client::Client(Broker& broker, ClientConfig config)
    : broker_{broker},
      config_{std::move(config)},
      clock_{detail::clock_or_system(config_.clock)},
      pid_{::getpid()} {
  for (const auto& [type, defaults] : config_.defaults) {
    try {
      detail::check_name("the type", type);
      if (defaults.queue) detail::check_name("the queue", *defaults.queue);
      if (defaults.max_retry && *defaults.max_retry < 0) detail::refuse("max_retry", "is negative");
      if (defaults.timeout) detail::check_timeout(*defaults.timeout);
      if (defaults.retention) detail::check_duration("retention", *defaults.retention, Duration{0});
    } catch (const Error& e) {
      throw std::invalid_argument{"ClientConfig::defaults for \"" + type + "\": " + e.what()};
    }
  }
}

TASKMUX_INLINE void Client::check_usable() const {
  if (::getpid() != pid_) throw Error{Errc::forked, "enqueue: this client was made before fork()"};
  if (closed_) throw Error{Errc::wrong_state, "enqueue: the client is closed"};
}

TASKMUX_INLINE void Client::prepare(NewTask&& item, EnqueueRequest& request) const {
  const EnqueueOptions& options = item.options;
  const auto found = config_.defaults.find(item.task.type);
  const TypeDefaults none;
  const TypeDefaults& defaults = found != config_.defaults.end() ? found->second : none;
  const auto pick = [](const auto& first, const auto& second) -> const auto& {
    return first ? first : second;
  };

  TaskMessage& message = request.message;
  message.task = std::move(item.task);
  if (const auto& queue = pick(options.queue, defaults.queue)) {
    message.queue = *queue;
  } else {
    message.queue = "default";
  }
  message.max_retry =
      pick(options.max_retry, defaults.max_retry).value_or(detail::default_max_retry);

  detail::check_name("the type", message.task.type);
  if (options.queue) detail::check_name("the queue", message.queue);
  if (options.task_id) detail::check_name("the task id", *options.task_id);
  if (message.max_retry < 0) detail::refuse("max_retry", "is negative");
  if (!message.task.headers.empty()) detail::check_headers(message.task.headers);
  if (message.task.payload.size() > config_.max_payload_bytes) {
    throw Error{Errc::payload_too_large,
                "enqueue: " + detail::in_words(message) + ": the payload has " +
                    std::to_string(message.task.payload.size()) + " bytes, more than the " +
                    std::to_string(config_.max_payload_bytes) +
                    " of ClientConfig::max_payload_bytes"};
  }

  if (options.process_at && options.process_in)
    detail::refuse("process_at", "and process_in are both given");
  if (options.expires_at && options.expires_in)
    detail::refuse("expires_at", "and expires_in are both given");

  const bool any_instant = options.deadline || options.process_at || options.expires_at;
  const Time now = any_instant ? clock_->now() : Time{};
  if (options.process_at) detail::check_instant("process_at", *options.process_at, now);
  if (options.process_in) detail::check_duration("process_in", *options.process_in, Duration{0});
  request.process_at = options.process_at;
  request.process_in = options.process_in;

  if (const auto& timeout = pick(options.timeout, defaults.timeout)) {
    detail::check_timeout(*timeout);
    message.timeout = detail::whole_seconds(*timeout);
  }
  if (options.deadline) {
    if (*options.deadline <= now) detail::refuse("deadline", "is in the past");
    detail::check_instant("deadline", *options.deadline, now);
    message.deadline = detail::whole_seconds(*options.deadline);
  }
  if (message.timeout.count() == 0 && message.deadline == Time{})
    message.timeout = detail::default_timeout;
  if (const auto& retention = pick(options.retention, defaults.retention)) {
    detail::check_duration("retention", *retention, Duration{0});
    message.retention = detail::whole_seconds(*retention);
  }
  if (options.unique_for) {
    detail::check_duration("unique_for", *options.unique_for, std::chrono::seconds{1});
    request.unique_for = detail::whole_seconds(*options.unique_for);
    request.unique_empty_payload = options.unique_empty_payload;
  }
  if (options.idempotent_for) {
    detail::check_duration("idempotent_for", *options.idempotent_for, std::chrono::seconds{1});
    request.idempotent_for = detail::whole_seconds(*options.idempotent_for);
  }
  if (options.expires_at) {
    if (*options.expires_at <= now) detail::refuse("expires_at", "is in the past");
    detail::check_instant("expires_at", *options.expires_at, now);
    message.expires_at = *options.expires_at;
  }
  if (options.expires_in) {
    detail::check_duration("expires_in", *options.expires_in, Duration{1});
    request.expires_in = options.expires_in;
  }
  if (options.deadline && options.process_at && *options.deadline <= *options.process_at)
    detail::refuse("deadline", "is not after process_at: no attempt could succeed");
  if (options.deadline && options.process_in && *options.deadline - now <= *options.process_in)
    detail::refuse("deadline", "comes before process_in has passed: no attempt could succeed");
  // One by the broker's clock and one by ours can't be compared.
  if (options.process_in && options.expires_in && *options.expires_in <= *options.process_in)
    detail::refuse("expires_in", "is not longer than process_in");
  if (options.process_at && options.expires_at && *options.expires_at <= *options.process_at)
    detail::refuse("expires_at", "is not after process_at");
}

TASKMUX_INLINE bool Client::prepare(NewTask&& item, EnqueueRequest& request, EnqueueResult& result) {
  result.id = item.options.task_id ? *item.options.task_id : ids_.next();
  request.message.id = result.id;
  try {
    prepare(std::move(item), request);
  } catch (const Error& e) {
    result.error.emplace(e.errc(), e.what(), result.id);
    return false;
  }
  result.queue = request.message.queue;
  return true;
}

TASKMUX_INLINE void Client::note(const EnqueueReply& reply, EnqueueResult& result) {
  if (reply.error) {
    std::string text = "enqueue: " + detail::task_in_words(result.id, {}, result.queue) + ": ";
    text += reply.detail.empty() ? std::string{to_string(*reply.error)} : reply.detail;
    result.error.emplace(*reply.error, text, result.id);
  } else {
    result.state = reply.state;
    result.process_at = reply.process_at;
    result.replicated = reply.replicated;
    result.accepted_before = reply.accepted_before;
  }
}

TASKMUX_INLINE EnqueueResult Client::enqueue(Task task, EnqueueOptions options) {
  check_usable();
  EnqueueResult result;
  std::vector<EnqueueRequest> requests(1);
  if (prepare({std::move(task), std::move(options)}, requests.front(), result))
    note(broker_.enqueue(std::move(requests)).at(0), result);
  if (result.error) throw *std::move(result.error);
  return result;
}

TASKMUX_INLINE std::vector<EnqueueResult> Client::enqueue_all(std::vector<NewTask> batch) {
  check_usable();
  std::vector<EnqueueResult> results(batch.size());
  std::vector<EnqueueRequest> requests;
  requests.reserve(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    if (!prepare(std::move(batch[i]), requests.emplace_back(), results[i])) requests.pop_back();
  }
  if (requests.empty()) return results;

  const std::vector<EnqueueReply> replies = broker_.enqueue(std::move(requests));
  std::size_t sent = 0;  // Those that were refused here have no reply.
  for (EnqueueResult& result : results) {
    if (!result.error) note(replies.at(sent++), result);
  }
  return results;
}

}  // namespace v0
}  // namespace taskmux
