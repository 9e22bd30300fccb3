#pragma once

#include <unistd.h>

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/client.hpp"
#include "taskmux/detail/base/error_text.hpp"

namespace taskmux {
inline namespace v0 {

TASKMUX_INLINE Client::Client(Broker& broker, ClientConfig config)
    : broker_{broker},
      maker_{{.defaults = std::move(config.defaults),
              .max_payload_bytes = config.max_payload_bytes,
              .clock = std::move(config.clock)}},
      pid_{::getpid()} {}

TASKMUX_INLINE void Client::check_usable() const {
  if (::getpid() != pid_) throw Error{Errc::forked, "enqueue: this client was made before fork()"};
  if (closed_) throw Error{Errc::wrong_state, "enqueue: the client is closed"};
}

TASKMUX_INLINE void Client::prepare(NewTask&& item, std::vector<EnqueueRequest>& requests,
                                    EnqueueResult& result) {
  EnqueueRequest& request = requests.emplace_back();
  try {
    maker_.make(std::move(item.task), item.options, request);
    result.id = request.message.id;
    result.queue = request.message.queue;
  } catch (const Error& e) {
    requests.pop_back();
    result.id = e.task_id();
    result.error = e;
  }
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
  std::vector<EnqueueRequest> requests;
  prepare({std::move(task), std::move(options)}, requests, result);
  if (!requests.empty()) note(broker_.enqueue(std::move(requests)).at(0), result);
  if (result.error) throw *std::move(result.error);
  return result;
}

TASKMUX_INLINE std::vector<EnqueueResult> Client::enqueue_all(std::vector<NewTask> batch) {
  check_usable();
  std::vector<EnqueueResult> results(batch.size());
  std::vector<EnqueueRequest> requests;
  requests.reserve(batch.size());
  for (std::size_t i = 0; i < batch.size(); ++i) prepare(std::move(batch[i]), requests, results[i]);
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
