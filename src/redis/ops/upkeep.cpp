#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lua_arguments.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/ops/operations.hpp"
#include "redis/ops/runs.hpp"
#include "taskmux/detail/base/earlier.hpp"

namespace taskmux::redis {

Upkeep::Ranks Upkeep::ranks_of(const std::string& queue) {
  detail::MutexLock lock{mutex_};
  const auto found = ranks_.find(queue);
  return found == ranks_.end() ? Ranks{} : found->second;
}

void Upkeep::set_ranks(const std::string& queue, Ranks ranks) {
  detail::MutexLock lock{mutex_};
  if (ranks.due == 0 && ranks.active == 0) {
    ranks_.erase(queue);
  } else {
    ranks_[queue] = ranks;
  }
}

namespace {

// Each text is of one of upkeep's roles.
void note_faults(Session& session, const std::string& subject, const std::string& queue,
                 ReplyView texts) {
  if (texts.size() == 0) return session.queue_health().worked(QueueOperation::upkeep, queue);
  std::string causes;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const std::string_view text = texts[i].as_string();
    if (errc_of(text) == Errc::unavailable) continue;
    causes += (causes.empty() ? ": " : "; ") + printable(text);
  }
  if (!causes.empty()) {
    session.queue_health().failed(QueueOperation::upkeep, queue, Error{Errc::protocol, subject + causes});
  }
}

// A queue's part of a script's reply.
void read_queue(Session& session, const std::string& subject, const std::string& queue,
                std::uint64_t block, ReplyView answer, UpkeepReply& reply) {
  answer.expect_array(10);
  reply.forwarded += static_cast<std::size_t>(answer[0].as_integer());
  reply.expired += static_cast<std::size_t>(answer[1].as_integer());
  reply.repaired += static_cast<std::size_t>(answer[2].as_integer());
  if (!answer[3].is_nil()) {
    reply.next_due = detail::earlier(reply.next_due, time_of(answer[3].as_integer()));
  }
  reply.more = reply.more || answer[4].as_integer() != 0;
  note_faults(session, subject, queue, answer[8]);
  RunReader reader{session, block};
  reader.read_lost(queue, answer[5], answer[9], reply.lost);
  reply.repaired += reader.set_aside();
}

}  // namespace

Call Upkeep::call_on(Session& session, const UpkeepRequest& request, Part& part) {
  Call call = session.call_on_queues(scripts().upkeep, part.queues);
  session.add_now_or_never(call.args, part.queues.front());
  // An outage of Redis must not make every run look lost: their owners could not extend them
  // either.
  if (session.options().clock)
    session.note_time(part.queues.front(), session.options().clock->now(), session.steady_now());
  const bool recover = request.recover && session.in_contact_for(request.lease, call.slot_key);
  const auto limit = std::clamp<std::size_t>(request.limit, 1, bound::upkeep);
  lua::Upkeep{.limit = limit,
              .lease_time = micros(request.lease),
              .looks_for_lost = recover,
              .bytes = session.transport().line().budget(),
              .effort = bound::effort}
      .append_to(call.args);
  for (const std::string& queue : part.queues) {
    const Ranks ranks = ranks_of(queue);
    part.blocks.push_back(session.token_block());
    lua::Upkeep::Queue{.block = hex_of_block(part.blocks.back()),
                       .due_rank = ranks.due,
                       .active_rank = ranks.active}
        .append_to(call.args);
  }
  if (!recover) return call;
  for (const Run& run : request.own) {
    const bool here = run.message && std::ranges::find(part.queues, run.message->queue) !=
                                         part.queues.end();
    if (here) lua::Upkeep::Own{.token = hex_of_token(run.token)}.append_to(call.args);
  }
  return call;
}

/// Returns how many of the queues have been dealt with, which is at least one.
std::size_t Upkeep::read(Session& session, const Part& part, const Reply& answer, UpkeepReply& reply) {
  throw_if_error("upkeep of queue \"" + printable(part.queues.front()) + "\"", answer);
  answer.expect_array(2);
  reply.now = time_of(answer[0].as_integer());
  const std::size_t count = std::min(answer.size() - 1, part.queues.size());
  for (std::size_t i = 0; i < count; ++i) {
    const std::string& queue = part.queues[i];
    const auto subject = "upkeep of queue \"" + printable(queue) + "\"";
    const ReplyView of_queue = answer[i + 1];
    of_queue.expect_array(10);
    set_ranks(queue, {.due = of_queue[6].as_integer(), .active = of_queue[7].as_integer()});
    read_queue(session, subject, queue, part.blocks[i], of_queue, reply);
  }
  return count;
}

UpkeepReply Upkeep::step(Session& session, const UpkeepRequest& request) {
  UpkeepReply reply;
  std::optional<Error> failure;
  bool any = false;
  const std::size_t most = session.cluster() ? 1 : bound::queues;
  std::span<const std::string> left = request.queues;
  std::vector<Part> parts;
  while (!left.empty()) {
    parts.push_back({.queues = left.first(std::min(most, left.size()))});
    left = left.subspan(parts.back().queues.size());
  }
  while (!parts.empty()) {
    std::vector<Call> calls;
    for (Part& part : parts) calls.push_back(call_on(session, request, part));
    const SteadyTime sent_at = session.steady_now();
    const std::vector<Reply> answers = session.run(calls);
    std::vector<Part> unfinished;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      try {
        const std::size_t done = read(session, parts[i], answers[i], reply);
        any = true;
        session.note_time(parts[i].queues.front(), reply.now, sent_at);
        if (done < parts[i].queues.size()) {
          unfinished.push_back({.queues = parts[i].queues.subspan(done)});
        }
      } catch (const Error& error) {
        if (!failure) failure = error;
        session.queue_health().failed(QueueOperation::upkeep, parts[i].queues.front(), error);
      }
    }
    parts = std::move(unfinished);
  }
  if (failure && !any) throw *failure;
  if (!any) reply.now = session.now();
  return reply;
}

}  // namespace taskmux::redis
