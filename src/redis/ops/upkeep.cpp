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
#include "redis/watch/watch_hub.hpp"
#include "taskmux/detail/base/earlier.hpp"

namespace taskmux::redis {

namespace {

// Of the queues that are known to need nothing.
constexpr std::size_t asked_in_turn = 24;

// The fields of a queue in the script's reply.
enum Field : std::size_t {
  forwarded,
  expired,
  repaired,
  next_due,
  more,
  lost,
  due_rank,
  active_rank,
  errors,
  marks,
  ready,
  next_loss,
  next_work,
  fields
};

// Each text is of one part of upkeep.
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

std::string subject_of(const std::string& queue) {
  return "upkeep of queue \"" + printable(queue) + "\"";
}

std::optional<Time> instant_in(ReplyView micros) {
  if (micros.is_nil()) return std::nullopt;
  return time_of(micros.as_integer());
}

}  // namespace

/// Returns the queues to call for now, in their order. Adds to `reply` what is known of the others.
std::vector<Upkeep::Queue> Upkeep::choose(const Session& session, const UpkeepRequest& request,
                                          UpkeepReply& reply) {
  const std::vector<std::uint64_t> looks = watches_.looks(request.queues);
  struct Idle {
    std::uint64_t step;
    std::size_t number;
  };
  std::vector<Idle> idle;
  detail::MutexLock lock{mutex_};
  ++steps_;
  std::vector<bool> asked(looks.size(), true);
  for (std::size_t i = 0; i < looks.size(); ++i) {
    const auto found = known_.find(request.queues[i]);
    if (looks[i] == 0 || found == known_.end() || found->second.look != looks[i]) continue;
    const std::optional<Time> now = session.known_time(request.queues[i]);
    if (!now || *now >= found->second.work_at) continue;
    asked[i] = false;
    idle.push_back({found->second.step, i});
  }
  const auto longest_ago = [](const Idle& a, const Idle& b) { return a.step < b.step; };
  const std::size_t in_turn = std::min(asked_in_turn, idle.size());
  std::nth_element(idle.begin(), idle.begin() + static_cast<std::ptrdiff_t>(in_turn), idle.end(),
                   longest_ago);
  for (std::size_t n = 0; n < in_turn; ++n) asked[idle[n].number] = true;
  std::vector<Queue> queues;
  for (std::size_t i = 0; i < looks.size(); ++i) {
    const auto found = known_.find(request.queues[i]);
    const Known known = found == known_.end() ? Known{} : found->second;
    if (asked[i]) {
      queues.push_back({.name = request.queues[i],
                        .look = looks[i],
                        .due_rank = known.due_rank,
                        .active_rank = known.active_rank});
    } else {
      reply.next_due = detail::earlier(reply.next_due, known.due);
    }
  }
  return queues;
}

Call Upkeep::call_on(Session& session, const UpkeepRequest& request, std::span<Queue> part) {
  std::vector<std::string> names;
  for (const Queue& queue : part) names.push_back(queue.name);
  Call call = session.call_on_queues(scripts().upkeep, names);
  session.add_now_or_never(call.args, part.front().name);
  // An outage of Redis must not make every run look lost: their owners could not extend them
  // either.
  if (session.options().clock)
    session.note_time(part.front().name, session.options().clock->now(), session.steady_now());
  const bool recover = request.recover && session.in_contact_for(request.lease, call.slot_key);
  const auto limit = std::clamp<std::size_t>(request.limit, 1, bound::upkeep);
  lua::Upkeep{.limit = limit,
              .lease_time = micros(request.lease),
              .looks_for_lost = recover,
              .bytes = session.transport().line().budget(),
              .effort = bound::effort}
      .append_to(call.args);
  for (Queue& queue : part) {
    queue.block = session.token_block();
    lua::Upkeep::Queue{.block = hex_of_block(queue.block),
                       .due_rank = queue.due_rank,
                       .active_rank = queue.active_rank}
        .append_to(call.args);
  }
  if (!recover) return call;
  for (const Run& run : request.own) {
    const bool here =
        run.message && std::ranges::find(part, run.message->queue, &Queue::name) != part.end();
    if (here) lua::Upkeep::Own{.token = hex_of_token(run.token)}.append_to(call.args);
  }
  return call;
}

/// Returns how many of the queues were processed, which is at least one.
std::size_t Upkeep::read(Session& session, std::span<const Queue> part, const Reply& answer,
                         UpkeepReply& reply) {
  throw_if_error(subject_of(part.front().name), answer);
  answer.expect_array(2);
  reply.now = time_of(answer[0].as_integer());
  const std::size_t count = std::min(answer.size() - 1, part.size());
  for (std::size_t i = 0; i < count; ++i) read_queue(session, part[i], answer[i + 1], reply);
  return count;
}

void Upkeep::read_queue(Session& session, const Queue& queue, ReplyView answer,
                        UpkeepReply& reply) {
  answer.expect_array(Field::fields);
  remember(session, queue, answer);
  reply.forwarded += static_cast<std::size_t>(answer[Field::forwarded].as_integer());
  reply.expired += static_cast<std::size_t>(answer[Field::expired].as_integer());
  reply.repaired += static_cast<std::size_t>(answer[Field::repaired].as_integer());
  const std::optional<Time> due = instant_in(answer[Field::next_due]);
  reply.next_due = detail::earlier(reply.next_due, due);
  reply.more = reply.more || answer[Field::more].as_integer() != 0;
  watches_.check(queue.name, queue.look, answer[Field::ready].as_integer() != 0, due);
  note_faults(session, subject_of(queue.name), queue.name, answer[Field::errors]);
  RunReader reader{session, queue.block};
  reader.read_lost(queue.name, answer[Field::lost], answer[Field::marks], reply.lost);
  reply.repaired += reader.set_aside();
}

void Upkeep::remember(const Session& session, const Queue& queue, ReplyView answer) {
  Known known{.due_rank = answer[Field::due_rank].as_integer(),
              .active_rank = answer[Field::active_rank].as_integer()};
  const bool checked = known.due_rank == 0 && known.active_rank == 0;
  const bool done = answer[Field::more].as_integer() == 0 && answer[Field::lost].size() == 0 &&
                    answer[Field::errors].size() == 0;
  const std::optional<Time> loss = instant_in(answer[Field::next_loss]);
  // In a cluster, the slot of runs may be migrated, and their leases can't be extended in the
  // meantime: only a server that calls all the time notices this.
  if (checked && done && !(loss && session.cluster())) {
    known.look = queue.look;
    known.due = instant_in(answer[Field::next_due]);
    const std::optional<Time> work = detail::earlier(loss, instant_in(answer[Field::next_work]));
    known.work_at = work.value_or(Time::max());
  }
  detail::MutexLock lock{mutex_};
  known.step = steps_;
  if (known.look == 0 && checked) {
    known_.erase(queue.name);
  } else {
    known_[queue.name] = known;
  }
}

UpkeepReply Upkeep::step(Session& session, const UpkeepRequest& request) {
  UpkeepReply reply;
  std::optional<Error> failure;
  bool any = false;
  const std::size_t most = session.cluster() ? 1 : bound::queues;
  std::vector<Queue> queues = choose(session, request, reply);
  std::vector<std::span<Queue>> parts;
  for (std::span<Queue> left{queues}; !left.empty(); left = left.subspan(parts.back().size()))
    parts.push_back(left.first(std::min(most, left.size())));
  while (!parts.empty()) {
    std::vector<Call> calls;
    for (const std::span<Queue> part : parts) calls.push_back(call_on(session, request, part));
    const SteadyTime sent_at = session.steady_now();
    const std::vector<Reply> answers = session.run(calls);
    std::vector<std::span<Queue>> unfinished;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::string& first = parts[i].front().name;
      try {
        const std::size_t done = read(session, parts[i], answers[i], reply);
        any = true;
        session.note_time(first, reply.now, sent_at);
        if (done < parts[i].size()) unfinished.push_back(parts[i].subspan(done));
      } catch (const Error& error) {
        if (!failure) failure = error;
        session.queue_health().failed(QueueOperation::upkeep, first, error);
      }
    }
    parts = std::move(unfinished);
  }
  if (failure && !any) throw *failure;
  if (!any) reply.now = session.now();
  return reply;
}

}  // namespace taskmux::redis
