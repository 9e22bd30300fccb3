#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lua_arguments.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/ops/operations.hpp"
#include "redis/ops/runs.hpp"
#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/run/settlement.hpp"
#include "taskmux/detail/run/transition.hpp"

namespace taskmux::redis {
namespace {

// Of one exchange: Redis takes some 5 µs a run.
constexpr std::size_t most_runs = 2000;

// Of one block: a token numbers the runs of a call with 16 bits.
constexpr std::size_t block_size = 65'536;

// Settlements of one script call.
struct Chunk {
  std::string queue{};
  std::vector<std::size_t> items{};
  std::size_t bytes = 0;
  Call call{};
};

UnknownFields unknown_of(const Run& run) {
  if (run.broker_data.empty()) return {};
  Decoded<UnknownFields> unknown = unpack_unknown(run.broker_data);
  if (!unknown) throw Error{Errc::invalid_argument, "exchange: not a run that this broker made"};
  return *std::move(unknown);
}

// The lock of a message, if it is one of its queue.
std::string_view lock_of(const TaskMessage& message, const Keys& keys) {
  const std::string& lock = message.unique_key;
  return lock.starts_with(keys.stem() + "unique:") ? std::string_view{lock} : std::string_view{};
}

// One of which every field has the value that is not written.
const TaskMessage& no_message() {
  static const TaskMessage message = [] {
    TaskMessage none;
    none.max_retry = 0;
    none.queue.clear();
    return none;
  }();
  return message;
}

// Whether a call of that age, whose reply was lost, may still be carried out. It takes nothing once
// the server's time is past what that was thought to be when it was sent, and a command timeout;
// the thought is ahead of the truth by no more than another call took.
bool may_come_late(Duration age, const RedisOptions& options) {
  return age < 2 * options.command_timeout + std::chrono::seconds{1};
}

// The facts of a task once its run is settled; empty if they stay what they are.
std::string new_facts(const Run& run, const detail::Transition& next) {
  if (next.crashes == run.crashes) return {};
  return to_text({.enqueued_at = if_set(run.message->enqueued_at),
                  .expires_at = if_set(run.message->expires_at),
                  .crashes = next.crashes});
}

class Exchanger {
 public:
  Exchanger(Session& session, const ExchangeRequest& request)
      : session_{session},
        request_{request},
        block_{request.token_block != 0 ? request.token_block : session.token_block()} {}

  ExchangeReply run() {
    reply_.settled.resize(request_.settlements.size());
    choose();
    if (lone_) {
      run_lone();
      return std::move(reply_);
    }
    bound_quotas();

    std::vector<Call> calls;
    for (Chunk& chunk : chunks_) calls.push_back(std::move(chunk.call));
    const std::size_t first_recall = calls.size();
    add_recalls(calls);
    const std::size_t first_take = calls.size();
    add_takes(calls);
    sent_at_ = session_.steady_now();
    const std::vector<Reply> replies = run_noting_loss(calls);
    for (std::size_t i = 0; i < chunks_.size(); ++i) read_settled(chunks_[i], replies[i]);
    read_recalls(std::span{replies}.subspan(first_recall, first_take - first_recall));
    read_takes(std::span{replies}.subspan(first_take));
    if (shares_.size() > queues_of_a_call()) take_leftovers();
    finish();
    return std::move(reply_);
  }

 private:
  // What one quota gave.
  struct Share {
    std::string queue{};
    std::size_t count = 0;
    std::vector<Run> runs{};
    std::string fault{};
    std::size_t begun_below = 0;   // a worker is free for the runs of lower numbers
    // The number that the call passed; after its reply, the number that it left.
    std::size_t free_workers = 0;
    bool more = false;     // It may hold more that is ready.
    bool stopped = false;  // before its count, perhaps for want of free workers
  };

  // Lost takes are asked of several queues in one script; in a cluster of each in its own.
  struct Recall {
    std::vector<std::string> queues{};
    std::vector<const LostTake*> calls{};
  };

  /// Adds the settlements that this exchange carries: as many as the line carries in a fraction of
  /// the time that a call may take. One that is larger by itself goes alone, so that its failure
  /// affects no other.
  void choose() {
    std::size_t left = session_.transport().line().budget();
    bool any = false;
    for (std::size_t i = 0; i < request_.settlements.size(); ++i) {
      const std::size_t bytes = detail::bytes_of(request_.settlements[i]);
      if (lone_ || (any && bytes > left)) {
        reply_.settled[i].status = SettleStatus::later;
        continue;
      }
      if (bytes > left) lone_ = i;
      left -= std::min(left, bytes);
      any = true;
      try {
        add(i);
      } catch (const Error& error) {
        reject(i, error);  // It can't be written. The others of the batch can.
      }
    }
  }

  void reject(std::size_t item, const Error& error) {
    reply_.settled[item] = {
        .status = SettleStatus::rejected, .error = error.errc(), .detail = error.what()};
  }

  std::vector<Reply> run_noting_loss(std::span<const Call> calls) {
    try {
      return session_.run(calls);
    } catch (const TimedOut& late) {
      remember_loss(late.was_moving());
      throw;
    } catch (const Error&) {
      remember_loss(false);
      throw;
    }
  }

  /// What this call took may have to be given back by a later one. If the line was too `slow` for
  /// the reply, a message is suspected that is larger than what the call was to carry, and did:
  /// what it sent is part of that.
  void remember_loss(bool slow) {
    if (shares_.empty()) return;
    Session::LostCall lost{.sent_at = taken_since_};
    const LineRate& line = session_.transport().line();
    if (slow) lost.carried = std::max(take_budget_, line.carried() / 4 * 3);
    session_.remember(block_, lost);
  }

  /// Settles the one that is too large to go with others, and takes nothing.
  void run_lone() {
    reply_.more = !request_.quotas.empty();
    reply_.lost_takes.assign(request_.lost_takes.begin(), request_.lost_takes.end());
    if (chunks_.empty()) return finish();  // stale without asking
    Chunk& chunk = chunks_.front();
    const std::vector<Call> calls{std::move(chunk.call)};
    try {
      read_settled(chunk, session_.run(calls).front());
    } catch (const TimedOut& late) {
      if (!late.was_moving()) throw;
      session_.queue_health().failed(QueueOperation::settle, chunk.queue, late);
      // What has no result to lose is repeated apart from the others, which don't wait for it.
      if (request_.settlements[*lone_].result) reply_.settled[*lone_].status = SettleStatus::too_large;
      return;
    }
    finish();
  }

  void add(std::size_t item) {
    const Settlement& settlement = request_.settlements[item];
    if (!settlement.run.message) {
      reply_.settled[item].status = SettleStatus::stale;
      return;
    }
    const TaskMessage& message = *settlement.run.message;
    std::vector<std::string> args = arguments(settlement, message);
    std::size_t bytes = 0;
    for (const std::string& arg : args) bytes += arg.size();

    auto open = std::find_if(chunks_.rbegin(), chunks_.rend(),
                             [&](const Chunk& chunk) { return chunk.queue == message.queue; });
    Chunk* chunk = nullptr;
    if (open != chunks_.rend() && open->items.size() < bound::items &&
        open->bytes + bytes <= bound::bytes) {
      chunk = &*open;
    } else {
      chunk = &chunks_.emplace_back(
          Chunk{.queue = message.queue, .call = session_.call(message.queue, lua::Settle{})});
    }
    chunk->items.push_back(item);
    chunk->bytes += bytes;
    std::move(args.begin(), args.end(), std::back_inserter(chunk->call.args));
  }

  std::vector<std::string> arguments(const Settlement& settlement, const TaskMessage& message) {
    const detail::Transition next = detail::transition_of(settlement);
    const std::string facts = next.to ? new_facts(settlement.run, next) : std::string{};
    const std::string& id = message.id;
    const std::string token = hex_of_token(settlement.run.token);
    // Of a message that is long for the line only what changes is sent; and as a last resort, of any.
    const bool long_one = settlement.last_resort ||
                          message.task.payload.size() > session_.transport().line().budget();
    const TaskMessage& written = long_one ? no_message() : message;
    const auto unknown = [&] { return long_one ? UnknownFields{} : unknown_of(settlement.run); };
    std::vector<std::string> args;
    const auto add = [&args](auto record) { std::move(record).append_to(args); };
    const auto marked = [long_one](StampedMessage stamped) {
      if (long_one) stamped.head.insert(0, 1, '+');
      return stamped;
    };
    const auto failure = [&] {
      return marked(stamp_failure(written, unknown(), error_text(settlement.error),
                                  message.retried + (next.uses_retry ? 1 : 0)));
    };
    if (settlement.result && next.to) add(lua::Settle::Result{.result = *settlement.result});
    if (next.frees_lock && !message.unique_key.empty()) {
      const std::string_view lock = lock_of(message, session_.keys(message.queue));
      if (!lock.empty()) add(lua::Settle::Lock{.lock = lock});
    }
    if (!next.to) {
      add(lua::Settle::Remove{.id = id, .token = token});
      return args;
    }
    switch (settlement.action) {
      case SettleAction::complete: {
        auto [head, tail] = marked(stamp_success(written, unknown()));
        add(lua::Settle::Complete{.id = id,
                                  .token = token,
                                  .facts = facts,
                                  .head = std::move(head),
                                  .tail = std::move(tail),
                                  .retention_seconds = message.retention.count()});
        break;
      }
      case SettleAction::retry: {
        auto [head, tail] = failure();
        add(lua::Settle::Retry{.id = id,
                               .token = token,
                               .facts = facts,
                               .head = std::move(head),
                               .tail = std::move(tail),
                               .delay = next.first_in_line ? "-1" : micros(next.due_in),
                               .failed = next.failed});
        break;
      }
      case SettleAction::archive: {
        auto [head, tail] = failure();
        add(lua::Settle::Archive{.id = id,
                                 .token = token,
                                 .facts = facts,
                                 .head = std::move(head),
                                 .tail = std::move(tail)});
        break;
      }
      case SettleAction::snooze:
        add(lua::Settle::Snooze{
            .id = id, .token = token, .facts = facts, .snoozed_for = micros(next.due_in)});
        break;
      case SettleAction::give_back:
        add(lua::Settle::GiveBack{.id = id, .token = token, .facts = facts});
        break;
      case SettleAction::remove: break;
    }
    return args;
  }

  void bound_quotas() {
    std::size_t left = most_runs;
    std::size_t of_resting = 0;
    for (const QueueQuota& quota : request_.quotas) {
      const std::size_t count = std::min(quota.count, left);
      if (count < quota.count) reply_.more = true;
      left -= count;
      wanted_ += count;
      shares_.push_back({.queue = quota.queue, .count = count});
    }
    // If all rest they are asked all the same: that there is nothing to take would not be true.
    const auto resting = [this](const Share& share) { return session_.queue_health().rests(share.queue); };
    const auto end_of_awake = std::stable_partition(
        shares_.begin(), shares_.end(), [&](const Share& share) { return !resting(share); });
    if (end_of_awake == shares_.begin()) return;
    for (auto share = end_of_awake; share != shares_.end(); ++share) of_resting += share->count;
    shares_.erase(end_of_awake, shares_.end());
    shares_.front().count += of_resting;
  }

  void add_recalls(std::vector<Call>& calls) {
    for (const LostTake& lost : request_.lost_takes) {
      for (const std::string& queue : lost.queues) add_recall(lost, queue);
    }
    for (const Recall& recall : recalls_) {
      Duration age{};
      Time sent_at = Time::max();
      std::vector<std::string> records;
      for (const LostTake* lost : recall.calls) {
        const Session::LostCall known = session_.lost_call(lost->token_block);
        age = std::max(age, lost->age);
        sent_at = std::min(sent_at, known.sent_at);
        lua::GiveBack::Call{.block = hex_of_block(lost->token_block),
                            .carried = known.carried == 0 ? Argument{""} : Argument{known.carried}}
            .append_to(records);
      }
      Call call = session_.call_on_queues(scripts().give_back, recall.queues);
      session_.add_now(call.args);
      lua::GiveBack{.age = micros(age), .sent_at = sent_at == Time::max() ? "" : micros(sent_at)}
          .append_to(call.args);
      std::move(records.begin(), records.end(), std::back_inserter(call.args));
      calls.push_back(std::move(call));
    }
  }

  void add_recall(const LostTake& lost, const std::string& queue) {
    const auto names = [&](const Recall& recall) {
      return !session_.cluster() || recall.queues.front() == queue;
    };
    auto recall = std::find_if(recalls_.begin(), recalls_.end(), names);
    if (recall == recalls_.end()) recall = recalls_.insert(recall, Recall{});
    const auto add_once = [](auto& list, const auto& item) {
      if (std::find(list.begin(), list.end(), item) == list.end()) list.push_back(item);
    };
    add_once(recall->queues, queue);
    add_once(recall->calls, &lost);
  }

  void read_recalls(std::span<const Reply> replies) {
    std::map<std::string, bool> answered;
    for (std::size_t i = 0; i < recalls_.size(); ++i) {
      const std::vector<std::string>& queues = recalls_[i].queues;
      try {
        throw_if_error("give back tasks of lost calls", replies[i]);
        replies[i].expect_array(queues.size());
        for (std::size_t n = 0; n < queues.size(); ++n) read_recall(replies[i][n], queues[n]);
        for (const std::string& queue : queues) answered[queue] = true;
        any_answer_ = true;
      } catch (const Error& error) {
        note(QueueOperation::take, queues.size() == 1 ? queues.front() : "", error);
      }
    }
    for (const LostTake& lost : request_.lost_takes) {
      LostTake silent{.token_block = lost.token_block, .age = lost.age};
      LostTake late{.token_block = lost.token_block, .age = lost.age, .answered = true};
      for (const std::string& queue : lost.queues)
        (answered[queue] ? late : silent).queues.push_back(queue);
      if (!silent.queues.empty()) reply_.lost_takes.push_back(std::move(silent));
      if (!late.queues.empty() && may_come_late(lost.age, session_.options()))
        reply_.lost_takes.push_back(std::move(late));
    }
  }

  // A queue whose keys are broken gave nothing to the lost call either.
  void read_recall(ReplyView reply, const std::string& queue) {
    reply.expect_array(3);
    const std::string_view fault = reply[0].as_string();
    for (std::size_t i = 0; i + 2 < reply[2].size(); i += 3) {
      tell_too_long(queue, reply[2][i].as_string(), reply[2][i + 1].as_integer(),
                    reply[2][i + 2].as_integer());
    }
    if (!fault.empty()) {
      note(QueueOperation::take, queue,
           error_of("give back tasks of queue \"" + printable(queue) + "\"", fault));
    } else if (const std::int64_t count = reply[1].as_integer(); count > 0) {
      session_.log()(LogLevel::info,
                   "queue \"" + printable(queue) + "\": returned " + std::to_string(count) +
                       " tasks to the queue: the reply to the call that took them was lost");
    }
  }

  void tell_too_long(const std::string& queue, std::string_view id, std::int64_t bytes,
                     std::int64_t times) {
    const bool archived = times >= 3;
    session_.log()({.level = archived ? LogLevel::error : LogLevel::warning,
                  .text = std::string{archived ? "archived" : "put last in line"} +
                          ": its message of " + std::to_string(bytes) +
                          " bytes is too large for the connection of a worker to the broker (" +
                          std::to_string(times) + " of 3 times)",
                  .task_id = id,
                  .queue = queue});
  }

  // A call is short: it has a bounded number of queues. In a cluster one, as they lie on different
  // nodes.
  std::size_t queues_of_a_call() const noexcept { return session_.cluster() ? 1 : bound::queues; }

  void add_takes(std::vector<Call>& calls) {
    if (shares_.empty()) return;
    learn_time();
    std::size_t free = request_.free_workers;
    for (const std::span<Share> part : parts_of(shares_)) {
      const std::size_t count = wanted_of(part);
      calls.push_back(take(part, count, free));
      free -= std::min(free, count);
    }
  }

  std::vector<std::span<Share>> parts_of(std::span<Share> shares) const {
    std::vector<std::span<Share>> parts;
    while (!shares.empty()) {
      parts.push_back(shares.first(std::min(shares.size(), queues_of_a_call())));
      shares = shares.subspan(parts.back().size());
    }
    return parts;
  }

  static std::size_t wanted_of(std::span<const Share> shares) noexcept {
    std::size_t count = 0;
    for (const Share& share : shares) count += share.count;
    return count;
  }

  // A call that does not say until when it is wanted may be carried out at any time.
  void learn_time() {
    std::vector<std::string> queues;
    for (const Share& share : shares_) queues.push_back(share.queue);
    session_.learn_time(queues);
  }

  // `count` is the sum of the shares' counts.
  Call take(std::span<Share> shares, std::size_t count, std::size_t free_workers) {
    std::vector<std::string> keys;
    for (const Share& share : shares) keys.push_back(session_.keys(share.queue).pending());
    Call call = Session::call_on(scripts().acquire, std::move(keys));
    const auto there = session_.add_now_or_never(call.args, shares.front().queue);
    if (there) taken_since_ = std::min(taken_since_, *there);
    take_budget_ = session_.transport().line().budget();
    // The calls of an exchange share the line, unless they go to different nodes.
    const std::size_t budget =
        session_.cluster() || count == wanted_ ? take_budget_ : take_budget_ * count / wanted_ + 1;
    lua::Acquire{.lease_time = micros(request_.lease),
                 .token = hex_of_block(block_),
                 .free = std::min(free_workers, most_runs),
                 .bytes = budget,
                 .most_forwarded = bound::forward,
                 .longest_before = session_.longest_message(),
                 .first_number = next_number_}
        .append_to(call.args);
    const std::size_t begun_below = next_number_ + std::min(free_workers, most_runs);
    for (Share& share : shares) {
      share.free_workers = free_workers;
      share.begun_below = begun_below;
      lua::Acquire::Queue{.wanted = share.count}.append_to(call.args);
      next_number_ += share.count;
    }
    return call;
  }

  void read_settled(const Chunk& chunk, const Reply& reply) {
    try {
      throw_if_error("settle in queue \"" + printable(chunk.queue) + "\"", reply);
      reply.expect_array(3);
      reply[0].expect_array(chunk.items.size());
      for (std::size_t i = 0; i < chunk.items.size(); ++i) {
        reply_.settled[chunk.items[i]].status =
            reply[0][i].as_integer() == 1 ? SettleStatus::applied : SettleStatus::stale;
      }
      note_counted(chunk.queue, reply[1].as_string());
      reply_.now = time_of(reply[2].as_integer());
      any_answer_ = true;
      session_.queue_health().worked(QueueOperation::settle, chunk.queue);
    } catch (const Error& error) {
      note(QueueOperation::settle, chunk.queue, error);
      if (error.errc() == Errc::payload_too_large) blame_largest(chunk, error);
    }
  }

  // Redis refused the call for the length of one argument, and so did not execute it.
  void blame_largest(const Chunk& chunk, const Error& error) {
    const auto bytes = [&](std::size_t item) {
      return detail::bytes_of(request_.settlements[item]);
    };
    const std::size_t largest = *std::max_element(
        chunk.items.begin(), chunk.items.end(),
        [&](std::size_t one, std::size_t other) { return bytes(one) < bytes(other); });
    any_answer_ = true;
    for (const std::size_t item : chunk.items) reply_.settled[item].status = SettleStatus::later;
    if (request_.settlements[largest].result) {
      reply_.settled[largest].status = SettleStatus::too_large;
    } else {
      reject(largest, error);
    }
  }

  void note_counted(const std::string& queue, std::string_view fault) {
    if (fault.empty()) return session_.queue_health().worked(QueueOperation::count, queue);
    session_.queue_health().failed(QueueOperation::count, queue,
                           error_of("count attempts of queue \"" + printable(queue) + "\"", fault));
  }

  void read_takes(std::span<const Reply> replies) {
    const std::vector<std::span<Share>> parts = parts_of(shares_);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (read_take(replies[i], parts[i])) continue;
      remember_loss(replies[i].is_error() && replies[i].error_code() == slow_code);
      lose(parts[i]);
    }
  }

  // Returns false if it is not known what was taken.
  bool read_take(const Reply& reply, std::span<Share> shares) {
    bool whole = false;
    try {
      throw_if_error("take tasks", reply);
      reply.expect_array(2 + shares.size());
      reply_.now = time_of(reply[0].as_integer());
      session_.note_time(shares.front().queue, reply_.now, sent_at_);
      session_.note_longest_message(reply[1 + shares.size()].as_integer());
      RunReader reader{session_, block_};
      const std::size_t taken_before = taken_;
      for (std::size_t i = 0; i < shares.size(); ++i) read_share(reply[1 + i], shares[i], reader);
      for (Share& share : shares)
        share.free_workers -= std::min(share.free_workers, taken_ - taken_before);
      whole = true;
      reader.set_aside();
      if (shares.size() > 1) session_.queue_health().worked(QueueOperation::take, {});
    } catch (const Error& error) {
      for (Share& share : shares) share.fault = error.what();
      note(QueueOperation::take, shares.size() == 1 ? shares.front().queue : "", error);
    }
    return whole;
  }

  // What these queues gave is not known, and so is given back: also what was understood of it, and
  // what an earlier call of this exchange took of them, as one block names the runs of both.
  void lose(std::span<const Share> part) {
    LostTake& lost = reply_.lost_takes.emplace_back(LostTake{.token_block = block_});
    auto of = shares_.begin();
    for (const Share& share : part) {
      while (of->queue != share.queue) ++of;
      taken_ -= std::exchange(of->runs, {}).size();
      lost.queues.push_back(share.queue);
    }
  }

  void read_share(ReplyView reply, Share& share, RunReader& reader) {
    reply.expect_array(6);
    const std::string_view fault = reply[0].as_string();
    if (!fault.empty()) {
      const Error error = error_of("take from queue \"" + printable(share.queue) + "\"", fault);
      share.fault = error.what();
      note(QueueOperation::take, share.queue, error);
      // The server may refuse writes, or be handing on the slot, for as long as it likes.
      if (error.errc() == Errc::unavailable) session_.queue_health().rest(share.queue);
    } else {
      any_answer_ = true;
      session_.queue_health().worked(QueueOperation::take, share.queue);
    }
    const std::size_t before = share.runs.size();
    const ReplyView lists = reply[1];
    for (std::size_t i = 0; i < lists.size(); i += 2) {
      reader.read_taken(share.queue, static_cast<std::uint64_t>(lists[i].as_integer()),
                        lists[i + 1], share.begun_below, share.runs);
    }
    note_wishes(reply[5], std::span{share.runs}.subspan(before));
    taken_ += share.runs.size() - before;
    if (!reply[2].is_nil()) {
      reply_.next_due = detail::earlier(reply_.next_due, time_of(reply[2].as_integer()));
    }
    share.more = reply[3].as_integer() != 0;
    share.stopped = share.runs.size() - before < share.count;
    tell_dropped(share.queue, reply[4]);
  }

  // Pairs of the number of a run and the mode in which it is to be cancelled.
  void note_wishes(ReplyView wishes, std::span<Run> runs) const {
    for (std::size_t i = 0; i + 1 < wishes.size(); i += 2) {
      const std::uint64_t token =
          make_token(block_, static_cast<std::uint64_t>(wishes[i].as_integer()));
      for (Run& run : runs) {
        if (run.token == token) run.cancel = parse_cancel_mode(wishes[i + 1].as_string());
      }
    }
  }

  void tell_dropped(const std::string& queue, ReplyView ids) {
    constexpr std::size_t most_named = 3;
    if (ids.size() == 0) return;
    std::string line = "queue \"" + printable(queue) + "\": dropped " + std::to_string(ids.size()) +
                       " ids that have no task: ";
    for (std::size_t i = 0; i < std::min(ids.size(), most_named); ++i) {
      line += (i > 0 ? ", \"" : "\"") + printable(ids[i].as_string()) + "\"";
    }
    if (ids.size() > most_named) line += ", ...";
    session_.log()(LogLevel::warning, line);
  }

  // What the queues of one call could not give is taken from those of the others, a call at a time.
  void take_leftovers() {
    if (taken_ >= wanted_) return;
    std::vector<Share> rest;
    for (const Share& share : shares_) {
      const bool for_more_workers = share.stopped && free_workers() <= share.free_workers;
      if (share.more && share.fault.empty() && !for_more_workers)
        rest.push_back({.queue = share.queue});
    }
    for (const std::span<Share> part : parts_of(rest)) {
      const std::size_t count = wanted_ - std::min(wanted_, taken_);
      if (count == 0 || next_number_ + count > block_size) return;
      part.front().count = count;
      const std::vector<Call> calls{take(part, count, free_workers())};
      sent_at_ = session_.steady_now();
      bool known = false;
      try {
        known = read_take(run_noting_loss(calls).front(), part);
        if (!known) remember_loss(false);
      } catch (const Error& error) {
        note(QueueOperation::take, part.size() == 1 ? part.front().queue : "", error);
        merge(part);
        lose(part);
        return;
      }
      merge(part);
      if (!known) lose(part);
    }
  }

  // Adds what a second call said of some of the queues, in their order, to what the first said.
  void merge(std::span<Share> part) {
    auto of = shares_.begin();
    for (Share& later : part) {
      while (of->queue != later.queue) ++of;
      std::move(later.runs.begin(), later.runs.end(), std::back_inserter(of->runs));
      later.runs.clear();
      of->more = later.more;
      of->fault = later.fault;
    }
  }

  // Those that no run has been taken for yet.
  std::size_t free_workers() const noexcept {
    return request_.free_workers - std::min(request_.free_workers, taken_);
  }

  void note(QueueOperation operation, std::string_view queue, const Error& error) {
    if (!first_error_) first_error_ = error;
    session_.queue_health().failed(operation, queue, error);
  }

  void finish() {
    if (first_error_ && !any_answer_) throw *first_error_;
    for (Share& share : shares_) {
      std::move(share.runs.begin(), share.runs.end(), std::back_inserter(reply_.runs));
      reply_.more = reply_.more || share.more;
    }
    if (reply_.now == Time{}) reply_.now = session_.now();
  }

  Session& session_;
  const ExchangeRequest& request_;
  const std::uint64_t block_;
  ExchangeReply reply_;
  std::vector<Chunk> chunks_;
  std::vector<Recall> recalls_;
  std::vector<Share> shares_;
  std::size_t next_number_ = 0;      // of the runs of this block
  std::optional<std::size_t> lone_;  // the settlement that goes alone
  SteadyTime sent_at_{};             // the last calls
  Time taken_since_ = Time::max();   // when they were sent, by the clock of their server
  std::size_t take_budget_ = 0;      // bytes of messages
  std::size_t wanted_ = 0;
  std::size_t taken_ = 0;
  std::optional<Error> first_error_;
  bool any_answer_ = false;
};

}  // namespace

ExchangeReply exchange(Session& session, const ExchangeRequest& request) {
  return Exchanger{session, request}.run();
}

std::string_view to_string(CancelMode mode) noexcept {
  switch (mode) {
    case CancelMode::archive: return "archive";
    case CancelMode::remove: return "remove";
    case CancelMode::retry: break;
  }
  return "retry";
}

CancelMode parse_cancel_mode(std::string_view words) noexcept {
  const std::string_view name = words.substr(0, words.find(' '));
  if (name == "archive") return CancelMode::archive;
  if (name == "remove") return CancelMode::remove;
  return CancelMode::retry;
}

namespace {

// Runs of one script call of extend().
struct Part {
  std::string queue{};
  std::vector<std::size_t> items{};
};

void read_extended(const Part& part, const Reply& answer, std::vector<ExtendReply>& replies) {
  throw_if_error("extend leases in queue \"" + printable(part.queue) + "\"", answer);
  answer.expect_array(part.items.size());
  for (std::size_t i = 0; i < part.items.size(); ++i) {
    ExtendReply& reply = replies[part.items[i]];
    if (answer[i].is_string()) {
      reply = {.status = LeaseStatus::ok, .cancel = parse_cancel_mode(answer[i].as_string())};
    } else {
      reply.status = answer[i].as_integer() == 0 ? LeaseStatus::lost : LeaseStatus::ok;
    }
  }
}

}  // namespace

std::vector<ExtendReply> extend(Session& session, std::span<const ExtendRequest> runs, Duration lease) {
  std::vector<ExtendReply> replies(runs.size(), ExtendReply{.status = LeaseStatus::unknown});
  std::vector<Part> parts;
  std::vector<Call> calls;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (!runs[i].run.message) {
      replies[i].status = LeaseStatus::lost;
      continue;
    }
    const TaskMessage& message = *runs[i].run.message;
    std::size_t at = parts.size();
    while (at > 0 && parts[at - 1].queue != message.queue) --at;
    if (at == 0 || parts[at - 1].items.size() >= bound::items) {
      parts.push_back({message.queue, {}});
      calls.push_back(session.call(message.queue, lua::Extend{.lease_time = micros(lease)}));
      at = parts.size();
    }
    parts[at - 1].items.push_back(i);
    lua::Extend::Run{
        .id = message.id, .token = hex_of_token(runs[i].run.token), .begun = runs[i].begun}
        .append_to(calls[at - 1].args);
  }

  const std::vector<Reply> answers = session.run(calls);
  std::optional<Error> first_error;
  std::size_t failed = 0;
  for (std::size_t at = 0; at < parts.size(); ++at) {
    try {
      read_extended(parts[at], answers[at], replies);
      session.queue_health().worked(QueueOperation::extend, parts[at].queue);
    } catch (const Error& error) {
      // The other queues' runs must not suffer from one whose keys are broken or whose node is
      // away.
      if (!first_error) first_error = error;
      ++failed;
      session.queue_health().failed(QueueOperation::extend, parts[at].queue, error);
    }
  }
  if (first_error && failed == parts.size()) throw *first_error;
  return replies;
}

}  // namespace taskmux::redis
