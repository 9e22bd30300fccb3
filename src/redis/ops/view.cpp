#include "redis/ops/view.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "lua_arguments.hpp"
#include "redis/asynq/cancellations.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/ops/operations.hpp"
#include "redis/ops/runs.hpp"
#include "taskmux/detail/base/cursor.hpp"
#include "taskmux/detail/base/error_text.hpp"

namespace taskmux::redis {
namespace {

// Of one page: rows, and ids that a filter makes it look at.
constexpr std::size_t rows_at_once = 500;
constexpr std::size_t looks_at_once = 1000;
// How many ids a cursor of page.lua holds at most.
constexpr std::size_t anchors_of_cursor = 8;
// Tasks of one call of act_all's script.
constexpr std::size_t acts_at_once = 1000;

// Errors name their subject; Inspector puts the operation in front.
std::string subject(std::string_view kind, std::string_view name) {
  return std::string{kind} + " \"" + printable(name) + "\"";
}

std::string of_queue(std::string_view queue) { return subject("queue", queue); }
std::string of_task(std::string_view id) { return detail::task_in_words(printable(id), {}, {}); }

// The set of queues lies in another slot than a queue's keys, so this is a command of its own.
Call membership(const Session& session, std::string_view queue) {
  static_cast<void>(session.keys(queue));  // refuses a name that no queue here can have
  return Session::command(session.global().queues(), {"SISMEMBER", session.global().queues(), queue});
}

// Of membership().
bool is_member(std::string_view queue, const Reply& reply) {
  throw_if_error(of_queue(queue), reply);
  return reply.as_integer() != 0;
}

Error no_such_queue(std::string_view queue) {
  return Error{Errc::queue_not_found, of_queue(queue) + ": nothing was ever enqueued to it"};
}

bool exists(Session& session, std::string_view queue) {
  const std::vector<Call> calls{membership(session, queue)};
  return is_member(queue, session.run(calls).front());
}

// Before an operation that changes something.
void require_queue(Session& session, std::string_view queue) {
  if (!exists(session, queue)) throw no_such_queue(queue);
}

std::string_view name_of(TaskAction action) {
  switch (action) {
    case TaskAction::run: return "run";
    case TaskAction::archive: return "archive";
    case TaskAction::remove: return "remove";
  }
  throw Error{Errc::invalid_argument, "no such action"};
}

std::size_t count_of(ReplyView reply) { return static_cast<std::size_t>(reply.as_integer()); }

// A counter of asynq's; one that is absent, or no number, is 0.
std::uint64_t counter(ReplyView reply) {
  const auto number = reply.is_string() ? parse_number(reply.as_string()) : std::nullopt;
  return static_cast<std::uint64_t>(std::max<std::int64_t>(0, number.value_or(0)));
}

std::optional<Time> optional_time(ReplyView micros) {
  const auto number = parse_number(micros.as_optional_string());
  return number ? std::optional{time_of(*number)} : std::nullopt;
}

// As the scripts read a score, see lib/due_of.lua: rounded up to a second, within what they can count.
std::optional<Time> time_of_score(ReplyView score) {
  const auto text = score.as_optional_string();
  if (!text) return std::nullopt;
  double seconds = 0;
  if (std::from_chars(text->data(), text->data() + text->size(), seconds).ec != std::errc{}) {
    return std::nullopt;
  }
  seconds = std::clamp(std::ceil(seconds), 0.0, 8'990'000'000.0);
  return Time{std::chrono::seconds{static_cast<std::int64_t>(seconds)}};
}

void describe_message(TaskInfo& info, ReplyView bytes) {
  if (!bytes.is_string()) {
    info.last_error = "the task's message is missing";
    return;
  }
  Decoded<WireMessage> decoded = decode_message(bytes.as_string());
  const std::string fault =
      decoded ? mismatch(decoded->message, info.queue, info.id) : decoded.error().text();
  WireMessage wire;
  if (fault.empty()) {
    wire = *std::move(decoded);
  } else {
    wire.message = malformed_message(info.queue, info.id, fault);
  }
  TaskMessage& message = wire.message;
  info.task = std::move(message.task);
  info.max_retry = message.max_retry;
  info.retried = message.retried;
  info.timeout = message.timeout;
  info.retention = message.retention;
  info.deadline = if_set(message.deadline);
  info.last_failed_at = if_set(message.last_failed_at);
  info.completed_at = if_set(message.completed_at);
  info.last_error = std::move(message.last_error);
  info.group = std::move(wire.unknown.group);
}

// When a task of scheduled or retry is due: the precise time, if the public score bears it out.
std::optional<Time> due_of(std::optional<Time> score, ReplyView precise) {
  const std::optional<Time> due = optional_time(precise);
  return due && score && std::chrono::ceil<std::chrono::seconds>(*due) == *score ? due : score;
}

// A row of describe() in the scripts.
TaskInfo read_row(ReplyView row, std::string_view queue, TaskState state, Time now) {
  row.expect_array(9);
  TaskInfo info;
  info.id = row[0].as_string();
  info.queue = queue;
  info.state = state;
  const std::optional<Time> score = time_of_score(row[1]);
  describe_message(info, row[4]);
  info.result = row[5].as_optional_string().value_or("");
  const Facts facts = parse_facts(row[6].as_optional_string());
  info.crashes = facts.crashes;
  info.expires_at = facts.expires_at;
  info.enqueued_at = facts.enqueued_at;
  if (state != TaskState::completed) info.completed_at.reset();
  if (info.group.empty()) info.group = row[8].as_optional_string().value_or("");
  switch (state) {
    case TaskState::active:
      info.started_at = taken_at(row[7].as_optional_string(), row[1].as_optional_string());
      info.orphaned = !score || *score <= now;
      break;
    case TaskState::scheduled:
    case TaskState::retry: info.next_process_at = due_of(score, row[2]); break;
    case TaskState::archived: info.archived_at = score; break;
    case TaskState::pending:
    case TaskState::completed:
    case TaskState::aggregating: break;
  }
  return info;
}

std::string number(std::size_t value) {
  return text(static_cast<std::int64_t>(
      std::min<std::size_t>(value, std::numeric_limits<std::int32_t>::max())));
}

// The outcome of a script that says 0, or 1 no such task, or 2 wrong state.
void throw_outcome(Session& session, std::string_view queue, std::string_view id,
                   std::int64_t outcome) {
  if (outcome == 1) {
    throw Error{Errc::task_not_found, of_task(id) + ": not in the queue", std::string{id}};
  }
  if (outcome != 2) return;
  const std::string key = session.keys(queue).task(id);
  const Reply state = session.run_one(of_task(id), Session::command(key, {"HGET", key, field::state}));
  throw Error{Errc::wrong_state,
              of_task(id) + ": it is " +
                  (state.is_string() ? printable(state.as_string()) : std::string{"gone"}),
              std::string{id}};
}

}  // namespace

std::vector<std::string> queues(Session& session) {
  const std::string& key = session.global().queues();
  const Reply reply = session.run_one("list queues", Session::command(key, {"SMEMBERS", key}));
  std::vector<std::string> names;
  for (std::size_t i = 0; i < reply.size(); ++i) names.emplace_back(reply[i].as_string());
  std::sort(names.begin(), names.end());
  return names;
}

namespace {

QueueInfo read_info(const Reply& reply, const std::string& queue) {
  reply.expect_array(15);
  QueueInfo info;
  info.queue = queue;
  info.paused = reply[1].as_integer() != 0;
  info.pending = count_of(reply[2]);
  info.active = count_of(reply[3]);
  info.scheduled = count_of(reply[4]);
  info.retry = count_of(reply[5]);
  info.archived = count_of(reply[6]);
  info.completed = count_of(reply[7]);
  info.groups = count_of(reply[8]);
  info.aggregating = count_of(reply[9]);
  if (const auto since = parse_number(reply[10].as_optional_string()); since && *since > 0) {
    const Duration latency{reply[0].as_integer() - *since / 1000};
    info.latency = std::max(Duration{0}, latency);
  }
  info.processed_today = counter(reply[11]);
  info.failed_today = counter(reply[12]);
  info.processed_total = counter(reply[13]);
  info.failed_total = counter(reply[14]);
  return info;
}

// Of at most bound::queues.
void read_infos(Session& session, std::span<const std::string> queues,
                std::span<QueueInfoReply> replies) {
  std::vector<Call> calls;
  std::vector<std::size_t> asked;  // Two calls each.
  for (std::size_t i = 0; i < queues.size(); ++i) {
    replies[i].info.queue = queues[i];
    try {
      calls.push_back(membership(session, queues[i]));
      calls.push_back(session.call(queues[i], lua::QueueInfo{}));
      asked.push_back(i);
    } catch (const Error& error) {
      if (error.errc() != Errc::invalid_argument) throw;
      replies[i].error = error;
    }
  }
  const std::vector<Reply> answers = session.run(calls);
  for (std::size_t n = 0; n < asked.size(); ++n) {
    const std::string& queue = queues[asked[n]];
    QueueInfoReply& reply = replies[asked[n]];
    try {
      if (!is_member(queue, answers[2 * n])) throw no_such_queue(queue);
      throw_if_error(of_queue(queue), answers[2 * n + 1]);
      reply.info = read_info(answers[2 * n + 1], queue);
    } catch (const Error& error) {
      reply.error = error;
    }
  }
}

}  // namespace

std::vector<QueueInfoReply> queue_infos(Session& session, std::span<const std::string> queues) {
  std::vector<QueueInfoReply> replies(queues.size());
  for (std::size_t first = 0; first < queues.size(); first += bound::queues) {
    const std::size_t count = std::min(bound::queues, queues.size() - first);
    read_infos(session, queues.subspan(first, count), std::span{replies}.subspan(first, count));
  }
  return replies;
}

std::vector<DailyStats> history(Session& session, std::string_view queue, int days) {
  if (days < 1 || days > 90) {
    throw Error{Errc::invalid_argument, of_queue(queue) + ": 1 to 90 days are kept"};
  }
  const Keys keys = session.keys(queue);
  const auto today = std::chrono::floor<std::chrono::days>(session.now());
  std::vector<Call> calls{membership(session, queue), Session::command(keys.pending(), {"MGET"})};
  std::vector<DailyStats> stats;
  for (int back = 0; back < days; ++back) {
    stats.push_back({.day = today - std::chrono::days{back}});
    calls[1].args.push_back(keys.processed_on(stats.back().day));
    calls[1].args.push_back(keys.failed_on(stats.back().day));
  }
  const std::vector<Reply> replies = session.run(calls);
  if (!is_member(queue, replies[0])) return {};
  throw_if_error(of_queue(queue), replies[1]);
  replies[1].expect_array(2 * stats.size());
  for (std::size_t i = 0; i < stats.size(); ++i) {
    stats[i].processed = counter(replies[1][2 * i]);
    stats[i].failed = counter(replies[1][2 * i + 1]);
  }
  return stats;
}

std::vector<GroupInfo> groups(Session& session, std::string_view queue) {
  const Reply reply = session.run_one(of_queue(queue), session.call(queue, lua::Groups{}));
  std::vector<GroupInfo> infos;
  for (std::size_t i = 0; i + 1 < reply.size(); i += 2) {
    const std::size_t size = count_of(reply[i + 1]);
    if (size > 0) infos.push_back({.group = std::string{reply[i].as_string()}, .size = size});
  }
  std::sort(infos.begin(), infos.end(),
            [](const GroupInfo& a, const GroupInfo& b) { return a.group < b.group; });
  return infos;
}

namespace {

std::string kind_of_cursor(TaskState state) { return "redis " + std::string{to_string(state)}; }

// Whether a listing of the state goes on by an index and the ids before it, and not by a score.
bool is_in_list(TaskState state) noexcept {
  return state == TaskState::pending || state == TaskState::active;
}

// The place that a cursor names, as page.lua takes it.
struct Place {
  std::string score_or_index{};
  std::vector<lua::Page::Anchor> anchors{};  // The last id first.
};

Place place_of(const ListRequest& request) {
  Place place;
  if (request.cursor.empty()) return place;
  detail::CursorReader cursor{kind_of_cursor(request.state), request.cursor};
  place.score_or_index = cursor.next();
  const std::string& text = place.score_or_index;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || std::isnan(number)) {
    detail::CursorReader::fail();
  }
  if (!is_in_list(request.state)) {
    place.anchors.push_back({.id = cursor.next(), .stamp = ""});
    cursor.expect_end();
    return place;
  }
  constexpr double highest_index = std::numeric_limits<std::int32_t>::max();
  if (number < 0 || number > highest_index || number != std::floor(number)) {
    detail::CursorReader::fail();
  }
  while (!cursor.at_end()) {
    if (place.anchors.size() == anchors_of_cursor) detail::CursorReader::fail();
    std::string id = cursor.next();
    place.anchors.push_back({.id = std::move(id), .stamp = cursor.next()});
  }
  return place;
}

// The reverse of place_of().
std::string read_place(ReplyView place, TaskState state) {
  if (place.is_nil()) return {};
  detail::CursorWriter cursor{kind_of_cursor(state)};
  for (std::size_t i = 0; i < place.size(); ++i) cursor.add(place[i].as_string());
  return cursor.text();
}

// What the message of each task contains whose type fits. A message that can't be read is shown with a
// type of its own, which it does not contain.
std::string part_of_type(std::string_view pattern) {
  return detail::fits(pattern, malformed_type) ? std::string{} : detail::longest_literal(pattern);
}

// A bound of TaskFilter as a score of `archived`, in whole seconds.
std::string score_of(std::optional<Time> instant) {
  if (!instant) return {};
  return text(std::chrono::floor<std::chrono::seconds>(*instant).time_since_epoch().count());
}

}  // namespace

TaskPage list(Session& session, const ListRequest& request) {
  const TaskState state = request.state;
  if (state == TaskState::aggregating && request.group.empty()) {
    throw Error{Errc::invalid_argument,
                of_queue(request.queue) + ": which group to list was not given"};
  }
  if (request.limit == 0) return {.next = request.cursor};
  const TaskFilter& filter = request.filter;
  // The archive is in the order of what `after` and `until` are about.
  const bool by_time = state == TaskState::archived;
  Place place = place_of(request);
  Call call = session.call(request.queue,
                           lua::Page{.state = to_string(state),
                                     .group = request.group,
                                     .limit = std::min(request.limit, rows_at_once),
                                     .bytes = session.transport().line().budget(),
                                     .looks = looks_at_once,
                                     .reads = bound::bytes,
                                     .with_payload = request.with_payload,
                                     .with_result = request.with_result,
                                     .prefix = filter.id_prefix,
                                     .one_part = part_of_type(filter.type_pattern),
                                     .other_part = filter.error_contains,
                                     .above = by_time ? score_of(filter.after) : std::string{},
                                     .up_to = by_time ? score_of(filter.until) : std::string{},
                                     .place = std::move(place.score_or_index)});
  for (lua::Page::Anchor& anchor : place.anchors) std::move(anchor).append_to(call.args);
  const Reply reply = session.run_one(of_queue(request.queue), call);
  reply.expect_array(2);
  TaskPage page{.next = read_place(reply[1], state)};
  const Time now = time_of(reply[0].as_integer());
  for (std::size_t i = 2; i < reply.size(); ++i) {
    TaskInfo info = read_row(reply[i], request.queue, state, now);
    if (filter.selects(info)) page.tasks.push_back(std::move(info));
  }
  return page;
}

std::optional<TaskInfo> find(Session& session, std::string_view queue, std::string_view id) {
  const Reply reply = session.run_one(of_task(id), session.call(queue, lua::Find{.id = id}));
  reply.expect_array(1);
  if (reply.size() < 2) return std::nullopt;
  reply[1].expect_array(9);
  const std::optional<TaskState> state = parse_state(reply[1][3].as_optional_string());
  if (!state) {
    throw Error{Errc::malformed, of_task(id) + ": it is in no known state", std::string{id}};
  }
  return read_row(reply[1], queue, *state, time_of(reply[0].as_integer()));
}

std::vector<TaskStatus> states(Session& session, std::string_view queue,
                               std::span<const std::string> ids) {
  const Keys keys = session.keys(queue);
  std::vector<TaskStatus> statuses;
  while (statuses.size() < ids.size()) {
    const auto left = ids.subspan(statuses.size());
    std::vector<Call> calls;
    for (const std::string& id : left.first(std::min(bound::items, left.size()))) {
      const std::string key = keys.task(id);
      calls.push_back(Session::command(key, {"HGET", key, field::state}));
    }
    for (const Reply& reply : session.run(calls)) {
      throw_if_error(of_queue(queue), reply);
      statuses.push_back({parse_state(reply.as_optional_string())});
    }
  }
  return statuses;
}

std::vector<ActReply> act(Session& session, const ActRequest& request) {
  const std::string_view only = request.only ? to_string(*request.only) : std::string_view{};
  std::vector<ActReply> replies;
  while (replies.size() < request.ids.size()) {
    const auto left = request.ids.subspan(replies.size());
    const auto part = left.first(std::min(bound::items, left.size()));
    Call call =
        session.call(request.queue, lua::Act{.action = name_of(request.action), .only = only});
    for (const std::string& id : part) lua::Act::Task{.id = id}.append_to(call.args);
    const Reply reply = session.run_one(of_queue(request.queue), call);
    reply.expect_array(1);  // where that is much work, it is done in part
    for (std::size_t i = 0; i < reply.size(); ++i) {
      const std::int64_t outcome = reply[i].as_integer();
      replies.push_back({outcome == 0   ? std::nullopt
                         : outcome == 1 ? std::optional{Errc::task_not_found}
                                        : std::optional{Errc::wrong_state}});
    }
  }
  return replies;
}

std::size_t act_all(Session& session, std::string_view queue, TaskAction action, TaskState state,
                    std::size_t limit) {
  const std::string operation{name_of(action)};
  if (!allows(action, state)) {
    throw Error{Errc::wrong_state,
                operation + ": not possible for tasks that are " + std::string{to_string(state)}};
  }
  std::size_t done = 0;
  while (done < limit) {
    const std::size_t wanted = std::min(acts_at_once, limit - done);
    const Reply reply = session.run_one(
        of_queue(queue),
        session.call(queue, lua::ActAll{
                                .action = operation, .state = to_string(state), .limit = wanted}));
    reply.expect_array(2);
    done += count_of(reply[0]);
    if (count_of(reply[1]) < wanted) break;
  }
  return done;
}

namespace {

// Looks alone, at many queues in one call, which an idle server can afford.
std::vector<TrimReply> look_at_archives(Session& session, std::span<const std::string> queues,
                                        const TrimRequest& request) {
  const std::size_t most = session.cluster() ? 1 : bound::queues;
  std::vector<Call> calls;
  for (std::size_t i = 0; i < queues.size(); i += most) {
    const auto part = queues.subspan(i, std::min(most, queues.size() - i));
    std::vector<std::string> archives;
    for (const std::string& queue : part)
      archives.push_back(session.keys(queue).container(TaskState::archived));
    Call call = Session::call_on(scripts().archives, std::move(archives));
    session.add_now(call.args);
    lua::Archives{.max_tasks = number(request.max_tasks), .max_age = micros(request.max_age)}.append_to(
        call.args);
    calls.push_back(std::move(call));
  }
  const std::vector<Reply> answers = session.run(calls);
  std::vector<TrimReply> replies(queues.size());
  for (std::size_t i = 0; i < queues.size(); ++i) {
    const Reply& answer = answers[i / most];
    const std::string subject = "look at the archive of " + of_queue(queues[i]);
    try {
      throw_if_error(subject, answer);
      answer.expect_array(std::min(most, queues.size() - i / most * most));
      const ReplyView of_one = answer[i % most];
      if (of_one.is_string()) {
        replies[i].error = Error{Errc::protocol, subject + ": " + printable(of_one.as_string())};
      } else {
        replies[i].excess = count_of(of_one);
      }
    } catch (const Error& error) {
      replies[i].error = error;
    }
  }
  return replies;
}

}  // namespace

std::vector<TrimReply> trim_archives(Session& session, std::span<const std::string> queues,
                                     const TrimRequest& request) {
  if (request.limit == 0) return look_at_archives(session, queues, request);
  std::vector<Call> calls;
  for (const std::string& queue : queues) {
    calls.push_back(
        session.call(queue, lua::Trim{.max_tasks = number(request.max_tasks),
                                      .max_age = micros(request.max_age),
                                      .limit = std::min(request.limit, acts_at_once)}));
  }
  const std::vector<Reply> answers = session.run(calls);
  std::vector<TrimReply> replies(queues.size());
  for (std::size_t i = 0; i < queues.size(); ++i) {
    try {
      throw_if_error("trim the archive of " + of_queue(queues[i]), answers[i]);
      answers[i].expect_array(2);
      replies[i] = {.deleted = count_of(answers[i][0]), .excess = count_of(answers[i][1])};
    } catch (const Error& error) {
      replies[i].error = error;
    }
  }
  return replies;
}

void update_payload(Session& session, std::string_view queue, std::string_view id,
                    std::string_view payload) {
  const std::string task = of_task(id);
  const std::string key = session.keys(queue).task(id);
  for (int attempt = 0; attempt < 10; ++attempt) {
    const Reply old = session.run_one(task, Session::command(key, {"HGET", key, field::msg}));
    if (old.is_nil()) throw_outcome(session, queue, id, 1);
    Decoded<WireMessage> decoded = decode_message(old.as_string());
    if (!decoded) {
      throw Error{Errc::malformed, task + ": " + decoded.error().text(), std::string{id}};
    }
    decoded->message.task.payload = std::string{payload};
    const Reply reply = session.run_one(
        task,
        session.call(queue, lua::UpdateMessage{
                                .id = id,
                                .old_message = old.as_string(),
                                .new_message = encode_message(decoded->message, decoded->unknown)}));
    if (reply.as_integer() == 0) return;
    throw_outcome(session, queue, id, reply.as_integer());
  }
  throw Error{Errc::wrong_state, task + ": others keep changing it", std::string{id}};
}

void pause(Session& session, std::string_view queue) {
  if (!exists(session, queue)) {
    const std::string& names = session.global().queues();
    session.run_one(of_queue(queue), Session::command(names, {"SADD", names, queue}));
  }
  const Reply reply = session.run_one(of_queue(queue), session.call(queue, lua::Pause{}));
  if (reply.as_integer() == 0) {
    throw Error{Errc::wrong_state, of_queue(queue) + ": already paused"};
  }
}

void unpause(Session& session, std::string_view queue) {
  require_queue(session, queue);
  const std::string key = session.keys(queue).paused();
  const Reply reply = session.run_one(of_queue(queue), Session::command(key, {"DEL", key}));
  if (reply.as_integer() == 0) {
    throw Error{Errc::wrong_state, of_queue(queue) + ": not paused"};
  }
}

void cancel(Session& session, std::string_view queue, std::string_view id, CancelMode mode) {
  BoundCancellation message{.database = session.options().database,
                            .queue = std::string{queue},
                            .task_id = std::string{id}};
  const std::string to_ours = message.encode();
  message.repeated = true;
  const Reply reply = session.run_one(
      of_task(id), session.call(queue, lua::Cancel{.id = id,
                                                   .mode = to_string(mode),
                                                   .plain_channel = session.global().cancel(),
                                                   .channel = session.global().bound_cancel(),
                                                   .message_to_ours = to_ours,
                                                   .message_to_others = message.encode()}));
  throw_outcome(session, queue, id, reply.as_integer());
}

void delete_queue(Session& session, std::string_view queue, bool force) {
  require_queue(session, queue);
  const std::string subject = of_queue(queue);
  std::int64_t outcome = 1;
  while (outcome == 1) {
    const Reply reply = session.run_one(
        subject,
        session.call(queue, lua::EmptyQueue{.with_tasks = force, .limit = acts_at_once}));
    outcome = reply.as_integer();
  }
  if (outcome == 2) throw Error{Errc::wrong_state, subject + ": tasks of it are active"};
  if (outcome == 3) throw Error{Errc::queue_not_empty, subject + ": it holds tasks"};
  const std::string& names = session.global().queues();
  session.run_one(subject, Session::command(names, {"SREM", names, queue}));
}

}  // namespace taskmux::redis
