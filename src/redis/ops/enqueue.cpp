#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "lua_arguments.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/ops/operations.hpp"

namespace taskmux::redis {
namespace {

// Redis's own limit for a string.
constexpr std::size_t most_message_bytes = 512u << 20;

// The maximum number of items in a part of a batch, which is sent in one pipeline.
constexpr std::size_t most_items = 8 * bound::items;

// The items of one script call.
struct Chunk {
  std::string queue{};
  std::vector<std::size_t> items{};
  std::size_t bytes = 0;
  Call call{};
  std::size_t needs = 0;  // The index of the argument that says what the tasks need.
};

class Enqueuer {
 public:
  Enqueuer(Session& session, std::vector<EnqueueRequest> batch)
      : session_{session}, batch_{std::move(batch)}, replies_(batch_.size()) {}

  std::vector<EnqueueReply> run() {
    for (std::size_t i = 0; i < batch_.size(); ++i) add(i);
    send();
    while (!again_.empty()) {
      for (const std::size_t item : std::exchange(again_, {})) add(item);
      send();
    }
    return std::move(replies_);
  }

 private:
  void add(std::size_t item) {
    TaskMessage& message = batch_[item].message;
    const EnqueueRequest& request = batch_[item];
    if (const auto away = away_.find(message.queue); away != away_.end())
      return refuse(item, away->second.errc(), "not sent: " + std::string{away->second.what()});
    message.unique_key.clear();
    std::string bytes;
    try {
      const Keys keys = session_.keys(message.queue);
      if (request.unique_for.count() > 0) {
        const std::string& payload = message.task.payload;
        const bool none = payload.empty() && !request.unique_empty_payload;
        message.unique_key = keys.unique(
            message.task.type, none ? std::nullopt : std::optional{std::string_view{payload}});
      }
      bytes = encode_message(message);
    } catch (const Error& error) {
      return refuse(item, error.errc(), error.what());
    }
    if (bytes.size() >= most_message_bytes) {
      return refuse(item, Errc::payload_too_large, "Redis takes 512 MiB at most");
    }

    const std::size_t budget = session_.transport().line().budget();
    if (items_ > 0 && (items_ >= most_items || bytes_ + bytes.size() > budget)) {
      send();
      if (away_.contains(message.queue)) return add(item);
    }
    ++items_;
    bytes_ += bytes.size();
    Chunk& chunk = chunk_for(message.queue, bytes.size());
    chunk.items.push_back(item);
    chunk.bytes += bytes.size();
    std::vector<std::string>& args = chunk.call.args;
    std::string due = instant(request.process_at, request.process_in);
    std::string expiry = instant(if_set(message.expires_at), request.expires_in);
    const std::int64_t idempotent_for = request.idempotent_for.count();
    if (message.unique_key.empty() && due.empty() && expiry.empty() && message.max_retry > 0 &&
        idempotent_for == 0) {
      lua::Enqueue::Plain{.id = message.id, .message = std::move(bytes)}.append_to(args);
      return;
    }
    if (!due.empty()) need('d', args[chunk.needs]);
    if (idempotent_for > 0) need('r', args[chunk.needs]);
    lua::Enqueue::Special{.id = message.id,
                          .message = std::move(bytes),
                          .lock = message.unique_key,
                          .lock_seconds = request.unique_for.count(),
                          .due = std::move(due),
                          .expires = std::move(expiry),
                          .retries = message.max_retry > 0,
                          .remembered_seconds = idempotent_for}
        .append_to(args);
  }

  static void need(char what, std::string& needs) {
    if (needs.find(what) == std::string::npos) needs.push_back(what);
  }

  // In the form that the script expects; the delay takes precedence.
  static std::string instant(std::optional<Time> at, std::optional<Duration> in) {
    if (in) return std::string{'+'}.append(micros(*in));
    return at ? micros(*at) : std::string{};
  }

  Chunk& chunk_for(const std::string& queue, std::size_t more_bytes) {
    const auto open = std::find_if(chunks_.rbegin(), chunks_.rend(),
                                   [&](const Chunk& chunk) { return chunk.queue == queue; });
    if (open != chunks_.rend() && open->items.size() < bound::items &&
        open->bytes + more_bytes <= bound::bytes) {
      return *open;
    }
    Chunk& chunk = chunks_.emplace_back(
        Chunk{.queue = queue, .call = session_.call(queue, lua::Enqueue{.needs = ""})});
    chunk.needs = chunk.call.args.size() - 1;
    return chunk;
  }

  /// Sends the items added since the last call: a part of the batch with its own deadline, so that
  /// a batch of any size is sent as long as Redis answers. After a failure, later items for the
  /// same queues are not sent: waiting for each further part would be in vain.
  void send() {
    if (!chunks_.empty()) send_part();
    chunks_.clear();
    items_ = 0;
    bytes_ = 0;
  }

  void send_part() {
    std::vector<Call> calls;
    try {
      register_queues(calls);
      const std::size_t first = calls.size();
      for (Chunk& chunk : chunks_) calls.push_back(std::move(chunk.call));
      send(calls, first);
    } catch (const Error& error) {
      for (const Chunk& chunk : chunks_) refuse_all(chunk, error);
    }
  }

  // Repeated each time, since the queue may have been deleted in the meantime. In a cluster the set
  // lies on another node than the tasks, so it is written first.
  void register_queues(std::vector<Call>& calls) {
    Call add = Session::command(session_.global().queues(), {"SADD", session_.global().queues()});
    std::set<std::string> names;
    for (const Chunk& chunk : chunks_) names.insert(chunk.queue);
    add.args.insert(add.args.end(), names.begin(), names.end());
    calls.push_back(std::move(add));
    if (!session_.cluster()) return;
    throw_unless_full(session_.run(calls).front());
    calls.clear();
  }

  // A full Redis then refuses the tasks, too, each with its own reply.
  static void throw_unless_full(const Reply& reply) {
    if (reply.is_error() && errc_of(reply) != Errc::queue_full)
      throw_if_error("enqueue: add to the set of queues", reply);
  }

  // The tasks are in their queues anyway, and servers run them; only listings of queues lack these
  // queues.
  void note_registered(const Reply& reply) {
    if (!reply.is_error()) return session_.queue_health().worked(QueueOperation::list, {});
    if (errc_of(reply) == Errc::queue_full) return;
    session_.queue_health().failed(QueueOperation::list, {}, error_of("enqueue: add to the set of queues", reply));
  }

  void send(const std::vector<Call>& calls, std::size_t first) {
    const RedisOptions& options = session_.options();
    WaitedReplies waited;
    if (options.wait_replicas > 0) {
      waited = session_.transport().run_and_wait(
          calls, options.wait_replicas,
          std::chrono::ceil<std::chrono::milliseconds>(options.wait_timeout));
    } else {
      waited.replies = session_.run(calls);
      waited.replicas.assign(calls.size(), 0);
    }
    if (first > 0) note_registered(waited.replies.front());
    for (std::size_t i = 0; i < chunks_.size(); ++i) {
      read(chunks_[i], waited.replies[first + i],
           waited.replicas[first + i] >= options.wait_replicas);
    }
  }

  void read(const Chunk& chunk, const Reply& reply, bool replicated) {
    const auto subject = [&] { return "enqueue \"" + printable(chunk.queue) + "\""; };
    try {
      throw_if_error(subject(), reply);
      reply.expect_array(chunk.items.size());
      for (std::size_t i = 0; i < chunk.items.size(); ++i) {
        read(chunk.items[i], reply[i].as_integer(), replicated);
      }
    } catch (const Error& error) {
      if (error.errc() == Errc::payload_too_large) return refuse_largest(chunk, error);
      refuse_all(chunk, error);
    }
  }

  // Redis refused the call for the length of one argument, and so did not execute it: the others are sent
  // again without it.
  void refuse_largest(const Chunk& chunk, const Error& error) {
    const auto size = [&](std::size_t item) { return batch_[item].message.task.payload.size(); };
    const std::size_t largest = *std::max_element(
        chunk.items.begin(), chunk.items.end(),
        [&](std::size_t one, std::size_t other) { return size(one) < size(other); });
    for (const std::size_t item : chunk.items) {
      if (item != largest) again_.push_back(item);
    }
    refuse(largest, error.errc(), error.what());
  }

  void refuse_all(const Chunk& chunk, const Error& error) {
    for (const std::size_t item : chunk.items) refuse(item, error.errc(), error.what());
    if (error.errc() == Errc::unavailable) away_.emplace(chunk.queue, error);
  }

  void read(std::size_t item, std::int64_t outcome, bool replicated) {
    if (outcome == -1) {
      return refuse(item, Errc::duplicate_task,
                    "a task of the same queue, type and payload holds the lock");
    }
    if (outcome == -2) {
      return refuse(item, Errc::task_id_conflict, "the queue holds a task of this id");
    }
    if (outcome == -3) return refuse(item, Errc::queue_full, "Redis has reached its maxmemory");
    replies_[item].replicated = replicated;
    if (outcome == -4) {
      replies_[item].accepted_before = true;
      return;
    }
    if (outcome > 0) {
      replies_[item].state = TaskState::scheduled;
      replies_[item].process_at = time_of(outcome);
    }
  }

  void refuse(std::size_t item, Errc errc, std::string detail) {
    replies_[item].error = errc;
    replies_[item].detail = std::move(detail);
  }

  Session& session_;
  std::vector<EnqueueRequest> batch_;
  std::vector<EnqueueReply> replies_;
  std::map<std::string, Error> away_;  // queues that could not be reached, and why
  std::vector<std::size_t> again_;  // were not sent, since another item of their call was refused
  // Of the part that is sent next:
  std::vector<Chunk> chunks_;
  std::size_t items_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace

std::vector<EnqueueReply> enqueue(Session& session, std::vector<EnqueueRequest> batch) {
  return Enqueuer{session, std::move(batch)}.run();
}

}  // namespace taskmux::redis
