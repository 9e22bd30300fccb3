#pragma once

// The contract of Broker, QueueView and Registry as tests: whoever writes a broker passes these, and whoever
// wants to know what a broker does reads them. Include it in one file of a test program, after
//     #define TASKMUX_BROKER_FIXTURES MyFixture, MyOtherFixture
// A fixture is an empty broker with a clock that stands still:
//     Broker& broker;  QueueView& view;  ManualClock& clock;
//     void advance(Duration);  // moves the clock, and whatever else measures time for this broker
// No test relies on more than every broker gives: instants that a store may keep in whole seconds
// are compared so, a lease may last up to 1 s longer than asked, and hints may come late, doubled,
// or unasked for.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/hint_box.hpp"
#include "support/test.hpp"
#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/dead_letter_queue.hpp"
#include "taskmux/detail/run/transition.hpp"
#include "taskmux/inspector.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"

#ifndef TASKMUX_BROKER_FIXTURES
#error "define TASKMUX_BROKER_FIXTURES before including broker_contract.hpp"
#endif

#define TASKMUX_CONTRACT(name) TEMPLATE_TEST_CASE(name, "[contract]", TASKMUX_BROKER_FIXTURES)

namespace taskmux::test {

using namespace std::chrono_literals;
using Ids = std::vector<std::string>;

/// What a broker may round a stored instant to.
inline auto whole(std::optional<Time> time) {
  return std::chrono::floor<std::chrono::seconds>(time.value_or(Time{}));
}

/// Puts the task `id` into `state`, whatever moves that takes; its queue must have nothing pending.
template <typename Fixture>
void bring_to(Fixture& t, const std::string& id, TaskState state,
              const std::string& queue = "default") {
  TaskMessage task = message(id, queue);
  if (state == TaskState::completed) task.retention = 1h;
  if (state == TaskState::scheduled) {
    REQUIRE_FALSE(enqueue(t.broker, scheduled(task, 1h)).error);
    return;
  }
  REQUIRE_FALSE(enqueue(t.broker, pending(task)).error);
  if (state == TaskState::pending) return;
  const Run run = take_one(t.broker, queue);
  if (state == TaskState::active) return;
  const Settlement end = state == TaskState::retry      ? retried(run, 1h)
                         : state == TaskState::archived ? archived(run)
                                                        : completed(run, "result");
  REQUIRE(settle(t.broker, end) == SettleStatus::applied);
}

inline const std::vector<TaskState> all_states = {TaskState::pending,   TaskState::active,
                                                  TaskState::scheduled, TaskState::retry,
                                                  TaskState::archived,  TaskState::completed};

// Enqueue

TASKMUX_CONTRACT("an enqueued task is pending, and its run carries the whole message") {
  TestType t;
  TaskMessage sent = message("t1", "critical", std::string("\0\xff\n binary", 10));
  sent.task.headers = {{"trace-id", "4bf9"}, {"empty", ""}};
  sent.max_retry = 3;
  sent.timeout = 90s;
  sent.retention = 2h;
  sent.deadline = t.clock.now() + 3h;
  sent.expires_at = t.clock.now() + 1500ms;

  const EnqueueReply reply = enqueue(t.broker, sent);
  CHECK_FALSE(reply.error);
  CHECK(reply.state == TaskState::pending);
  CHECK_FALSE(reply.process_at);

  const Run run = take_one(t.broker, "critical");
  REQUIRE(run.message);
  const TaskMessage& got = *run.message;
  CHECK(got.id == "t1");
  CHECK(got.queue == "critical");
  CHECK(got.task.type == sent.task.type);
  CHECK(got.task.payload == sent.task.payload);
  CHECK(got.task.headers == sent.task.headers);
  CHECK(got.max_retry == 3);
  CHECK(got.retried == 0);
  CHECK(got.timeout == 90s);
  CHECK(got.retention == 2h);
  CHECK(got.deadline == sent.deadline);
  CHECK(got.expires_at == sent.expires_at);
  CHECK(got.enqueued_at == t.clock.now());
  CHECK(got.last_error.empty());
  CHECK(got.unique_key.empty());
  CHECK(run.crashes == 0);
}

TASKMUX_CONTRACT("tasks are taken in the order they were enqueued, within and across batches") {
  TestType t;
  t.broker.enqueue(many("a", 3));
  t.broker.enqueue(many("b", 2));
  CHECK(ids(take(t.broker, "default", 2)) == Ids{"a1", "a2"});
  CHECK(ids(take(t.broker)) == Ids{"a3", "b1", "b2"});
  CHECK(take(t.broker).empty());
}

TASKMUX_CONTRACT("an empty batch is answered by no replies") {
  TestType t;
  CHECK(t.broker.enqueue({}).empty());
}

TASKMUX_CONTRACT("an id is taken in its queue in any state of its task") {
  TestType t;
  for (const TaskState state : all_states) {
    const std::string id = "id-" + std::string{to_string(state)};
    bring_to(t, id, state, std::string{to_string(state)});
    CAPTURE(id);
    CHECK(enqueue(t.broker, message(id, std::string{to_string(state)})).error ==
          Errc::task_id_conflict);
    CHECK_FALSE(enqueue(t.broker, message(id, "elsewhere")).error);
  }
}

TASKMUX_CONTRACT("an id is free again once its task is gone") {
  TestType t;
  settle(t.broker, completed(started(t.broker, message("t1"))));
  CHECK_FALSE(enqueue(t.broker, message("t1")).error);
}

TASKMUX_CONTRACT("one item of a batch never fails another") {
  TestType t;
  enqueue(t.broker, message("old"));

  const auto replies = t.broker.enqueue({pending(message("t1")), pending(message("old")),
                                         pending(message("t1")), pending(message("t2", "other")),
                                         unique(message("t3")), unique(message("t4"))});
  REQUIRE(replies.size() == 6);
  CHECK_FALSE(replies[0].error);
  CHECK(replies[1].error == Errc::task_id_conflict);
  CHECK_FALSE(replies[1].detail.empty());
  CHECK(replies[2].error == Errc::task_id_conflict);
  CHECK_FALSE(replies[3].error);
  CHECK_FALSE(replies[4].error);
  CHECK(replies[5].error == Errc::duplicate_task);
  CHECK_FALSE(replies[5].detail.empty());
  CHECK(ids(take(t.broker)) == Ids{"old", "t1", "t3"});
}

TASKMUX_CONTRACT("ids, queues, types and payloads may hold odd characters") {
  TestType t;
  const Ids odd = {" ",           "a b",
                   "{x}",         "a:b:c",
                   "line\nbreak", "*?[a]",
                   "\"'\\",       "\xc3\xa9\xe2\x9c\x97",
                   "%s%n",        std::string(512, 'i'),
                   "\t\x01"};
  for (const std::string& text : odd) {
    CAPTURE(text);
    const std::string queue = "q" + text;
    TaskMessage sent = message(text, queue, text + std::string("\0\x80", 2));
    sent.task.type = text;
    REQUIRE_FALSE(enqueue(t.broker, unique(sent)).error);
    CHECK(enqueue(t.broker, sent).error == Errc::task_id_conflict);

    const Run run = take_one(t.broker, queue);
    CHECK(run.message->id == text);
    CHECK(run.message->queue == queue);
    CHECK(run.message->task.type == text);
    CHECK(run.message->task.payload == sent.task.payload);
    CHECK(settle(t.broker, archived(run, text)) == SettleStatus::applied);
    CHECK(ids(t.view, TaskState::archived, queue) == Ids{text});
    CHECK(t.view.find(queue, text)->last_error == text);
  }
}

TASKMUX_CONTRACT("an empty and a large payload come back as they were") {
  TestType t;
  std::string large(2'000'000, 'x');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 7);
  enqueue(t.broker, message("t1", "default", ""));
  enqueue(t.broker, message("t2", "default", large));
  CHECK(take_one(t.broker).message->task.payload.empty());
  CHECK(take_one(t.broker).message->task.payload == large);
}

TASKMUX_CONTRACT("expires_in is counted from the broker's now") {
  TestType t;
  EnqueueRequest request = pending(message("t1"));
  request.expires_in = 1500ms;
  enqueue(t.broker, request);
  CHECK(t.view.find("default", "t1")->expires_at == t.clock.now() + 1500ms);
  CHECK(take_one(t.broker).message->expires_at == t.clock.now() + 1500ms);
}

TASKMUX_CONTRACT("thousands of tasks go through in large batches") {
  TestType t;
  constexpr std::size_t count = 3000;
  for (const EnqueueReply& reply : t.broker.enqueue(many("t", count))) {
    REQUIRE_FALSE(reply.error);
  }
  CHECK(t.view.queue_info("default").pending == count);

  std::vector<Run> runs;
  while (runs.size() < count) {
    const std::vector<Run> some = take(t.broker, "default", count);
    REQUIRE_FALSE(some.empty());
    runs.insert(runs.end(), some.begin(), some.end());
  }
  CHECK(runs.front().message->id == "t1");
  CHECK(runs.back().message->id == "t3000");
  for (const ExtendReply& reply : extend_all(t.broker, runs, 10s)) {
    REQUIRE(reply.status == LeaseStatus::ok);
  }

  std::vector<Settlement> settlements;
  for (Run& run : runs) settlements.push_back(completed(std::move(run)));
  const auto statuses = settle(t.broker, settlements);
  REQUIRE(statuses.size() == count);
  for (const SettleStatus status : statuses) REQUIRE(status == SettleStatus::applied);
  CHECK(t.view.queue_info("default").size() == 0);
  CHECK(t.view.queue_info("default").processed_total == count);
}

// Time

TASKMUX_CONTRACT("a scheduled task is taken at its instant, and not a microsecond before") {
  TestType t;
  const Time due = t.clock.now() + 5min + 123'457us;
  const EnqueueReply reply = enqueue(t.broker, scheduled(message("t1"), due));
  CHECK(reply.state == TaskState::scheduled);
  CHECK(reply.process_at == due);
  CHECK(state_of(t.view, "t1") == TaskState::scheduled);

  t.advance(due - t.clock.now() - 1us);
  CHECK(take(t.broker).empty());
  CHECK(upkeep(t.broker).forwarded == 0);
  t.advance(1us);
  CHECK(ids(take(t.broker)) == Ids{"t1"});
}

TASKMUX_CONTRACT("process_in is counted from the broker's now") {
  TestType t;
  const EnqueueReply reply = enqueue(t.broker, scheduled(message("t1"), 1500ms));
  CHECK(reply.state == TaskState::scheduled);
  CHECK(reply.process_at == t.clock.now() + 1500ms);
  t.advance(1499ms);
  CHECK(take(t.broker).empty());
  t.advance(1ms);
  CHECK(take(t.broker).size() == 1);
}

TASKMUX_CONTRACT("a task whose time has passed is pending at once") {
  TestType t;
  for (const Duration ago : {Duration{0}, Duration{1h}}) {
    const std::string id = "t" + std::to_string(ago.count());
    const EnqueueReply reply = enqueue(t.broker, scheduled(message(id), t.clock.now() - ago));
    CHECK(reply.state == TaskState::pending);
    CHECK(state_of(t.view, id) == TaskState::pending);
  }
}

TASKMUX_CONTRACT("tasks that become due line up behind what is pending, by their due times") {
  TestType t;
  enqueue(t.broker, scheduled(message("late"), 20s));
  enqueue(t.broker, scheduled(message("early"), 10s));
  enqueue(t.broker, message("pending"));
  t.advance(30s);
  CHECK(ids(take(t.broker)) == Ids{"pending", "early", "late"});
}

TASKMUX_CONTRACT("next_due is the earliest of scheduled and retry, to the microsecond") {
  TestType t;
  const QueueQuota quotas[] = {{"default", 1}, {"other", 1}};
  const auto next_due = [&] { return t.broker.exchange({.quotas = quotas}).next_due; };
  CHECK_FALSE(next_due());

  enqueue(t.broker, scheduled(message("t1"), 1h));
  CHECK(next_due() == t.clock.now() + 1h);
  enqueue(t.broker, scheduled(message("t2", "other"), 30min + 3us));
  CHECK(next_due() == t.clock.now() + 30min + 3us);
  enqueue(t.broker, scheduled(message("t3", "not asked for"), 1s));
  CHECK(next_due() == t.clock.now() + 30min + 3us);
  CHECK(upkeep(t.broker).next_due == t.clock.now() + 1h);

  const Run run = started(t.broker, message("t4"));
  settle(t.broker, retried(run, 10min + 7us));
  CHECK(next_due() == t.clock.now() + 10min + 7us);
  CHECK(upkeep(t.broker).next_due == t.clock.now() + 10min + 7us);

  t.view.pause("default");
  CHECK(next_due() == t.clock.now() + 30min + 3us);
  CHECK_FALSE(upkeep(t.broker).next_due);
}

TASKMUX_CONTRACT("replies tell the broker's time") {
  TestType t;
  t.advance(1234567us);
  CHECK(t.broker.exchange({}).now == t.clock.now());
  CHECK(upkeep(t.broker).now == t.clock.now());
  CHECK(t.view.now() == t.clock.now());
}

TASKMUX_CONTRACT("upkeep moves due tasks to pending, up to its limit at a time") {
  TestType t;
  for (int i = 1; i <= 5; ++i) {
    enqueue(t.broker, scheduled(message("t" + std::to_string(i)), std::chrono::seconds{i}));
  }
  t.advance(10s);

  UpkeepReply reply = upkeep(t.broker, "default", 3);
  CHECK(reply.forwarded == 3);
  CHECK(reply.more);
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3"});
  reply = upkeep(t.broker, "default", 3);
  CHECK(reply.forwarded == 2);
  CHECK_FALSE(reply.more);
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3", "t4", "t5"});
  CHECK(upkeep(t.broker).forwarded == 0);
}

TASKMUX_CONTRACT("instants and delays come due in one order") {
  TestType t;
  enqueue(t.broker, scheduled(message("t3"), t.clock.now() + 3s));
  enqueue(t.broker, scheduled(message("t2"), 2s));
  enqueue(t.broker, scheduled(message("t1"), t.clock.now() + 1s));
  enqueue(t.broker, scheduled(message("t4"), 4s));
  SECTION("in time") {
    t.advance(10s);
    CHECK(upkeep(t.broker).forwarded == 4);
    CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3", "t4"});
  }
  SECTION("by an operator") {
    for (int i = 0; i < 4; ++i)
      CHECK(t.view.act_all("default", TaskAction::run, TaskState::scheduled, 1) == 1);
    CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3", "t4"});
  }
}

TASKMUX_CONTRACT("many tasks that are due at once are all taken in the end") {
  TestType t;
  std::vector<EnqueueRequest> batch = many("t", 1500);
  for (EnqueueRequest& request : batch) request.process_in = 1s;
  t.broker.enqueue(std::move(batch));
  t.advance(2s);

  std::set<std::string> taken;
  while (taken.size() < 1500) {
    const std::vector<Run> runs = take(t.broker, "default", 400);
    REQUIRE_FALSE(runs.empty());
    for (const Run& run : runs) CHECK(taken.insert(run.message->id).second);
  }
  CHECK(take(t.broker).empty());
}

// Taking

TASKMUX_CONTRACT("a taken task is active, and nobody else gets it") {
  TestType t;
  enqueue(t.broker, message("t1"));
  const Run run = take_one(t.broker);
  CHECK(take(t.broker).empty());
  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::active);
  CHECK(whole(info->started_at) == whole(t.clock.now()));
  CHECK_FALSE(info->orphaned);
}

TASKMUX_CONTRACT("each queue gives up to its quota, in the order of the quotas") {
  TestType t;
  t.broker.enqueue(many("a", 5, "a"));
  t.broker.enqueue(many("b", 5, "b"));
  const QueueQuota quotas[] = {{"b", 2}, {"unknown", 0}, {"a", 3}};
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Ids{"b1", "b2", "a1", "a2", "a3"});
}

TASKMUX_CONTRACT("what one queue can't give is taken from the others, in their order") {
  TestType t;
  t.broker.enqueue(many("a", 1, "a"));
  t.broker.enqueue(many("b", 4, "b"));
  t.broker.enqueue(many("c", 9, "c"));
  const QueueQuota quotas[] = {{"c", 2}, {"a", 3}, {"b", 1}, {"none", 4}};
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) ==
        Ids{"c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "a1", "b1"});
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Ids{"c9", "b2", "b3", "b4"});
}

TASKMUX_CONTRACT("an exchange without quotas takes nothing") {
  TestType t;
  enqueue(t.broker, message("t1"));
  CHECK(t.broker.exchange({}).runs.empty());
  CHECK(take(t.broker, "default", 0).empty());
  CHECK(state_of(t.view, "t1") == TaskState::pending);
}

TASKMUX_CONTRACT("no task that is never retried is taken beyond the free workers") {
  TestType t;
  TaskMessage once = message("once");
  once.max_retry = 0;
  t.broker.enqueue({pending(message("t1")), pending(message("t2")), pending(once),
                    pending(message("t3")), pending(message("x1", "other")),
                    pending(message("x2", "other"))});
  const QueueQuota quotas[] = {{"default", 4}, {"other", 1}};

  ExchangeReply reply = t.broker.exchange({.quotas = quotas, .free_workers = 2});
  CHECK(ids(reply.runs) == Ids{"t1", "t2", "x1", "x2"});
  CHECK(reply.more);
  CHECK(ids(t.view, TaskState::pending) == Ids{"once", "t3"});

  reply = t.broker.exchange({.quotas = quotas, .free_workers = 0});
  CHECK(reply.runs.empty());
  CHECK(reply.more);

  reply = t.broker.exchange({.quotas = quotas, .free_workers = 1});
  CHECK(ids(reply.runs) == Ids{"once", "t3"});
  CHECK_FALSE(reply.more);
}

TASKMUX_CONTRACT("a run tells since when its task could have been run") {
  TestType t;
  const auto ready_at = [&] { return take_one(t.broker).ready_at; };
  Time since = t.clock.now();
  enqueue(t.broker, message("t1"));
  t.advance(3s);
  Run run = take_one(t.broker);
  CHECK(run.ready_at == since);
  settle(t.broker, given_back(run));
  since = t.clock.now();
  t.advance(2s);
  run = take_one(t.broker);
  CHECK(run.ready_at == since);

  // Since it was due, however late it was looked for.
  settle(t.broker, retried(run, 10s + 7us));
  since = t.clock.now() + 10s + 7us;
  t.advance(1h);
  run = take_one(t.broker);
  CHECK(run.ready_at == since);
  settle(t.broker, snoozed(run, 20s));
  since = t.clock.now() + 20s;
  t.advance(30s);
  upkeep(t.broker);
  t.advance(30s);
  run = take_one(t.broker);
  CHECK(run.ready_at == since);
  settle(t.broker, removed(run));
  enqueue(t.broker, scheduled(message("t2"), t.clock.now() + 90s));
  since = t.clock.now() + 90s;
  t.advance(100s);
  CHECK(ready_at() == since);
}

TASKMUX_CONTRACT("a call names the runs it takes") {
  TestType t;
  const std::uint64_t block = 0xabcd'1234'5678;
  t.broker.enqueue(many("a", 3, "a"));
  t.broker.enqueue(many("b", 3, "b"));
  const QueueQuota quotas[] = {{"a", 5}, {"b", 1}};
  const ExchangeReply reply = t.broker.exchange({.quotas = quotas, .token_block = block});
  CHECK(reply.runs.size() == 6);
  CHECK(reply.lost_takes.empty());
  std::set<std::uint64_t> tokens;
  for (const Run& run : reply.runs) {
    CHECK(run.token >> 16 == block);
    tokens.insert(run.token);
  }
  CHECK(tokens.size() == 6);
}

TASKMUX_CONTRACT("what a call took whose reply was lost goes back, as if it had not been taken") {
  TestType t;
  const std::uint64_t block = 0x1234'5678'9abc;
  const QueueQuota quotas[] = {{"default", 3}, {"other", 1}};
  t.broker.enqueue(many("before", 2));
  const std::vector<Run> kept = take(t.broker);
  t.broker.enqueue(many("t", 4));
  enqueue(t.broker, message("o1", "other"));
  t.broker.exchange({.quotas = quotas, .token_block = block});
  const std::vector<Run> later = take(t.broker);
  CHECK(ids(later) == Ids{"t4"});

  t.advance(1s);
  const LostTake lost[] = {{.token_block = block, .queues = {"default", "other"}, .age = 1s}};
  ExchangeReply reply = t.broker.exchange({.lost_takes = lost});
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3"});
  CHECK(ids(t.view, TaskState::pending, "other") == Ids{"o1"});
  for (const LostTake& open : reply.lost_takes) {
    CHECK(open.token_block == block);
    CHECK(open.answered);
  }
  const QueueInfo info = t.view.queue_info("default");
  CHECK(info.active == 3);
  CHECK(info.processed_total + info.failed_total == 0);
  const std::optional<TaskInfo> task = t.view.find("default", "t1");
  REQUIRE(task);
  CHECK(task->crashes == 0);
  CHECK(task->retried == 0);

  // It may be named again, and in the call that takes.
  reply = t.broker.exchange({.quotas = quotas, .token_block = block + 1, .lost_takes = lost});
  CHECK(ids(reply.runs) == Ids{"t1", "t2", "t3", "o1"});
  t.broker.exchange({.lost_takes = lost});
  for (const Run& run : reply.runs) CHECK(settle(t.broker, completed(run)) == SettleStatus::applied);
  for (const Run& run : kept) CHECK(settle(t.broker, completed(run)) == SettleStatus::applied);
  CHECK(settle(t.broker, completed(later.at(0))) == SettleStatus::applied);

  // Late enough it is over.
  t.advance(1h);
  const LostTake old[] = {{.token_block = block, .queues = {"default", "nothing"}, .age = 1h}};
  CHECK(t.broker.exchange({.lost_takes = old}).lost_takes.empty());
}

TASKMUX_CONTRACT("a run that was lost and taken over is not given back") {
  TestType t;
  const std::uint64_t block = 77;
  const QueueQuota quotas[] = {{"default", 1}};
  enqueue(t.broker, message("t1"));
  t.broker.exchange({.quotas = quotas, .lease = 1s, .token_block = block});
  t.advance(5s);
  const std::vector<Run> found = upkeep(t.broker).lost;
  REQUIRE(found.size() == 1);
  const LostTake lost[] = {{.token_block = block, .queues = {"default"}, .age = 5s}};
  t.broker.exchange({.lost_takes = lost});
  CHECK(ids(t.view, TaskState::active) == Ids{"t1"});
  CHECK(settle(t.broker, crashed(found.at(0))) == SettleStatus::applied);
}

TASKMUX_CONTRACT("a paused queue gives nothing and takes everything in") {
  TestType t;
  const Run run = started(t.broker, message("running"));
  t.view.pause("default");
  CHECK(t.view.queue_info("default").paused);
  CHECK_FALSE(enqueue(t.broker, message("t1")).error);
  CHECK_FALSE(enqueue(t.broker, scheduled(message("t2"), 1s)).error);
  t.advance(2s);
  const QueueQuota quotas[] = {{"default", 5}, {"other", 1}};
  CHECK(t.broker.exchange({.quotas = quotas}).runs.empty());
  CHECK(extend(t.broker, run).status == LeaseStatus::ok);
  CHECK(settle(t.broker, retried(run, {})) == SettleStatus::applied);
  CHECK(take(t.broker).empty());

  enqueue(t.broker, message("other", "other"));
  CHECK(ids(t.broker.exchange({.quotas = quotas}).runs) == Ids{"other"});

  t.view.unpause("default");
  CHECK_FALSE(t.view.queue_info("default").paused);
  CHECK(take(t.broker).size() == 3);
}

// Settling

TASKMUX_CONTRACT("a completed task without retention is deleted") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  CHECK(settle(t.broker, completed(run, "lost")) == SettleStatus::applied);
  CHECK_FALSE(t.view.find("default", "t1"));
  const QueueInfo info = t.view.queue_info("default");
  CHECK(info.size() == 0);
  CHECK(info.processed_total == 1);
  CHECK(info.failed_total == 0);
}

TASKMUX_CONTRACT("a completed task is kept with its result while its retention lasts") {
  TestType t;
  TaskMessage kept = message("t1");
  kept.retention = 1min;
  const std::string result("\0result\xff", 8);
  settle(t.broker, completed(started(t.broker, kept), result));

  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::completed);
  CHECK(info->result == result);
  CHECK(info->retention == 1min);
  CHECK(whole(info->completed_at) == whole(t.clock.now()));
  CHECK(t.view.queue_info("default").processed_total == 1);

  t.advance(59s);
  CHECK(upkeep(t.broker).expired == 0);
  t.advance(3s);
  CHECK(upkeep(t.broker).expired == 1);
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(t.view.queue_info("default").completed == 0);
}

TASKMUX_CONTRACT("upkeep deletes expired completed tasks, up to its limit at a time") {
  TestType t;
  for (const std::string id : {"t1", "t2", "t3"}) bring_to(t, id, TaskState::completed);
  t.advance(2h);
  UpkeepReply reply = upkeep(t.broker, "default", 2);
  CHECK(reply.expired == 2);
  CHECK(reply.more);
  reply = upkeep(t.broker, "default", 2);
  CHECK(reply.expired == 1);
  CHECK_FALSE(reply.more);
}

TASKMUX_CONTRACT("a removed task is deleted even with a retention, and counts as processed") {
  TestType t;
  TaskMessage kept = message("t1");
  kept.retention = 1h;
  CHECK(settle(t.broker, removed(started(t.broker, kept))) == SettleStatus::applied);
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(t.view.queue_info("default").processed_total == 1);
  CHECK(t.view.queue_info("default").failed_total == 0);
}

TASKMUX_CONTRACT(
    "a failed task waits in retry for its delay, with its error and one more failure") {
  TestType t;
  const Run first = started(t.broker, message("t1"));
  CHECK(settle(t.broker, retried(first, 1500ms,
                                 "\xc3\xa9"
                                 "chec")) == SettleStatus::applied);

  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::retry);
  CHECK(info->retried == 1);
  CHECK(info->last_error ==
        "\xc3\xa9"
        "chec");
  CHECK(whole(info->last_failed_at) == whole(t.clock.now()));
  CHECK(t.view.queue_info("default").processed_total == 1);
  CHECK(t.view.queue_info("default").failed_total == 1);
  CHECK(first.message->retried == 0);

  t.advance(1500ms - 1us);
  CHECK(take(t.broker).empty());
  t.advance(1us);
  const Run second = take_one(t.broker);
  CHECK(second.message->retried == 1);
  CHECK(second.message->last_error ==
        "\xc3\xa9"
        "chec");
  CHECK(second.message->task.payload == "payload");
  CHECK(second.token != first.token);
}

TASKMUX_CONTRACT("a retry that is no failure uses no retry and counts nothing") {
  TestType t;
  Settlement again = retried(started(t.broker, message("t1")), 1min, "not yet");
  again.attempt = Attempt::excused;
  CHECK(settle(t.broker, again) == SettleStatus::applied);
  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::retry);
  CHECK(info->retried == 0);
  CHECK(info->last_error == "not yet");
  CHECK(t.view.queue_info("default").processed_total == 0);
  CHECK(t.view.queue_info("default").failed_total == 0);
}

TASKMUX_CONTRACT("a retry without delay is pending at once, last in line") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  t.broker.enqueue(many("other", 2));
  settle(t.broker, retried(run, {}));
  CHECK(ids(t.view, TaskState::pending) == Ids{"other1", "other2", "t1"});
  CHECK(t.view.find("default", "t1")->retried == 1);
}

TASKMUX_CONTRACT("a last resort archives a task with its error, as any archive does") {
  TestType t;
  TaskMessage kept = message("t1");
  kept.task.headers = {{"trace", "7"}};
  Settlement end = archived(started(t.broker, kept), "it could not be recorded");
  end.last_resort = true;
  CHECK(settle(t.broker, end) == SettleStatus::applied);
  const auto task = t.view.find("default", "t1");
  REQUIRE(task);
  CHECK(task->state == TaskState::archived);
  CHECK(task->last_error == "it could not be recorded");
  CHECK(whole(task->last_failed_at) == whole(t.clock.now()));
  CHECK(task->retried == 0);
  CHECK(task->task.payload == "payload");
  CHECK(task->task.headers == kept.task.headers);
  CHECK(t.view.queue_info("default").failed_total == 1);
  CHECK(settle(t.broker, end) == SettleStatus::stale);
}

TASKMUX_CONTRACT("an archived task keeps its error, and counts as failed but not as retried") {
  TestType t;
  t.advance(500ms);
  CHECK(settle(t.broker, archived(started(t.broker, message("t1")), "no use")) ==
        SettleStatus::applied);
  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::archived);
  CHECK(info->last_error == "no use");
  CHECK(info->retried == 0);
  CHECK(whole(info->archived_at) == whole(t.clock.now()));
  CHECK(whole(info->last_failed_at) == whole(t.clock.now()));
  CHECK(t.view.queue_info("default").processed_total == 1);
  CHECK(t.view.queue_info("default").failed_total == 1);
  t.advance(24h * 365);
  upkeep(t.broker);
  CHECK(state_of(t.view, "t1") == TaskState::archived);
}

TASKMUX_CONTRACT("a task given back is first in line again, as if it had not been taken") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  const Run run = take_one(t.broker);
  CHECK(settle(t.broker, given_back(run)) == SettleStatus::applied);
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3"});
  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->retried == 0);
  CHECK(info->last_error.empty());
  CHECK_FALSE(info->last_failed_at);
  CHECK(t.view.queue_info("default").processed_total == 0);
  CHECK(take_one(t.broker).message->id == "t1");
}

TASKMUX_CONTRACT("a snoozed task is scheduled again, and nothing is counted") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  CHECK(settle(t.broker, snoozed(run, 90s + 1us)) == SettleStatus::applied);
  const std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::scheduled);
  CHECK(info->retried == 0);
  CHECK(info->last_error.empty());
  CHECK(t.view.queue_info("default").processed_total == 0);
  t.advance(90s);
  CHECK(take(t.broker).empty());
  t.advance(1us);
  CHECK(take_one(t.broker).message->retried == 0);
}

TASKMUX_CONTRACT("a result stays with a task that is not deleted") {
  TestType t;
  Settlement failed = retried(started(t.broker, message("t1")), {});
  failed.result = "half";
  settle(t.broker, failed);
  CHECK(t.view.find("default", "t1")->result == "half");
  settle(t.broker, archived(take_one(t.broker)));
  CHECK(t.view.find("default", "t1")->result == "half");
  CHECK(listed(t.view, "default", TaskState::archived).at(0).result == "half");
}

TASKMUX_CONTRACT("an exchange settles first and then takes") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  const Settlement settlements[] = {given_back(run)};
  const QueueQuota quotas[] = {{"default", 1}};
  const ExchangeReply reply = t.broker.exchange({.settlements = settlements, .quotas = quotas});
  CHECK(statuses(reply.settled) == std::vector{SettleStatus::applied});
  CHECK(ids(reply.runs) == Ids{"t1"});
}

TASKMUX_CONTRACT("settlements are answered in their order, each on its own") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  enqueue(t.broker, message("x1", "other"));
  const std::vector<Run> runs = take(t.broker);
  const Run other = take_one(t.broker, "other");
  Run unknown = runs[0];
  unknown.message = std::make_shared<const TaskMessage>(message("unknown"));

  CHECK(settle(t.broker, {completed(runs[0]), completed(unknown), completed(runs[0]),
                          archived(other), retried(runs[2], 1h), given_back(runs[1])}) ==
        std::vector{SettleStatus::applied, SettleStatus::stale, SettleStatus::stale,
                    SettleStatus::applied, SettleStatus::applied, SettleStatus::applied});
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(state_of(t.view, "t2") == TaskState::pending);
  CHECK(state_of(t.view, "t3") == TaskState::retry);
  CHECK(state_of(t.view, "x1", "other") == TaskState::archived);
}

// Fencing

TASKMUX_CONTRACT("a settlement that is repeated comes back as stale and changes nothing") {
  TestType t;
  for (const Settlement& end :
       {completed({}), removed({}), retried({}, 1h), archived({}), given_back({}), snoozed({}, 1h)}) {
    const std::string queue = "q" + std::to_string(static_cast<int>(end.action));
    Settlement settlement = end;
    settlement.run = started(t.broker, message("t1", queue));
    REQUIRE(settle(t.broker, settlement) == SettleStatus::applied);
    const std::optional<TaskState> state = state_of(t.view, "t1", queue);
    const QueueInfo info = t.view.queue_info(queue);

    CAPTURE(queue);
    CHECK(settle(t.broker, settlement) == SettleStatus::stale);
    CHECK(extend(t.broker, settlement.run).status == LeaseStatus::lost);
    CHECK(state_of(t.view, "t1", queue) == state);
    CHECK(t.view.queue_info(queue).processed_total == info.processed_total);
    CHECK(t.view.queue_info(queue).size() == info.size());
  }
}

TASKMUX_CONTRACT("a worker can't end or extend a later run of its task") {
  TestType t;
  const Run mine = started(t.broker, message("t1"));
  settle(t.broker, given_back(mine));
  const Run theirs = take_one(t.broker);
  CHECK(theirs.token != mine.token);

  for (const Settlement& end : {completed(mine), removed(mine), retried(mine, 1h), archived(mine),
                                given_back(mine), snoozed(mine, 1h)}) {
    CHECK(settle(t.broker, end) == SettleStatus::stale);
  }
  CHECK(extend(t.broker, mine).status == LeaseStatus::lost);
  CHECK(state_of(t.view, "t1") == TaskState::active);
  CHECK(t.view.find("default", "t1")->last_error.empty());
  CHECK(extend(t.broker, theirs).status == LeaseStatus::ok);
  CHECK(settle(t.broker, completed(theirs)) == SettleStatus::applied);
}

TASKMUX_CONTRACT("the token of one task does not fit another") {
  TestType t;
  t.broker.enqueue(many("t", 2));
  std::vector<Run> runs = take(t.broker);
  std::swap(runs[0].token, runs[1].token);
  CHECK(settle(t.broker, {completed(runs[0]), completed(runs[1])}) ==
        std::vector{SettleStatus::stale, SettleStatus::stale});
  CHECK(extend(t.broker, runs[0]).status == LeaseStatus::lost);
}

TASKMUX_CONTRACT("a run of a task that was deleted and enqueued anew is stale") {
  TestType t;
  const Run old = started(t.broker, message("t1"));
  settle(t.broker, completed(old));
  const Run fresh = started(t.broker, message("t1"));
  CHECK(settle(t.broker, completed(old)) == SettleStatus::stale);
  CHECK(extend(t.broker, old).status == LeaseStatus::lost);
  CHECK(settle(t.broker, completed(fresh)) == SettleStatus::applied);
}

TASKMUX_CONTRACT("the runs of an unknown queue are stale") {
  TestType t;
  Run run = started(t.broker, message("t1"));
  run.message = std::make_shared<const TaskMessage>(message("t1", "unknown"));
  CHECK(settle(t.broker, completed(run)) == SettleStatus::stale);
  CHECK(extend(t.broker, run).status == LeaseStatus::lost);
}

TASKMUX_CONTRACT("a late worker whom nobody replaced may still settle and extend") {
  TestType t;
  t.broker.enqueue(many("t", 2));
  const std::vector<Run> runs = take(t.broker);
  t.advance(1h);
  CHECK(t.view.find("default", "t1")->orphaned);
  CHECK(listed(t.view, "default", TaskState::active).at(0).orphaned);
  CHECK(settle(t.broker, completed(runs[0])) == SettleStatus::applied);
  CHECK(extend(t.broker, runs[1]).status == LeaseStatus::ok);
  CHECK_FALSE(t.view.find("default", "t2")->orphaned);
  CHECK(upkeep(t.broker).lost.empty());
}

// Leases and lost runs

TASKMUX_CONTRACT("a run is lost 1 s after its lease has ended, and then the finder's") {
  TestType t;
  enqueue(t.broker, message("t1"));
  const Run mine = take_one(t.broker, "default", 10s);
  t.advance(11s - 1us);
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(2s);

  const UpkeepReply reply = upkeep(t.broker);
  REQUIRE(reply.lost.size() == 1);
  const Run& found = reply.lost[0];
  CHECK(found.message->id == "t1");
  CHECK(found.token != mine.token);
  CHECK(found.crashes == 0);
  CHECK(state_of(t.view, "t1") == TaskState::active);
  CHECK_FALSE(t.view.find("default", "t1")->orphaned);

  CHECK(upkeep(t.broker).lost.empty());
  CHECK(extend(t.broker, mine).status == LeaseStatus::lost);
  CHECK(settle(t.broker, completed(mine)) == SettleStatus::stale);
  CHECK(extend(t.broker, found).status == LeaseStatus::ok);
  CHECK(settle(t.broker, crashed(found)) == SettleStatus::applied);
  CHECK(state_of(t.view, "t1") == TaskState::pending);
}

TASKMUX_CONTRACT("a run whose finder is lost too is found again") {
  TestType t;
  started(t.broker, message("t1"));
  t.advance(20s);
  const UpkeepReply first = upkeep(t.broker);
  REQUIRE(first.lost.size() == 1);
  t.advance(20s);
  const UpkeepReply second = upkeep(t.broker);
  REQUIRE(second.lost.size() == 1);
  CHECK(settle(t.broker, crashed(first.lost[0])) == SettleStatus::stale);
  CHECK(settle(t.broker, crashed(second.lost[0])) == SettleStatus::applied);
}

TASKMUX_CONTRACT("extending keeps a run from being lost") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  for (int i = 0; i < 5; ++i) {
    t.advance(9s);
    CHECK(extend(t.broker, run, 10s).status == LeaseStatus::ok);
    CHECK(upkeep(t.broker).lost.empty());
  }
  CHECK(extend(t.broker, run, 1min).status == LeaseStatus::ok);
  t.advance(1min);
  CHECK(upkeep(t.broker).lost.empty());
  t.advance(3s);
  CHECK(upkeep(t.broker).lost.size() == 1);
}

TASKMUX_CONTRACT("upkeep takes over lost runs of the given queues, up to its limit at a time") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  enqueue(t.broker, message("x1", "other"));
  take(t.broker);
  take(t.broker, "other");
  t.advance(20s);
  UpkeepReply reply = upkeep(t.broker, "default", 2);
  CHECK(reply.lost.size() == 2);
  CHECK(reply.more);
  reply = upkeep(t.broker, "default", 2);
  CHECK(reply.lost.size() == 1);
  CHECK_FALSE(reply.more);
  CHECK(ids(upkeep(t.broker, "other").lost) == Ids{"x1"});
}

TASKMUX_CONTRACT("upkeep never takes over a run that its caller names as its own") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  const std::vector<Run> runs = take(t.broker);
  t.advance(1h);
  const Run elsewhere = started(t.broker, message("t1", "other"));
  const Run own[] = {runs[0], runs[2], elsewhere};
  const std::string queues[] = {"default", "other"};
  CHECK(ids(t.broker.upkeep({.queues = queues, .own = own}).lost) == Ids{"t2"});
  CHECK(extend(t.broker, runs[0]).status == LeaseStatus::ok);
  CHECK(settle(t.broker, completed(runs[2])) == SettleStatus::applied);

  // The run counts, not the task: t1 was another's meanwhile.
  settle(t.broker, given_back(runs[0]));
  take_one(t.broker);
  t.advance(1h);
  CHECK(t.broker.upkeep({.queues = queues, .own = own}).lost.size() == 2);
}

TASKMUX_CONTRACT("a step of the wall clock takes no run from a worker that goes on extending it") {
  TestType t;
  t.broker.enqueue(many("t", 2));
  const std::vector<Run> runs = take(t.broker);
  t.clock.step_wall(GENERATE(Duration{1h}, Duration{-1h}));
  for (int i = 0; i < 4; ++i) {
    CHECK(ids(upkeep(t.broker).lost) == Ids{});
    CHECK(extend(t.broker, runs[0]).status == LeaseStatus::ok);
    t.advance(3s);
    if (i == 2) CHECK(extend(t.broker, runs[1]).status == LeaseStatus::ok);
  }
  t.advance(3s);
  CHECK(extend(t.broker, runs[0]).status == LeaseStatus::ok);
  t.advance(9s);
  CHECK(ids(upkeep(t.broker).lost) == Ids{"t2"});
  CHECK(settle(t.broker, completed(runs[0])) == SettleStatus::applied);
}

TASKMUX_CONTRACT("upkeep looks for lost runs only when asked to") {
  TestType t;
  started(t.broker, message("t1"));
  t.advance(20s);
  const std::string queue = "default";
  CHECK(t.broker.upkeep({.queues = std::span{&queue, 1}, .recover = false}).lost.empty());
  CHECK(t.broker.upkeep({.queues = std::span{&queue, 1}, .lease = 1min}).lost.size() == 1);
  t.advance(50s);
  CHECK(upkeep(t.broker).lost.empty());
}

TASKMUX_CONTRACT("upkeep of an unknown queue does nothing") {
  TestType t;
  const UpkeepReply reply = upkeep(t.broker, "unknown");
  CHECK(reply.forwarded + reply.expired + reply.repaired + reply.lost.size() == 0);
  CHECK_FALSE(reply.more);
  CHECK_FALSE(reply.next_due);
}

TASKMUX_CONTRACT("crashes in a row are counted until a run ends otherwise") {
  TestType t;
  enqueue(t.broker, message("t1"));
  for (int crashes = 0; crashes < 3; ++crashes) {
    CHECK(take_one(t.broker).crashes == crashes);
    t.advance(20s);
    const UpkeepReply reply = upkeep(t.broker);
    REQUIRE(reply.lost.size() == 1);
    CHECK(reply.lost[0].crashes == crashes);
    CHECK(settle(t.broker, crashed(reply.lost[0])) == SettleStatus::applied);
    CHECK(t.view.find("default", "t1")->crashes == crashes + 1);
  }
  CHECK(t.view.find("default", "t1")->retried == 3);
  CHECK(t.view.find("default", "t1")->last_error == "worker lost");

  settle(t.broker, given_back(take_one(t.broker)));
  CHECK(t.view.find("default", "t1")->crashes == 3);
  settle(t.broker, retried(take_one(t.broker), {}));
  CHECK(t.view.find("default", "t1")->crashes == 0);
  CHECK(take_one(t.broker).crashes == 0);
}

TASKMUX_CONTRACT("a lost run tells how far it had come") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  const QueueQuota quotas[] = {{"default", 3}};
  const std::vector<Run> runs = t.broker.exchange({.quotas = quotas, .free_workers = 1}).runs;
  REQUIRE(ids(runs) == Ids{"t1", "t2", "t3"});
  CHECK(runs[0].begun == Begun::yes);
  CHECK(runs[1].begun == Begun::perhaps);
  CHECK(runs[2].begun == Begun::perhaps);
  // To extend a lease says nothing more; to say that it has begun does, and is not forgotten.
  CHECK(extend(t.broker, runs[1], 20s).status == LeaseStatus::ok);
  CHECK(extend(t.broker, runs[2], 20s, true).status == LeaseStatus::ok);
  CHECK(extend(t.broker, runs[2], 20s).status == LeaseStatus::ok);

  t.advance(1min);
  UpkeepReply reply = upkeep(t.broker);
  CHECK(begun_of(reply.lost, "t1") == Begun::yes);
  CHECK(begun_of(reply.lost, "t2") == Begun::perhaps);
  CHECK(begun_of(reply.lost, "t3") == Begun::yes);
  // Nor is it by a finder that is lost too.
  t.advance(1min);
  reply = upkeep(t.broker);
  CHECK(begun_of(reply.lost, "t1") == Begun::yes);
  CHECK(begun_of(reply.lost, "t2") == Begun::perhaps);
  CHECK(begun_of(reply.lost, "t3") == Begun::yes);
}

TASKMUX_CONTRACT("a suspect has not begun until that is recorded") {
  TestType t;
  settle(t.broker, crashed(started(t.broker, message("t1"))));
  Run run = take_one(t.broker);
  CHECK(run.crashes == 1);
  CHECK(run.begun == Begun::no);
  CHECK(extend(t.broker, run, 20s).status == LeaseStatus::ok);
  t.advance(1min);
  UpkeepReply reply = upkeep(t.broker);
  CHECK(begun_of(reply.lost, "t1") == Begun::no);
  CHECK(settle(t.broker, given_back(reply.lost.at(0))) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 1);

  run = take_one(t.broker);
  CHECK(run.begun == Begun::no);
  CHECK(extend(t.broker, run, 10s, true).status == LeaseStatus::ok);  // the same end of the lease
  t.advance(1min);
  reply = upkeep(t.broker);
  CHECK(begun_of(reply.lost, "t1") == Begun::yes);
}

TASKMUX_CONTRACT("a suspect is not taken ahead of a free worker") {
  TestType t;
  settle(t.broker, crashed(started(t.broker, message("suspect"))));
  enqueue(t.broker, message("t1"));
  const QueueQuota quotas[] = {{"default", 5}};
  ExchangeReply reply = t.broker.exchange({.quotas = quotas, .free_workers = 0});
  CHECK(reply.runs.empty());
  CHECK(reply.more);
  reply = t.broker.exchange({.quotas = quotas, .free_workers = 1});
  CHECK(ids(reply.runs) == Ids{"suspect", "t1"});
}

TASKMUX_CONTRACT("what its workers were lost by goes first in line") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  const std::vector<Run> runs = take(t.broker, "default", 2);
  settle(t.broker, crashed(runs.at(0)));
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t3"});
  // After a delay too; and a task that failed goes last.
  settle(t.broker, crashed(runs.at(1), 2s));
  settle(t.broker, retried(take_one(t.broker), 1s));
  t.advance(5s);
  upkeep(t.broker);
  CHECK(ids(t.view, TaskState::pending) == Ids{"t2", "t3", "t1"});
}

TASKMUX_CONTRACT("a run that goes back unbegun counts nothing but what it is told to") {
  TestType t;
  Settlement back = given_back(started(t.broker, message("t1")));
  back.attempt = Attempt::crashed;
  CHECK(settle(t.broker, back) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 1);

  Settlement later = snoozed(take_one(t.broker), 1s);
  later.attempt = Attempt::not_begun;
  CHECK(settle(t.broker, later) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 1);
  t.advance(2s);
  later.run = take_one(t.broker);
  later.attempt = Attempt::crashed;
  CHECK(settle(t.broker, later) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 2);
  t.advance(2s);
  Settlement again = retried(take_one(t.broker), {});
  again.attempt = Attempt::not_begun;
  CHECK(settle(t.broker, again) == SettleStatus::applied);
  CHECK(t.view.find("default", "t1")->crashes == 2);
  CHECK(t.view.find("default", "t1")->retried == 0);
  CHECK(t.view.queue_info("default").processed_total == 0);
}

TASKMUX_CONTRACT("a snooze ends a row of crashes, and a crash may be archived") {
  TestType t;
  settle(t.broker, crashed(started(t.broker, message("t1"))));
  settle(t.broker, snoozed(take_one(t.broker), 1s));
  CHECK(t.view.find("default", "t1")->crashes == 0);

  t.advance(1s);
  Settlement given_up = archived(take_one(t.broker), "worker lost");
  given_up.attempt = Attempt::crashed;
  settle(t.broker, given_up);
  CHECK(t.view.find("default", "t1")->crashes == 1);
  CHECK(state_of(t.view, "t1") == TaskState::archived);

  // Who runs it again has seen to the cause: the next crash is a first one.
  act(t.view, "default", TaskAction::run, Ids{"t1"}, {});
  CHECK(t.view.find("default", "t1")->crashes == 0);
  CHECK(take_one(t.broker).crashes == 0);
}

/// Ends a run of a task with that many `crashes` as `end` says, all but the run, and compares what can
/// be seen with the table of transitions. Takes a queue of its own, so that its counters are apart.
template <typename Fixture>
void check_transition(Fixture& t, const std::string& queue, Settlement end,
                      std::chrono::seconds retention, int crashes) {
  TaskMessage task = message("t", queue);
  task.retention = retention;
  REQUIRE_FALSE(enqueue(t.broker, unique(task)).error);
  for (int i = 0; i < crashes; ++i) {
    Settlement back = given_back(take_one(t.broker, queue));
    back.attempt = Attempt::crashed;
    REQUIRE(settle(t.broker, back) == SettleStatus::applied);
  }
  end.run = take_one(t.broker, queue);
  REQUIRE_FALSE(enqueue(t.broker, message("next", queue)).error);
  t.view.cancel(queue, "t", CancelMode::archive);
  const detail::Transition next = detail::transition_of(end);
  REQUIRE(settle(t.broker, end) == SettleStatus::applied);

  const QueueInfo counted = t.view.queue_info(queue);
  CHECK(counted.processed_total == (next.processed ? 1 : 0));
  CHECK(counted.failed_total == (next.failed ? 1 : 0));
  const bool locked = enqueue(t.broker, unique(message("other", queue))).error.has_value();
  CHECK(locked == !next.frees_lock);
  const std::optional<TaskInfo> info = t.view.find(queue, "t");
  REQUIRE(info.has_value() == next.to.has_value());
  if (!info) return;
  CHECK(info->state == *next.to);
  CHECK(info->crashes == next.crashes);
  CHECK(info->retried == (next.uses_retry ? 1 : 0));
  CHECK(info->last_error == (next.notes_error ? end.error : ""));
  CHECK(info->last_failed_at.has_value() == next.notes_error);
  CHECK(info->completed_at.has_value() == (next.to == TaskState::completed));
  CHECK(info->result == end.result);
  if (next.to == TaskState::retry || next.to == TaskState::scheduled)
    CHECK(info->next_process_at == t.clock.now() + next.due_in);
  if (next.to != TaskState::pending) return;
  CHECK(ids(t.view, TaskState::pending, queue).front() == (next.first_in_line ? "t" : "next"));
  for (const Run& run : take(t.broker, queue)) {
    if (run.message->id == "t") CHECK(run.cancel.has_value() == next.keeps_wish);
  }
}

TASKMUX_CONTRACT("a settlement does what the table of transitions says") {
  TestType t;
  int number = 0;
  for (const SettleAction action :
       {SettleAction::complete, SettleAction::remove, SettleAction::retry, SettleAction::archive,
        SettleAction::give_back, SettleAction::snooze}) {
    for (const Attempt attempt :
         {Attempt::counts, Attempt::excused, Attempt::crashed, Attempt::not_begun}) {
      for (const Duration delay : {Duration{0}, Duration{90s}}) {
        if (action == SettleAction::snooze && delay == Duration{0}) continue;
        for (const auto& [retention, crashes] : {std::pair{0s, 0}, {0s, 2}, {3600s, 0}}) {
          CAPTURE(static_cast<int>(action), static_cast<int>(attempt), delay.count(),
                  retention.count(), crashes);
          const Settlement end{.action = action,
                               .error = "boom",
                               .delay = delay,
                               .attempt = attempt,
                               .result = "result"};
          check_transition(t, "q" + std::to_string(number++), end, retention, crashes);
        }
      }
    }
  }
}

// Unique locks

TASKMUX_CONTRACT("a unique lock covers its queue, type and payload") {
  TestType t;
  REQUIRE_FALSE(enqueue(t.broker, unique(message("t1"))).error);
  CHECK(enqueue(t.broker, unique(message("t2"))).error == Errc::duplicate_task);
  CHECK(enqueue(t.broker,
                EnqueueRequest{.message = message("t2"), .process_in = 1h, .unique_for = 1h})
            .error == Errc::duplicate_task);
  CHECK_FALSE(t.view.find("default", "t2"));

  TaskMessage other_type = message("t3");
  other_type.task.type = "email:goodbye";
  CHECK_FALSE(enqueue(t.broker, unique(other_type)).error);
  CHECK_FALSE(enqueue(t.broker, unique(message("t4", "default", "other"))).error);
  CHECK_FALSE(enqueue(t.broker, unique(message("t5", "other"))).error);
  TaskMessage with_headers = message("t6");
  with_headers.task.headers = {{"a", "b"}};
  CHECK(enqueue(t.broker, unique(with_headers)).error == Errc::duplicate_task);
  CHECK_FALSE(enqueue(t.broker, message("t7")).error);
}

TASKMUX_CONTRACT("type and payload of a lock are not mixed up") {
  TestType t;
  TaskMessage one = message("t1", "default", "b:c");
  one.task.type = "a";
  TaskMessage two = message("t2", "default", "c");
  two.task.type = "a:b";
  CHECK_FALSE(enqueue(t.broker, unique(one)).error);
  CHECK_FALSE(enqueue(t.broker, unique(two)).error);
}

TASKMUX_CONTRACT("an empty payload counts as none unless asked otherwise") {
  TestType t;
  EnqueueRequest present = unique(message("present", "default", ""));
  present.unique_empty_payload = true;
  CHECK_FALSE(enqueue(t.broker, unique(message("none", "default", ""))).error);
  CHECK_FALSE(enqueue(t.broker, present).error);
  CHECK(enqueue(t.broker, unique(message("t3", "default", ""))).error == Errc::duplicate_task);
  present.message.id = "t4";
  CHECK(enqueue(t.broker, present).error == Errc::duplicate_task);

  EnqueueRequest full = unique(message("t5", "default", "x"));
  full.unique_empty_payload = true;
  CHECK_FALSE(enqueue(t.broker, full).error);
  CHECK(enqueue(t.broker, unique(message("t6", "default", "x"))).error == Errc::duplicate_task);
}

TASKMUX_CONTRACT("success and removal free the lock") {
  TestType t;
  TaskMessage kept = message("kept");
  kept.retention = 1h;
  int i = 0;
  for (const auto& end : {completed({}), removed({})}) {
    const std::string id = "t" + std::to_string(++i);
    REQUIRE_FALSE(enqueue(t.broker, unique(message(id))).error);
    Settlement settlement = end;
    settlement.run = take_one(t.broker);
    settle(t.broker, settlement);
  }
  REQUIRE_FALSE(enqueue(t.broker, unique(kept)).error);
  settle(t.broker, completed(take_one(t.broker)));
  CHECK(state_of(t.view, "kept") == TaskState::completed);
  CHECK_FALSE(enqueue(t.broker, unique(message("last"))).error);
}

TASKMUX_CONTRACT("the lock is kept in every other state") {
  TestType t;
  const auto locked = [&] {
    return enqueue(t.broker, unique(message("other"))).error == Errc::duplicate_task;
  };
  enqueue(t.broker, unique(message("t1")));
  CHECK(locked());
  const Run run = take_one(t.broker);
  CHECK(locked());
  CHECK_FALSE(run.message->unique_key.empty());
  settle(t.broker, given_back(run));
  CHECK(locked());
  settle(t.broker, snoozed(take_one(t.broker), 1s));
  CHECK(locked());
  t.advance(2s);
  settle(t.broker, retried(take_one(t.broker), 1s));
  CHECK(locked());
  t.advance(2s);
  settle(t.broker, archived(take_one(t.broker)));
  CHECK(locked());
  act(t.view, "default", TaskAction::run, Ids{"t1"}, {});
  CHECK(locked());
  act(t.view, "default", TaskAction::archive, Ids{"t1"}, {});
  CHECK(locked());
  act(t.view, "default", TaskAction::remove, Ids{"t1"}, {});
  CHECK_FALSE(locked());
}

TASKMUX_CONTRACT("a lock ends with its time, and its former holder frees no other's") {
  TestType t;
  enqueue(t.broker, unique(message("t1"), 10s));
  t.advance(9s);
  CHECK(enqueue(t.broker, unique(message("t2"), 10s)).error == Errc::duplicate_task);
  t.advance(2s);
  CHECK_FALSE(enqueue(t.broker, unique(message("t2"), 10s)).error);

  settle(t.broker, completed(take_one(t.broker)));
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(enqueue(t.broker, unique(message("t3"))).error == Errc::duplicate_task);
}

TASKMUX_CONTRACT("the time of a lock counts from when the task may run") {
  TestType t;
  EnqueueRequest later = unique(message("t1"), 10s);
  later.process_in = 1h;
  enqueue(t.broker, later);
  t.advance(1h + 9s);
  CHECK(enqueue(t.broker, unique(message("t2"))).error == Errc::duplicate_task);
  t.advance(2s);
  CHECK_FALSE(enqueue(t.broker, unique(message("t2"))).error);
}

TASKMUX_CONTRACT("an id conflict leaves no lock behind, and is told before a duplicate") {
  TestType t;
  enqueue(t.broker, message("t1", "default", "one"));
  CHECK(enqueue(t.broker, unique(message("t1", "default", "two"))).error == Errc::task_id_conflict);
  CHECK_FALSE(enqueue(t.broker, unique(message("t2", "default", "two"))).error);
  CHECK(enqueue(t.broker, unique(message("t2", "default", "two"))).error == Errc::task_id_conflict);
}

TASKMUX_CONTRACT("removing and deleting frees locks, one by one and in bulk") {
  TestType t;
  const auto accepted = [&](const std::string& id) {
    return !enqueue(t.broker, unique(message(id))).error;
  };
  REQUIRE(accepted("t1"));
  CHECK(t.view.act_all("default", TaskAction::remove, TaskState::pending, 10) == 1);
  REQUIRE(accepted("t2"));
  settle(t.broker, archived(take_one(t.broker)));
  CHECK(t.view.act_all("default", TaskAction::remove, TaskState::archived, 10) == 1);
  REQUIRE(accepted("t3"));
  t.view.delete_queue("default", true);
  CHECK(accepted("t4"));
}

// Remembered ids

TASKMUX_CONTRACT("an id is remembered from its acceptance, even after its task has ended") {
  TestType t;
  const auto repeated = [&](const std::string& id) {
    const EnqueueReply reply = enqueue(t.broker, idempotent(message(id)));
    CHECK_FALSE(reply.error);
    return reply.accepted_before;
  };
  CHECK_FALSE(repeated("t1"));
  CHECK(repeated("t1"));  // pending
  const Run run = take_one(t.broker);
  CHECK(repeated("t1"));
  settle(t.broker, retried(run, 1s));
  CHECK(repeated("t1"));
  t.advance(2s);
  settle(t.broker, completed(take_one(t.broker)));
  CHECK_FALSE(t.view.find("default", "t1"));
  CHECK(repeated("t1"));  // gone
  CHECK(take(t.broker).empty());

  CHECK_FALSE(repeated("t2"));
  settle(t.broker, archived(take_one(t.broker)));
  CHECK(repeated("t2"));
  act(t.view, "default", TaskAction::remove, Ids{"t2"}, {});
  CHECK(repeated("t2"));
  CHECK(t.view.queue_info("default").size() == 0);
  CHECK_FALSE(enqueue(t.broker, idempotent(message("t2", "other"))).accepted_before);
}

TASKMUX_CONTRACT("an id is remembered for its time, and a repeat does not prolong that") {
  TestType t;
  enqueue(t.broker, idempotent(message("t1"), 10s));
  enqueue(t.broker, idempotent(message("t2"), 20s));
  t.broker.exchange(
      {.settlements = std::vector{completed(take_one(t.broker)), completed(take_one(t.broker))}});
  t.advance(9s);
  CHECK(enqueue(t.broker, idempotent(message("t1"), 1h)).accepted_before);
  t.advance(2s);
  const EnqueueReply anew = enqueue(t.broker, idempotent(message("t1"), 10s));
  CHECK_FALSE(anew.error);
  CHECK_FALSE(anew.accepted_before);
  CHECK(enqueue(t.broker, idempotent(message("t2"), 10s)).accepted_before);
  settle(t.broker, completed(take_one(t.broker)));
  t.advance(9s);  // t2 is over, t1 is not.
  upkeep(t.broker);
  CHECK(enqueue(t.broker, idempotent(message("t1"), 10s)).accepted_before);
  CHECK_FALSE(enqueue(t.broker, idempotent(message("t2"), 10s)).accepted_before);
}

TASKMUX_CONTRACT("an id is remembered only if that was asked for and the task was accepted") {
  TestType t;
  enqueue(t.broker, message("t1"));
  CHECK(enqueue(t.broker, idempotent(message("t1"))).error == Errc::task_id_conflict);
  settle(t.broker, completed(take_one(t.broker)));
  CHECK_FALSE(enqueue(t.broker, idempotent(message("t1"))).accepted_before);
  CHECK(enqueue(t.broker, message("t1")).error == Errc::task_id_conflict);
  settle(t.broker, completed(take_one(t.broker)));
  // Without the option, the call is no repeat of one with it.
  const EnqueueReply plain = enqueue(t.broker, message("t1"));
  CHECK_FALSE(plain.error);
  CHECK_FALSE(plain.accepted_before);
}

TASKMUX_CONTRACT("a remembered id is answered before its lock, schedule and state are looked at") {
  TestType t;
  EnqueueRequest request = unique(message("t1"));
  request.idempotent_for = 1h;
  CHECK_FALSE(enqueue(t.broker, request).error);
  CHECK(enqueue(t.broker, request).accepted_before);
  EnqueueRequest other = request;
  other.message.id = "t2";
  CHECK(enqueue(t.broker, other).error == Errc::duplicate_task);
  settle(t.broker, completed(take_one(t.broker)));
  CHECK(enqueue(t.broker, request).accepted_before);  // The lock is free, and stays so.
  CHECK_FALSE(enqueue(t.broker, other).error);

  EnqueueRequest later = scheduled(message("t3"), 1h);
  later.idempotent_for = 2h;
  CHECK(enqueue(t.broker, later).state == TaskState::scheduled);
  later.process_in = 2h;
  CHECK(enqueue(t.broker, later).accepted_before);
  CHECK(t.view.find("default", "t3")->next_process_at == t.clock.now() + 1h);
}

TASKMUX_CONTRACT("a remembered id may come twice in one batch, and fails no other item") {
  TestType t;
  const auto replies = t.broker.enqueue({idempotent(message("t1")), pending(message("t2")),
                                         idempotent(message("t1")), pending(message("t2")),
                                         idempotent(message("t3"))});
  REQUIRE(replies.size() == 5);
  CHECK_FALSE(replies[0].error);
  CHECK_FALSE(replies[0].accepted_before);
  CHECK_FALSE(replies[1].error);
  CHECK(replies[2].accepted_before);
  CHECK_FALSE(replies[2].error);
  CHECK(replies[3].error == Errc::task_id_conflict);
  CHECK_FALSE(replies[4].accepted_before);
  CHECK(ids(take(t.broker)) == Ids{"t1", "t2", "t3"});
}

TASKMUX_CONTRACT("many ids are remembered, and deleting their queue forgets them") {
  TestType t;
  std::vector<EnqueueRequest> batch = many("t", 2500);
  for (EnqueueRequest& request : batch) request.idempotent_for = 1h;
  t.broker.enqueue(batch);
  for (const EnqueueReply& reply : t.broker.enqueue(batch)) CHECK(reply.accepted_before);
  CHECK(t.view.queue_info("default").pending == 2500);
  t.view.delete_queue("default", true);
  for (const EnqueueReply& reply : t.broker.enqueue(batch)) CHECK_FALSE(reply.accepted_before);
  CHECK(t.view.queue_info("default").pending == 2500);
}

// Cancelling

TASKMUX_CONTRACT("extend tells that a run is to be cancelled, and how") {
  TestType t;
  for (const CancelMode mode : {CancelMode::retry, CancelMode::archive, CancelMode::remove}) {
    const std::string id = "t" + std::to_string(static_cast<int>(mode));
    const Run run = started(t.broker, message(id));
    CHECK_FALSE(extend(t.broker, run).cancel);
    t.view.cancel("default", id, mode);
    const ExtendReply reply = extend(t.broker, run);
    CHECK(reply.status == LeaseStatus::ok);
    CHECK(reply.cancel == mode);
    CHECK(extend(t.broker, run).cancel == mode);

    settle(t.broker, retried(run, 0s));
    const Run next = take_one(t.broker);
    CHECK_FALSE(next.cancel);
    CHECK_FALSE(extend(t.broker, next).cancel);
    settle(t.broker, completed(next));
  }
}

TASKMUX_CONTRACT("the last request to cancel counts") {
  TestType t;
  const Run run = started(t.broker, message("t1"));
  t.view.cancel("default", "t1", CancelMode::retry);
  t.view.cancel("default", "t1", CancelMode::remove);
  CHECK(extend(t.broker, run).cancel == CancelMode::remove);
}

TASKMUX_CONTRACT("a wish to cancel a run that goes back is one to cancel the next run") {
  TestType t;
  const std::uint64_t block = 4711;
  const auto take_and_recall = [&] {
    const QueueQuota quotas[] = {{"default", 1}};
    t.broker.exchange({.quotas = quotas, .token_block = block});
    t.view.cancel("default", "t1", CancelMode::remove);
    const LostTake lost[] = {{.token_block = block, .queues = {"default"}}};
    t.broker.exchange({.lost_takes = lost});
  };
  const auto held = [&] {
    const Run run = take_one(t.broker);
    t.view.cancel("default", "t1", CancelMode::remove);
    CHECK(settle(t.broker, given_back(run)) == SettleStatus::applied);
  };
  enqueue(t.broker, message("t1"));
  for (const bool by_settlement : {false, true}) {
    by_settlement ? held() : take_and_recall();
    Run run = take_one(t.broker);
    CHECK(run.cancel == CancelMode::remove);
    CHECK(extend(t.broker, run).cancel == CancelMode::remove);
    // As often as it goes back.
    settle(t.broker, given_back(run));
    run = take_one(t.broker);
    CHECK(run.cancel == CancelMode::remove);
    // But not once a run was begun and ended.
    settle(t.broker, retried(run, 0s));
    run = take_one(t.broker);
    CHECK_FALSE(run.cancel);
    CHECK_FALSE(extend(t.broker, run).cancel);
    settle(t.broker, given_back(run));
    run = take_one(t.broker);
    CHECK_FALSE(run.cancel);
    settle(t.broker, given_back(run));
  }
  held();
  const std::string id = "t1";
  act(t.view, "default", TaskAction::archive, std::span{&id, 1}, {});
  act(t.view, "default", TaskAction::run, std::span{&id, 1}, {});
  CHECK_FALSE(take_one(t.broker).cancel);
}

TASKMUX_CONTRACT("only what is active can be cancelled") {
  TestType t;
  for (const TaskState state : all_states) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    CAPTURE(queue);
    try {
      t.view.cancel(queue, "t1", CancelMode::retry);
      CHECK(state == TaskState::active);
    } catch (const Error& error) {
      CHECK(error.errc() == Errc::wrong_state);
      CHECK(std::string_view{error.what()}.ends_with(": it is " + queue));
      CHECK(state != TaskState::active);
    }
  }
  CHECK(error_of([&] { t.view.cancel("active", "unknown", CancelMode::retry); }) ==
        Errc::task_not_found);
}

// Statistics

TASKMUX_CONTRACT("attempts are counted by the day, UTC, and in all") {
  TestType t;
  settle(t.broker, completed(started(t.broker, message("t1"))));
  settle(t.broker, retried(started(t.broker, message("t2")), 1h));
  t.advance(std::chrono::ceil<std::chrono::days>(t.clock.now() + 1s) - t.clock.now() - 1s);
  settle(t.broker, archived(started(t.broker, message("t3"))));
  const auto yesterday = std::chrono::floor<std::chrono::days>(t.clock.now());
  t.advance(2s);
  settle(t.broker, completed(take_one(t.broker)));

  const QueueInfo info = t.view.queue_info("default");
  CHECK(info.processed_today == 1);
  CHECK(info.failed_today == 0);
  CHECK(info.processed_total == 4);
  CHECK(info.failed_total == 2);

  const std::vector<DailyStats> days = t.view.history("default", 3);
  REQUIRE(days.size() == 3);
  CHECK(days[0].day == yesterday + std::chrono::days{1});
  CHECK(days[0].processed == 1);
  CHECK(days[0].failed == 0);
  CHECK(days[1].day == yesterday);
  CHECK(days[1].processed == 3);
  CHECK(days[1].failed == 2);
  CHECK(days[2].day == yesterday - std::chrono::days{1});
  CHECK(days[2].processed == 0);
}

TASKMUX_CONTRACT("history goes back 90 days") {
  TestType t;
  settle(t.broker, completed(started(t.broker, message("t1"))));
  t.advance(89 * 24h);
  settle(t.broker, completed(started(t.broker, message("t2"))));
  const std::vector<DailyStats> days = t.view.history("default", 90);
  REQUIRE(days.size() == 90);
  CHECK(days.front().processed == 1);
  CHECK(days.back().processed == 1);
  CHECK(t.view.history("default", 1).size() == 1);
  for (const int wrong : {0, -1, 91}) {
    CHECK(error_of([&] { t.view.history("default", wrong); }) == Errc::invalid_argument);
  }
}

// Inspecting

TASKMUX_CONTRACT("queues are those that anything was enqueued to, by name") {
  TestType t;
  CHECK(t.view.queues().empty());
  take(t.broker, "only looked at");
  upkeep(t.broker, "only looked at");
  enqueue(t.broker, message("t1", "b"));
  enqueue(t.broker, scheduled(message("t2", "a"), 1h));
  CHECK(t.view.queues() == Ids{"a", "b"});
  settle(t.broker, completed(take_one(t.broker, "b")));
  CHECK(t.view.queues() == Ids{"a", "b"});
}

TASKMUX_CONTRACT("queue_info counts the tasks of each state") {
  TestType t;
  int count = 0;
  for (const TaskState state : {TaskState::completed, TaskState::archived, TaskState::retry,
                                TaskState::active, TaskState::scheduled, TaskState::pending}) {
    ++count;
    for (int i = 0; i < count; ++i) {
      bring_to(t, std::string{to_string(state)} + std::to_string(i), state);
      if (state == TaskState::pending) continue;
    }
  }
  const QueueInfo info = t.view.queue_info("default");
  CHECK(info.queue == "default");
  CHECK_FALSE(info.paused);
  CHECK(info.completed == 1);
  CHECK(info.archived == 2);
  CHECK(info.retry == 3);
  CHECK(info.active == 4);
  CHECK(info.scheduled == 5);
  CHECK(info.pending == 6);
  CHECK(info.aggregating == 0);
  CHECK(info.size() == 21);
}

TASKMUX_CONTRACT("latency is how long the next in line could have been run") {
  TestType t;
  bring_to(t, "t0", TaskState::archived);
  CHECK(t.view.queue_info("default").latency == 0s);
  enqueue(t.broker, message("t1"));
  t.advance(3s);
  enqueue(t.broker, message("t2"));
  CHECK(t.view.queue_info("default").latency == 3s);
  take_one(t.broker);
  t.advance(1s);
  CHECK(t.view.queue_info("default").latency == 1s);
  take_one(t.broker);
  CHECK(t.view.queue_info("default").latency == 0s);

  enqueue(t.broker, scheduled(message("t3"), 1min));
  t.advance(2min);
  upkeep(t.broker);
  t.advance(5s);
  // Also while nobody looked what was due.
  CHECK(t.view.queue_info("default").latency == 65s);
}

TASKMUX_CONTRACT("find shows a task in any state as it was given") {
  TestType t;
  TaskMessage sent = message("t1", "default", std::string("\0\xff", 2));
  sent.task.headers = {{"k", "v"}};
  sent.max_retry = 7;
  sent.retention = 1h;
  sent.deadline = t.clock.now() + 48h;
  enqueue(t.broker, scheduled(sent, 1min));

  std::optional<TaskInfo> info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::scheduled);
  CHECK(info->next_process_at == t.clock.now() + 1min);
  CHECK(info->id == "t1");
  CHECK(info->queue == "default");
  CHECK(info->task.type == sent.task.type);
  CHECK(info->task.payload == sent.task.payload);
  CHECK(info->task.headers == sent.task.headers);
  CHECK(info->max_retry == 7);
  CHECK(info->timeout == 30min);
  CHECK(info->retention == 1h);
  CHECK(info->deadline == sent.deadline);
  CHECK(info->enqueued_at == t.clock.now());
  CHECK_FALSE(info->expires_at);
  CHECK_FALSE(info->started_at);
  CHECK_FALSE(info->completed_at);
  CHECK_FALSE(info->last_failed_at);
  CHECK_FALSE(info->archived_at);
  CHECK(info->last_error.empty());
  CHECK(info->result.empty());
  CHECK(info->group.empty());

  t.advance(1min);
  settle(t.broker, retried(take_one(t.broker), 1min));
  info = t.view.find("default", "t1");
  REQUIRE(info);
  CHECK(info->state == TaskState::retry);
  CHECK(info->next_process_at == t.clock.now() + 1min);
  CHECK_FALSE(t.view.find("default", "unknown"));
}

TASKMUX_CONTRACT("pending is listed in the order of running") {
  TestType t;
  t.broker.enqueue(many("t", 5));
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2", "t3", "t4", "t5"});
  CHECK(t.view.list({.queue = "default", .limit = 0}).tasks.empty());
  const TaskInfo first = listed(t.view, "default", TaskState::pending).at(0);
  CHECK(first.state == TaskState::pending);
  CHECK(first.task.payload == "payload");
}

TASKMUX_CONTRACT("each state is listed in its own order, page by page") {
  TestType t;
  const auto pages = [&](TaskState state) {
    TaskPage page = t.view.list({.queue = "default", .state = state, .limit = 2});
    Ids all = ids(page.tasks);
    CHECK(all.size() == 2);
    CHECK_FALSE(page.next.empty());
    page = t.view.list({.queue = "default", .state = state, .cursor = page.next, .limit = 2});
    CHECK(page.next.empty());
    for (const TaskInfo& info : page.tasks) {
      CHECK(info.state == state);
      all.push_back(info.id);
    }
    return all;
  };

  SECTION("active: longest running first") {
    for (const std::string id : {"t3", "t1", "t2"}) {
      bring_to(t, id, TaskState::active);
      t.advance(2s);
    }
    CHECK(pages(TaskState::active) == Ids{"t3", "t1", "t2"});
  }
  SECTION("scheduled: by due time") {
    enqueue(t.broker, scheduled(message("t1"), 30s));
    enqueue(t.broker, scheduled(message("t2"), 10s));
    enqueue(t.broker, scheduled(message("t3"), 20s));
    CHECK(pages(TaskState::scheduled) == Ids{"t2", "t3", "t1"});
  }
  SECTION("retry: by due time") {
    settle(t.broker, retried(started(t.broker, message("t1")), 30s));
    settle(t.broker, retried(started(t.broker, message("t2")), 10s));
    settle(t.broker, retried(started(t.broker, message("t3")), 20s));
    CHECK(pages(TaskState::retry) == Ids{"t2", "t3", "t1"});
  }
  SECTION("archived: oldest first") {
    for (const std::string id : {"t3", "t1", "t2"}) {
      bring_to(t, id, TaskState::archived);
      t.advance(2s);
    }
    CHECK(pages(TaskState::archived) == Ids{"t3", "t1", "t2"});
  }
  SECTION("completed: by the end of retention") {
    for (const auto& [id, retention] :
         std::map<std::string, std::chrono::seconds>{{"t1", 3h}, {"t2", 1h}, {"t3", 2h}}) {
      TaskMessage kept = message(id);
      kept.retention = retention;
      settle(t.broker, completed(started(t.broker, kept), "result of " + id));
    }
    CHECK(pages(TaskState::completed) == Ids{"t2", "t3", "t1"});
    CHECK(listed(t.view, "default", TaskState::completed).at(0).result == "result of t2");
  }
  SECTION("aggregating: none of ours") {
    enqueue(t.broker, message("t1"));
    CHECK(t.view.groups("default").empty());
    CHECK(t.view.list({.queue = "default", .state = TaskState::aggregating, .group = "g"})
              .tasks.empty());
    CHECK(error_of([&] { t.view.list({.queue = "default", .state = TaskState::aggregating}); }) ==
          Errc::invalid_argument);
  }
}

/// All that `request` lists, `step` tasks at a time; `between` runs between two pages.
template <typename Fixture, typename Between>
Ids ids_in_steps(Fixture& t, ListRequest request, std::size_t step, Between between) {
  Ids all;
  request.queue = "default";
  request.limit = step;
  for (int page_count = 0; page_count < 1000; ++page_count) {
    TaskPage page = t.view.list(request);
    CHECK(page.tasks.size() <= step);
    for (const TaskInfo& info : page.tasks) all.push_back(info.id);
    if (page.next.empty()) break;
    request.cursor = std::move(page.next);
    between();
  }
  return all;
}

/// Puts tasks into `state`, in the order in which it lists them, all at the same instant.
template <typename Fixture>
void bring_many_to(Fixture& t, std::size_t count, TaskState state) {
  std::vector<EnqueueRequest> batch = many("t", count);
  for (EnqueueRequest& request : batch) {
    if (state == TaskState::completed) request.message.retention = 1h;
    if (state == TaskState::scheduled) request.process_in = 1h;
  }
  t.broker.enqueue(std::move(batch));
  if (state == TaskState::pending || state == TaskState::scheduled) return;
  std::vector<Settlement> ends;
  for (Run& run : take(t.broker)) {
    ends.push_back(state == TaskState::retry      ? retried(std::move(run), 1h)
                   : state == TaskState::archived ? archived(std::move(run))
                                                  : completed(std::move(run), "result"));
  }
  if (state != TaskState::active) t.broker.exchange({.settlements = ends});
}

TASKMUX_CONTRACT("a listing by pages shows each task once, also those of the same instant") {
  TestType t;
  const TaskState state = GENERATE(from_range(all_states));
  CAPTURE(to_string(state));
  bring_many_to(t, 25U, state);
  const std::size_t step = GENERATE(1U, 3U, 25U, 30U);
  const Ids all = ids_in_steps(t, {.state = state}, step, [] {});
  CHECK(all == ids(t.view, state));
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == 25);
  CHECK(all.size() == 25);
}

TASKMUX_CONTRACT(
    "a listing by pages skips and repeats nothing while tasks before the place leave") {
  TestType t;
  const TaskState state = GENERATE(from_range(all_states));
  if (state == TaskState::active) return;
  CAPTURE(to_string(state));
  bring_many_to(t, 42, state);
  const Ids before = ids(t.view, state);
  // All tasks of a page but the first leave, among them the one that its cursor was made from.
  std::size_t listed = 0;
  const Ids all = ids_in_steps(t, {.state = state}, 3, [&] {
    listed += 3;
    const Ids gone{before.at(listed - 2), before.at(listed - 1)};
    CHECK(act(t.view, "default", TaskAction::remove, gone) == std::vector<std::optional<Errc>>(2));
  });
  CHECK(all == before);
}

TASKMUX_CONTRACT("a listing of pending tasks goes on behind those that were taken meanwhile") {
  TestType t;
  bring_many_to(t, 60, TaskState::pending);
  const Ids before = ids(t.view, TaskState::pending);
  const std::size_t taken = GENERATE(1U, 5U, 8U);
  const Ids all = ids_in_steps(t, {}, 5, [&] { take(t.broker, "default", taken); });
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == all.size());
  Ids expected;  // those that were still there when their page was read
  for (const std::string& id : before) {
    if (std::find(all.begin(), all.end(), id) != all.end()) expected.push_back(id);
  }
  CHECK(all == expected);
  CHECK(all.size() >= (taken <= 5 ? 60U : 35U));
}

TASKMUX_CONTRACT("a listing of pending tasks is not moved by what joins at either end") {
  TestType t;
  bring_many_to(t, 20, TaskState::pending);
  std::vector<Run> runs = take(t.broker, "default", 5);
  int added = 0;
  const Ids all = ids_in_steps(t, {}, 4, [&] {
    if (!runs.empty()) {
      settle(t.broker, given_back(runs.back()));
      runs.pop_back();
    }
    if (++added <= 3) enqueue(t.broker, message("new" + std::to_string(added)));
  });
  Ids expected;
  for (int i = 6; i <= 20; ++i) expected.push_back("t" + std::to_string(i));
  for (const std::string id : {"new1", "new2", "new3"}) expected.push_back(id);
  CHECK(all == expected);
}

TASKMUX_CONTRACT("a listing of active tasks goes on while runs end") {
  TestType t;
  t.broker.enqueue(many("t", 30));
  std::vector<Run> runs = take(t.broker);
  std::size_t ended = 0;
  const Ids all = ids_in_steps(t, {.state = TaskState::active}, 4, [&] {
    for (int i = 0; i < 3; ++i) settle(t.broker, completed(runs.at(ended++)));
  });
  CHECK(all.size() == 30);
  CHECK(std::set<std::string>(all.begin(), all.end()).size() == 30);
}

TASKMUX_CONTRACT("a cursor that is none, or of another state, is refused") {
  TestType t;
  bring_many_to(t, 3, TaskState::scheduled);
  const std::string cursor =
      t.view.list({.queue = "default", .state = TaskState::scheduled, .limit = 1}).next;
  REQUIRE_FALSE(cursor.empty());
  const auto refusal = [&](TaskState state, const std::string& text) {
    return error_of([&] { t.view.list({.queue = "default", .state = state, .cursor = text}); });
  };
  CHECK_FALSE(refusal(TaskState::scheduled, cursor));
  for (const std::string& text : {std::string{"x"}, std::string{"1"}, cursor + "x", "x" + cursor,
                                  cursor.substr(0, cursor.size() / 2), std::string{"\0", 1}})
    CHECK(refusal(TaskState::scheduled, text) == Errc::invalid_argument);
  for (const TaskState state : all_states) {
    if (state != TaskState::scheduled) CHECK(refusal(state, cursor) == Errc::invalid_argument);
  }
  for (const char c : cursor) CHECK((c > ' ' && c <= '~'));
}

TASKMUX_CONTRACT("a listing is filtered by type, id, last error and age") {
  TestType t;
  const auto bury = [&](const std::string& id, const std::string& type, const std::string& error) {
    TaskMessage task = message(id);
    task.task.type = type;
    settle(t.broker, archived(started(t.broker, task), error));
    t.advance(10s);
  };
  const Time first = t.clock.now();
  bury("a1", "email:send", "smtp: refused");
  bury("a2", "email:send:bulk", "smtp: timeout");
  bury("b1", "image*resize", "disk full");
  bury("b2", "image:resize", "Disk full");

  struct Case {
    TaskFilter filter;
    Ids ids;
  };
  const std::vector<Case> cases{
      {{}, {"a1", "a2", "b1", "b2"}},
      {{.type_pattern = "email:send"}, {"a1"}},
      {{.type_pattern = "email:*"}, {"a1", "a2"}},
      {{.type_pattern = "*:send*"}, {"a1", "a2"}},
      {{.type_pattern = "*resize"}, {"b1", "b2"}},
      {{.type_pattern = "image*resize"}, {"b1", "b2"}},
      {{.type_pattern = "image\\*resize"}, {"b1"}},
      {{.type_pattern = "e*l*d"}, {"a1"}},
      {{.type_pattern = "*"}, {"a1", "a2", "b1", "b2"}},
      {{.type_pattern = "send"}, {}},
      {{.id_prefix = "a"}, {"a1", "a2"}},
      {{.id_prefix = "a1x"}, {}},
      {{.error_contains = "smtp"}, {"a1", "a2"}},
      {{.error_contains = "full"}, {"b1", "b2"}},
      {{.error_contains = "disk"}, {"b1"}},
      {{.error_contains = "payload"}, {}},
      {{.after = first + 5s}, {"a2", "b1", "b2"}},
      {{.until = first + 10s}, {"a1", "a2"}},
      {{.after = first, .until = first + 20s}, {"a2", "b1"}},
      {{.type_pattern = "*resize", .id_prefix = "b", .error_contains = "Disk"}, {"b2"}},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    CAPTURE(i);
    const ListRequest request{.state = TaskState::archived, .filter = cases[i].filter};
    CHECK(ids_in_steps(t, request, 30, [] {}) == cases[i].ids);
    CHECK(ids_in_steps(t, request, 1, [] {}) == cases[i].ids);
  }
}

TASKMUX_CONTRACT("the age of a task counts from what its state is about") {
  TestType t;
  const Time start = t.clock.now();
  for (const TaskState state : all_states) {
    if (state != TaskState::pending) bring_to(t, "t", state, std::string{to_string(state)});
  }
  bring_to(t, "t", TaskState::pending, "pending");
  t.advance(1min);
  for (const TaskState state : all_states) {
    CAPTURE(to_string(state));
    const auto count = [&](const TaskFilter& filter) {
      return t.view.list({.queue = std::string{to_string(state)}, .state = state, .filter = filter})
          .tasks.size();
    };
    CHECK(count({.until = start}) == 1);
    CHECK(count({.until = start - 1s}) == 0);
    CHECK(count({.after = start - 1s}) == 1);
    CHECK(count({.after = start + 1s}) == 0);
  }
}

TASKMUX_CONTRACT("a filter finds few among many, and a page may be short") {
  TestType t;
  std::vector<EnqueueRequest> batch = many("t", 3000);
  for (const std::size_t i : {1U, 1500U, 2999U}) batch[i].message.task.type = "rare:type";
  t.broker.enqueue(std::move(batch));
  CHECK(ids_in_steps(t, {.filter = {.type_pattern = "rare:*"}}, 10, [] {}) ==
        Ids{"t2", "t1501", "t3000"});
  CHECK(ids_in_steps(t, {}, 700, [] {}).size() == 3000);
}

TASKMUX_CONTRACT("payloads and results are left out if they are not wanted") {
  TestType t;
  TaskMessage task = message("t1", "default", std::string(5000, 'p'));
  task.retention = 1h;
  task.task.headers = {{"trace-id", "4bf9"}};
  settle(t.broker, completed(started(t.broker, task), "the result"));
  ListRequest request{.queue = "default", .state = TaskState::completed};
  const TaskInfo whole = t.view.list(request).tasks.at(0);
  CHECK(whole.task.payload == task.task.payload);
  CHECK(whole.result == "the result");
  request.with_payload = false;
  const TaskInfo bare = t.view.list(request).tasks.at(0);
  CHECK(bare.task.payload.empty());
  CHECK(bare.result == "the result");
  CHECK(bare.task.type == task.task.type);
  CHECK(bare.task.headers == task.task.headers);
  CHECK(bare.retention == 1h);
  request.with_payload = true;
  request.with_result = false;
  CHECK(t.view.list(request).tasks.at(0).task.payload == task.task.payload);
  CHECK(t.view.list(request).tasks.at(0).result.empty());
}

TASKMUX_CONTRACT("the infos of several queues, and the states of many ids, come in one call") {
  TestType t;
  enqueue(t.broker, message("t1", "a"));
  enqueue(t.broker, scheduled(message("t2", "b"), 1h));
  const Ids queues{"b", "unknown", "a", "b"};
  const auto infos = t.view.queue_infos(queues);
  REQUIRE(infos.size() == 4);
  CHECK(infos[0].info.queue == "b");
  CHECK(infos[0].info.scheduled == 1);
  CHECK_FALSE(infos[0].error);
  REQUIRE(infos[1].error);
  CHECK(infos[1].error->errc() == Errc::queue_not_found);
  CHECK(infos[2].info.pending == 1);
  CHECK(infos[3].info.scheduled == 1);
  CHECK(t.view.queue_infos({}).empty());

  for (const TaskState state : all_states) {
    if (state != TaskState::pending) bring_to(t, std::string{to_string(state)}, state);
  }
  bring_to(t, "pending", TaskState::pending);
  Ids names{"none"};
  for (const TaskState state : all_states) names.emplace_back(to_string(state));
  const auto states = t.view.states("default", names);
  REQUIRE(states.size() == 7);
  CHECK_FALSE(states[0].state);
  for (std::size_t i = 0; i < all_states.size(); ++i) CHECK(states[i + 1].state == all_states[i]);
  const Ids some(1200, "active");
  CHECK(t.view.states("default", some).size() == 1200);
  CHECK(t.view.states("default", some).back().state == TaskState::active);
}

TASKMUX_CONTRACT(
    "a queue that never was holds nothing, and only its info and its state are missing") {
  TestType t;
  const std::string queue = "unknown";
  const Ids one{"t1"};
  CHECK(t.view.history(queue, 1).empty());
  CHECK(t.view.list({.queue = queue}).tasks.empty());
  CHECK(t.view.list({.queue = queue}).next.empty());
  CHECK(t.view.groups(queue).empty());
  CHECK_FALSE(t.view.find(queue, "t1"));
  CHECK_FALSE(t.view.states(queue, one).at(0).state);
  CHECK(act(t.view, queue, TaskAction::run, one) ==
        std::vector{std::optional{Errc::task_not_found}});
  CHECK(t.view.act_all(queue, TaskAction::run, TaskState::retry, 1) == 0);
  const auto missing = Errc::task_not_found;
  CHECK(error_of([&] { t.view.update_payload(queue, "t1", "new"); }) == missing);
  CHECK(error_of([&] { t.view.cancel(queue, "t1", CancelMode::retry); }) == missing);
  CHECK(error_of([&] { t.view.queue_info(queue); }) == Errc::queue_not_found);
  CHECK(error_of([&] { t.view.unpause(queue); }) == Errc::queue_not_found);
  CHECK(error_of([&] { t.view.delete_queue(queue, true); }) == Errc::queue_not_found);
  CHECK(t.view.queues().empty());
}

TASKMUX_CONTRACT("a queue can be paused before its first task") {
  TestType t;
  t.view.pause("new");
  CHECK(t.view.queues() == Ids{"new"});
  CHECK(t.view.queue_info("new").paused);
  CHECK(error_of([&] { t.view.pause("new"); }) == Errc::wrong_state);
  enqueue(t.broker, message("t1", "new"));
  CHECK(take(t.broker, "new").empty());
  t.view.unpause("new");
  CHECK(ids(take(t.broker, "new")) == Ids{"t1"});
}

// Repairing

TASKMUX_CONTRACT("run makes a waiting, archived or completed task pending, last in line") {
  TestType t;
  for (const TaskState state :
       {TaskState::scheduled, TaskState::retry, TaskState::archived, TaskState::completed}) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    enqueue(t.broker, message("before", queue));
    CAPTURE(queue);
    const auto before = t.view.find(queue, "t1");
    REQUIRE(before);
    CHECK(act(t.view, queue, TaskAction::run, Ids{"t1"}, state) ==
          std::vector<std::optional<Errc>>{std::nullopt});
    CHECK(ids(t.view, state, queue).empty());
    CHECK(ids(t.view, TaskState::pending, queue) == Ids{"before", "t1"});
    CHECK_FALSE(t.broker.exchange({}).next_due);

    const std::vector<Run> runs = take(t.broker, queue);
    CHECK(ids(runs) == Ids{"before", "t1"});
    CHECK(runs.at(1).message->retried == before->retried);
    CHECK(runs.at(1).message->last_error == before->last_error);
  }
}

TASKMUX_CONTRACT("archive sets a task aside as it is, and counts nothing") {
  TestType t;
  for (const TaskState state :
       {TaskState::pending, TaskState::scheduled, TaskState::retry, TaskState::completed}) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    CAPTURE(queue);
    const QueueInfo before = t.view.queue_info(queue);
    const auto task = t.view.find(queue, "t1");
    t.advance(2s);
    CHECK(act(t.view, queue, TaskAction::archive, Ids{"t1"}, {}) ==
          std::vector<std::optional<Errc>>{std::nullopt});
    const QueueInfo after = t.view.queue_info(queue);
    CHECK(after.archived == 1);
    CHECK(after.size() == 1);
    CHECK(after.processed_total == before.processed_total);
    const auto info = t.view.find(queue, "t1");
    REQUIRE(info);
    CHECK(info->state == TaskState::archived);
    CHECK(whole(info->archived_at) == whole(t.clock.now()));
    CHECK(info->last_error == task->last_error);
    CHECK(take(t.broker, queue).empty());
  }
}

TASKMUX_CONTRACT("remove deletes a task in any state but active") {
  TestType t;
  for (const TaskState state : all_states) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    const auto refused = act(t.view, queue, TaskAction::remove, Ids{"t1"}, {}).at(0);
    CAPTURE(queue);
    if (state == TaskState::active) {
      CHECK(refused == Errc::wrong_state);
      CHECK(t.view.queue_info(queue).active == 1);
    } else {
      CHECK_FALSE(refused);
      CHECK_FALSE(t.view.find(queue, "t1"));
      CHECK(t.view.queue_info(queue).size() == 0);
      CHECK_FALSE(enqueue(t.broker, message("t1", queue)).error);
    }
  }
}

TASKMUX_CONTRACT("act answers for each id, and refuses what its state does not allow") {
  TestType t;
  bring_to(t, "archived", TaskState::archived);
  bring_to(t, "retry", TaskState::retry);
  bring_to(t, "active", TaskState::active);
  bring_to(t, "pending", TaskState::pending);
  const std::optional<Errc> done;

  CHECK(act(t.view, "default", TaskAction::run,
            Ids{"active", "unknown", "retry", "pending", "archived", "retry"},
            {}) == std::vector<std::optional<Errc>>{Errc::wrong_state, Errc::task_not_found, done,
                                                    Errc::wrong_state, done, Errc::wrong_state});
  CHECK(act(t.view, "default", TaskAction::archive, Ids{"active", "pending", "pending"}, {}) ==
        std::vector<std::optional<Errc>>{Errc::wrong_state, done, Errc::wrong_state});
  CHECK(ids(t.view, TaskState::pending) == Ids{"retry", "archived"});
  CHECK(act(t.view, "default", TaskAction::run, Ids{}, {}).empty());
}

TASKMUX_CONTRACT("an action is possible for a task iff allows() says so") {
  TestType t;
  for (const TaskAction action : {TaskAction::run, TaskAction::archive, TaskAction::remove}) {
    for (const TaskState state : all_states) {
      const std::string queue =
          "q" + std::to_string(static_cast<int>(action)) + std::string{to_string(state)};
      CAPTURE(queue);
      bring_to(t, "t", state, queue);
      const bool refused = act(t.view, queue, action, Ids{"t"}, {}).at(0).has_value();
      CHECK(refused == !allows(action, state));
    }
  }
}

TASKMUX_CONTRACT("act spares a task that is not in the state it was seen in") {
  TestType t;
  bring_to(t, "t1", TaskState::retry);
  bring_to(t, "t2", TaskState::archived);
  CHECK(act(t.view, "default", TaskAction::remove, Ids{"t1", "t2"}, TaskState::archived) ==
        std::vector<std::optional<Errc>>{Errc::wrong_state, std::nullopt});
  CHECK(state_of(t.view, "t1") == TaskState::retry);
  CHECK_FALSE(t.view.find("default", "t2"));
}

TASKMUX_CONTRACT("act_all acts on up to its limit of a state, in the order of the listing") {
  TestType t;
  for (const std::string id : {"t1", "t2", "t3", "t4", "t5"}) {
    bring_to(t, id, TaskState::archived);
    t.advance(1s);
  }
  CHECK(t.view.act_all("default", TaskAction::run, TaskState::archived, 2) == 2);
  CHECK(ids(t.view, TaskState::pending) == Ids{"t1", "t2"});
  CHECK(t.view.act_all("default", TaskAction::remove, TaskState::archived, 1) == 1);
  CHECK(ids(t.view, TaskState::archived) == Ids{"t4", "t5"});
  CHECK(t.view.act_all("default", TaskAction::archive, TaskState::pending, 10) == 2);
  CHECK(t.view.queue_info("default").archived == 4);
  CHECK(t.view.act_all("default", TaskAction::run, TaskState::archived, 0) == 0);
  CHECK(t.view.act_all("default", TaskAction::run, TaskState::retry, 10) == 0);
  CHECK(t.view.act_all("default", TaskAction::run, TaskState::archived, 100) == 4);
  CHECK(take(t.broker).size() == 4);
}

TASKMUX_CONTRACT("act_all from a state that does not allow it throws wrong_state") {
  TestType t;
  bring_to(t, "t1", TaskState::active);
  using Pair = std::pair<TaskAction, TaskState>;
  for (const auto& [action, state] :
       {Pair{TaskAction::run, TaskState::pending}, Pair{TaskAction::archive, TaskState::archived},
        Pair{TaskAction::run, TaskState::active}, Pair{TaskAction::archive, TaskState::active},
        Pair{TaskAction::remove, TaskState::active}}) {
    CHECK(error_of([&, a = action, s = state] { t.view.act_all("default", a, s, 10); }) ==
          Errc::wrong_state);
  }
}

TASKMUX_CONTRACT("act_all can empty each state that allows it") {
  TestType t;
  for (const TaskState state : all_states) {
    if (state == TaskState::active) continue;
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    CAPTURE(queue);
    CHECK(t.view.act_all(queue, TaskAction::remove, state, 10) == 1);
    CHECK(t.view.queue_info(queue).size() == 0);
    CHECK_FALSE(t.view.find(queue, "t1"));
  }
}

TASKMUX_CONTRACT(
    "an archive is trimmed to a number of tasks, the oldest first, so many at a time") {
  TestType t;
  for (int i = 1; i <= 7; ++i) {
    bring_to(t, "t" + std::to_string(i), TaskState::archived);
    t.advance(1s);
  }
  bring_to(t, "x", TaskState::archived, "other");
  bring_to(t, "waiting", TaskState::scheduled);
  const Ids queues = {"default", "never", "other"};
  TrimRequest request{.max_tasks = 3, .max_age = 1h, .limit = 0};

  auto replies = t.view.trim_archives(queues, request);
  REQUIRE(replies.size() == 3);
  CHECK(replies[0].excess == 4);
  CHECK(replies[0].deleted == 0);
  CHECK(replies[1].excess == 0);
  CHECK(replies[2].excess == 0);
  for (const TrimReply& reply : replies) CHECK_FALSE(reply.error);
  CHECK(t.view.queues() == Ids{"default", "other"});

  request.limit = 3;
  replies = t.view.trim_archives(queues, request);
  CHECK(replies[0].deleted == 3);
  CHECK(replies[0].excess == 1);
  CHECK(ids(t.view, TaskState::archived) == Ids{"t4", "t5", "t6", "t7"});
  replies = t.view.trim_archives(queues, request);
  CHECK(replies[0].deleted == 1);
  CHECK(replies[0].excess == 0);
  CHECK(t.view.trim_archives(queues, request)[0].deleted == 0);
  CHECK(ids(t.view, TaskState::archived) == Ids{"t5", "t6", "t7"});
  CHECK(state_of(t.view, "waiting") == TaskState::scheduled);
  CHECK(state_of(t.view, "x", "other") == TaskState::archived);
  CHECK(t.view.trim_archives({}, request).empty());
}

TASKMUX_CONTRACT("an archive is trimmed of what is too old, however little it holds") {
  TestType t;
  bring_to(t, "t1", TaskState::archived);
  t.advance(10s);
  bring_to(t, "t2", TaskState::archived);
  t.advance(50s);
  bring_to(t, "t3", TaskState::archived);
  const Ids queues = {"default"};
  TrimRequest request{.max_tasks = 100, .max_age = 1h, .limit = 0};
  CHECK(t.view.trim_archives(queues, request)[0].excess == 0);
  request.max_age = 30s;
  CHECK(t.view.trim_archives(queues, request)[0].excess == 2);
  request.limit = 100;
  const auto replies = t.view.trim_archives(queues, request);
  CHECK(replies[0].deleted == 2);
  CHECK(replies[0].excess == 0);
  CHECK(ids(t.view, TaskState::archived) == Ids{"t3"});
}

TASKMUX_CONTRACT("a trimmed task frees its lock and its id") {
  TestType t;
  enqueue(t.broker, unique(message("t1")));
  settle(t.broker, archived(take_one(t.broker)));
  CHECK(enqueue(t.broker, unique(message("t2"))).error == Errc::duplicate_task);
  const Ids queues = {"default"};
  CHECK(t.view.trim_archives(queues, {.max_tasks = 0, .max_age = 1h, .limit = 1})[0].deleted == 1);
  CHECK_FALSE(enqueue(t.broker, unique(message("t1"))).error);
}

TASKMUX_CONTRACT("a payload can be replaced while its task waits or is archived") {
  TestType t;
  const std::string fresh("\0new\xff", 5);
  for (const TaskState state : all_states) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    const auto error = error_of([&] { t.view.update_payload(queue, "t1", fresh); });
    CAPTURE(queue);
    if (state == TaskState::active || state == TaskState::completed) {
      CHECK(error == Errc::wrong_state);
      CHECK(t.view.find(queue, "t1")->task.payload == "payload");
      continue;
    }
    CHECK_FALSE(error);
    const auto info = t.view.find(queue, "t1");
    REQUIRE(info);
    CHECK(info->state == state);
    CHECK(info->task.payload == fresh);
    CHECK(ids(t.view, state, queue) == Ids{"t1"});
    if (state != TaskState::pending) act(t.view, queue, TaskAction::run, Ids{"t1"}, {});
    CHECK(take_one(t.broker, queue).message->task.payload == fresh);
  }
  CHECK(error_of([&] { t.view.update_payload("pending", "unknown", "x"); }) ==
        Errc::task_not_found);
}

TASKMUX_CONTRACT("a task keeps its place when its payload is replaced") {
  TestType t;
  t.broker.enqueue(many("t", 3));
  t.view.update_payload("default", "t2", "new");
  CHECK(ids(take(t.broker)) == Ids{"t1", "t2", "t3"});
}

TASKMUX_CONTRACT("the lock of a task whose payload was replaced stays that of the first payload") {
  TestType t;
  enqueue(t.broker, unique(message("t1", "default", "first")));
  t.view.update_payload("default", "t1", "second");
  CHECK(enqueue(t.broker, unique(message("t2", "default", "first"))).error == Errc::duplicate_task);
  CHECK_FALSE(enqueue(t.broker, unique(message("t3", "default", "second"))).error);
  settle(t.broker, completed(take_one(t.broker)));
  CHECK_FALSE(enqueue(t.broker, unique(message("t2", "default", "first"))).error);
  CHECK(enqueue(t.broker, unique(message("t4", "default", "second"))).error ==
        Errc::duplicate_task);
}

TASKMUX_CONTRACT("a queue is paused once and unpaused once") {
  TestType t;
  enqueue(t.broker, message("t1"));
  CHECK(error_of([&] { t.view.unpause("default"); }) == Errc::wrong_state);
  t.view.pause("default");
  CHECK(error_of([&] { t.view.pause("default"); }) == Errc::wrong_state);
  t.view.unpause("default");
  CHECK(error_of([&] { t.view.unpause("default"); }) == Errc::wrong_state);
}

TASKMUX_CONTRACT("a queue that holds tasks is deleted only by force, and never with active ones") {
  TestType t;
  for (const TaskState state : all_states) {
    const std::string queue{to_string(state)};
    bring_to(t, "t1", state, queue);
    CAPTURE(queue);
    const Errc expected = state == TaskState::active ? Errc::wrong_state : Errc::queue_not_empty;
    CHECK(error_of([&] { t.view.delete_queue(queue, false); }) == expected);
    const auto forced = error_of([&] { t.view.delete_queue(queue, true); });
    if (state == TaskState::active) {
      CHECK(forced == Errc::wrong_state);
      CHECK(state_of(t.view, "t1", queue) == TaskState::active);
    } else {
      CHECK_FALSE(forced);
      CHECK(error_of([&] { t.view.queue_info(queue); }) == Errc::queue_not_found);
    }
  }
  CHECK(t.view.queues() == Ids{"active"});
}

TASKMUX_CONTRACT("a deleted queue leaves nothing behind") {
  TestType t;
  bring_to(t, "t1", TaskState::completed);
  bring_to(t, "t2", TaskState::archived);
  enqueue(t.broker, unique(message("t3")));
  t.view.pause("default");
  t.view.delete_queue("default", true);
  CHECK(t.view.queues().empty());

  for (const std::string id : {"t1", "t2"}) CHECK_FALSE(enqueue(t.broker, message(id)).error);
  CHECK_FALSE(enqueue(t.broker, unique(message("t3"))).error);
  const QueueInfo info = t.view.queue_info("default");
  CHECK_FALSE(info.paused);
  CHECK(info.size() == 3);
  CHECK(info.processed_total == 0);
  CHECK(info.failed_total == 0);
  CHECK(info.processed_today == 0);
  CHECK(t.view.history("default", 1).at(0).processed == 0);
  CHECK(take(t.broker).size() == 3);
}

TASKMUX_CONTRACT("an empty queue is deleted without force") {
  TestType t;
  settle(t.broker, completed(started(t.broker, message("t1"))));
  t.view.delete_queue("default", false);
  CHECK(t.view.queues().empty());
}

// Watching

TASKMUX_CONTRACT("arm tells how the queues stand") {
  TestType t;
  HintBox box;
  const auto watch = t.broker.watch({"default", "other"}, box.callback());
  Watch::State state = watch->arm();
  CHECK_FALSE(state.ready);
  CHECK_FALSE(state.next_due);
  CHECK(state.now == t.clock.now());

  enqueue(t.broker, scheduled(message("t1", "other"), 10s + 1us));
  state = watch->arm();
  CHECK_FALSE(state.ready);
  CHECK(state.next_due == t.clock.now() + 10s + 1us);

  t.advance(10s + 1us);
  CHECK(watch->arm().ready);
  const Run run = take_one(t.broker, "other");
  CHECK_FALSE(watch->arm().ready);
  settle(t.broker, given_back(run));
  CHECK(watch->arm().ready);
  t.view.pause("other");
  CHECK_FALSE(watch->arm().ready);
  enqueue(t.broker, message("t2", "not watched"));
  CHECK_FALSE(watch->arm().ready);
}

TASKMUX_CONTRACT("an armed watch is told when something may be ready") {
  TestType t;
  HintBox box;
  enqueue(t.broker, message("running"));
  const Run run = take_one(t.broker);
  bring_to(t, "archived", TaskState::archived);
  enqueue(t.broker, scheduled(message("later"), 1h));
  const auto watch = t.broker.watch({"other", "default"}, box.callback());
  REQUIRE_FALSE(watch->arm().ready);

  SECTION("a task is enqueued") { enqueue(t.broker, message("t1")); }
  SECTION("the first task of a queue is enqueued") { enqueue(t.broker, message("t1", "other")); }
  SECTION("a task is scheduled to be due earlier than was said") {
    enqueue(t.broker, scheduled(message("t1"), 1min));
  }
  SECTION("a task is scheduled where nothing was due") {
    enqueue(t.broker, scheduled(message("t1", "other"), 1min));
  }
  SECTION("a task is given back") { settle(t.broker, given_back(run)); }
  SECTION("a task is retried at once") { settle(t.broker, retried(run, {})); }
  SECTION("a task is to be retried earlier than was said") { settle(t.broker, retried(run, 1min)); }
  SECTION("a task is snoozed to be due earlier than was said") {
    settle(t.broker, snoozed(run, 1min));
  }
  SECTION("an operator runs a task") {
    act(t.view, "default", TaskAction::run, Ids{"archived"}, {});
  }
  SECTION("an operator runs all tasks") {
    t.view.act_all("default", TaskAction::run, TaskState::archived, 10);
  }
  SECTION("someone's upkeep finds what is due") {
    t.advance(2h);
    upkeep(t.broker);
  }
  SECTION("a queue is no longer paused") {
    t.view.pause("default");
    enqueue(t.broker, message("t1"));
    REQUIRE_FALSE(watch->arm().ready);
    t.view.unpause("default");
  }
  CHECK(box.ready(10s));
}

TASKMUX_CONTRACT("a watch that is armed again is told again") {
  TestType t;
  HintBox box;
  const auto watch = t.broker.watch({"default"}, box.callback());
  for (int i = 0; i < 3; ++i) {
    REQUIRE_FALSE(watch->arm().ready);
    enqueue(t.broker, message("t1"));
    CHECK(box.ready(10s));
    CHECK(watch->arm().ready);
    settle(t.broker, completed(take_one(t.broker)));
  }
}

TASKMUX_CONTRACT("every armed watch is told") {
  TestType t;
  HintBox one;
  HintBox two;
  const auto first = t.broker.watch({"default"}, one.callback());
  const auto second = t.broker.watch({"default", "other"}, two.callback());
  REQUIRE_FALSE(first->arm().ready);
  REQUIRE_FALSE(second->arm().ready);
  enqueue(t.broker, message("t1"));
  CHECK(one.ready(10s));
  CHECK(two.ready(10s));
}

TASKMUX_CONTRACT("a cancellation reaches every watch, armed or not, of any queues") {
  TestType t;
  HintBox one;
  HintBox two;
  const auto first = t.broker.watch({"default"}, one.callback());
  const auto second = t.broker.watch({"elsewhere"}, two.callback());
  started(t.broker, message("id with {odd} bytes\n"));
  t.view.cancel("default", "id with {odd} bytes\n", CancelMode::remove);
  CHECK(one.cancelled("id with {odd} bytes\n"));
  CHECK(two.cancelled("id with {odd} bytes\n"));
  CHECK(one.queue_of("id with {odd} bytes\n") == "default");
}

TASKMUX_CONTRACT("no hint comes once the watch is gone") {
  TestType t;
  HintBox gone;
  HintBox stays;
  auto first = t.broker.watch({"default"}, gone.callback());
  const auto second = t.broker.watch({"default"}, stays.callback());
  first->arm();
  second->arm();
  first.reset();
  const std::size_t before = gone.count();
  started(t.broker, message("t1"));
  t.view.cancel("default", "t1", CancelMode::retry);
  CHECK(stays.cancelled("t1"));
  CHECK(stays.ready(10s));
  CHECK(gone.count() == before);
}

// Watching tasks

/// Rings when a watch on tasks calls.
class Bell {
 public:
  std::function<void()> ringer() {
    return [this] {
      std::lock_guard lock{mutex_};
      rung_ = true;
      changed_.notify_all();
    };
  }
  /// Whether it has rung since the last call, or does so soon.
  bool rung(std::chrono::milliseconds within = 10s) {
    std::unique_lock lock{mutex_};
    changed_.wait_for(lock, within, [this] { return rung_; });
    return std::exchange(rung_, false);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool rung_ = false;
};

TASKMUX_CONTRACT("a watch on tasks tells their states, and calls when one changes") {
  TestType t;
  for (const std::string id : {"t1", "t2"}) {
    TaskMessage task = message(id);
    task.retention = 1h;
    enqueue(t.broker, task);
  }
  Bell bell;
  const auto watch = t.view.watch_tasks("default", {"t2", "none", "t1"}, bell.ringer());
  const auto states = [&] {
    std::vector<std::optional<TaskState>> all;
    for (const TaskStatus& status : watch->arm().tasks) all.push_back(status.state);
    return all;
  };
  using States = std::vector<std::optional<TaskState>>;
  CHECK(states() == States{TaskState::pending, std::nullopt, TaskState::pending});
  const Run run = take_one(t.broker);
  CHECK(bell.rung());
  CHECK(states() == States{TaskState::pending, std::nullopt, TaskState::active});
  settle(t.broker, completed(run, "42"));
  CHECK(bell.rung());
  CHECK(states() == States{TaskState::pending, std::nullopt, TaskState::completed});
  act(t.view, "default", TaskAction::archive, Ids{"t2"});
  CHECK(bell.rung());
  CHECK(states() == States{TaskState::archived, std::nullopt, TaskState::completed});
  t.view.update_payload("default", "t2", "new");  // Rewrites the task, which is watched still.
  states();
  act(t.view, "default", TaskAction::run, Ids{"t2"});
  CHECK(bell.rung());
  states();
  settle(t.broker, retried(take_one(t.broker), 1h));
  CHECK(bell.rung());
  states();
  t.advance(1h);
  upkeep(t.broker);
  CHECK(bell.rung());
  CHECK(states()[0] == TaskState::pending);
  t.view.delete_queue("default", true);
  CHECK(bell.rung());
  CHECK(states() == States{std::nullopt, std::nullopt, std::nullopt});
}

TASKMUX_CONTRACT("watches on the same task are all called, until they end") {
  TestType t;
  enqueue(t.broker, message("t1"));
  Bell first;
  Bell second;
  auto ended = t.view.watch_tasks("default", {"t1"}, first.ringer());
  const auto watch = t.view.watch_tasks("default", {"t1"}, second.ringer());
  ended->arm();
  watch->arm();
  const Run run = take_one(t.broker);
  CHECK(first.rung());
  CHECK(second.rung());
  ended->arm();
  watch->arm();
  ended.reset();
  first.rung(0ms);
  settle(t.broker, archived(run));
  CHECK(second.rung());
  CHECK_FALSE(first.rung(0ms));
}

TASKMUX_CONTRACT("an inspector that waits for results is notified when they are there") {
  TestType t;
  for (const std::string id : {"t1", "t2", "t3", "t4"}) {
    TaskMessage task = message(id);
    task.retention = 1h;
    enqueue(t.broker, task);
  }
  std::thread worker{[&t] {
    std::vector<Run> runs = take(t.broker, "default", 3);
    settle(t.broker, completed(runs.at(1), "of t2"));
    settle(t.broker, archived(runs.at(2), "no luck"));
    settle(t.broker, completed(runs.at(0), "of t1"));
  }};
  Inspector inspector{t.broker};
  CHECK(inspector.wait_for_result("default", "t1", 1min).result == "of t1");
  worker.join();
  const Ids ids{"t2", "none", "t4", "t3"};
  const auto replies = inspector.wait_for_results("default", ids, 50ms);
  REQUIRE(replies.size() == 4);
  REQUIRE(replies[0].task);
  CHECK(replies[0].task->result == "of t2");
  const auto error = [&](std::size_t i) { return replies[i].error.value().errc(); };
  CHECK(error(1) == Errc::task_not_found);
  CHECK(error(2) == Errc::timed_out);
  CHECK(error(3) == Errc::wrong_state);
  CHECK(inspector.wait_for_results("default", {}, 1min).empty());
}

// Servers

TASKMUX_CONTRACT("an inspector shows a queue that a live server works on before its first task") {
  TestType t;
  Inspector inspector{t.broker};
  CHECK(error_of([&] { inspector.queue_info("fresh"); }) == Errc::queue_not_found);
  const ServerInfo server{.host = "web-1",
                          .pid = 1,
                          .id = "7d444840-9dc0-11d1-b245-5ffdce74fad2",
                          .queues = {{"fresh", 1}},
                          .status = ServerStatus::active,
                          .started_at = t.clock.now()};
  t.broker.registry().announce(server, 10s);
  CHECK(inspector.queue_info("fresh").queue == "fresh");
  CHECK(inspector.queue_info("fresh").size() == 0);
  CHECK(inspector.list("fresh", TaskState::pending).empty());
  CHECK(error_of([&] { inspector.queue_info("frehs"); }) == Errc::queue_not_found);
  t.broker.registry().retire(server);
  CHECK(error_of([&] { inspector.queue_info("fresh"); }) == Errc::queue_not_found);
}

TASKMUX_CONTRACT("a server is shown with what it runs while its heartbeat lasts") {
  TestType t;
  CHECK(t.broker.registry().servers().empty());
  ServerInfo server;
  server.host = "web-1";
  server.pid = 4242;
  server.id = "7d444840-9dc0-11d1-b245-5ffdce74fad2";
  server.concurrency = 10;
  server.queues = {{"critical", 6}, {"default", 3}};
  server.strict_priority = true;
  server.status = ServerStatus::active;
  server.started_at = t.clock.now() - 1h;
  WorkerInfo worker;
  worker.task_id = "t1";
  worker.queue = "default";
  worker.task = {.type = "email:welcome", .payload = std::string("\0\xff", 2)};
  worker.started_at = t.clock.now() - 3s;
  worker.deadline = t.clock.now() + 30min;
  WorkerInfo large = worker;
  large.task_id = "t2";
  large.task.payload = std::string(3u << 20, 'x');
  server.workers = {worker, large};
  t.broker.registry().announce(server, 10s);

  ServerInfo other;
  other.host = "web-2";
  other.pid = 1;
  other.id = "other";
  other.status = ServerStatus::stopped;
  t.broker.registry().announce(other, 1min);

  std::map<std::string, ServerInfo> shown;
  for (const ServerInfo& info : t.broker.registry().servers()) shown[info.id] = info;
  REQUIRE(shown.size() == 2);
  ServerInfo& got = shown[server.id];
  CHECK(got.host == "web-1");
  CHECK(got.pid == 4242);
  CHECK(got.concurrency == 10);
  CHECK(got.queues == server.queues);
  CHECK(got.strict_priority);
  CHECK(got.status == ServerStatus::active);
  CHECK(got.started_at == server.started_at);
  REQUIRE(got.workers.size() == 2);
  std::ranges::sort(got.workers, {}, &WorkerInfo::task_id);
  CHECK(got.workers[0].task_id == "t1");
  CHECK(got.workers[0].queue == "default");
  CHECK(got.workers[0].task.type == "email:welcome");
  CHECK(got.workers[0].task.payload == worker.task.payload);
  CHECK(got.workers[0].started_at == worker.started_at);
  CHECK(got.workers[0].deadline == worker.deadline);
  // A broker may cut it, if not to nothing.
  CHECK(got.workers[1].task.payload.size() > 4000);
  CHECK(large.task.payload.starts_with(got.workers[1].task.payload));
  CHECK(shown["other"].workers.empty());

  t.advance(8s);
  server.workers.clear();
  server.status = ServerStatus::closed;
  t.broker.registry().announce(server, 10s);
  t.advance(8s);
  shown.clear();
  for (const ServerInfo& info : t.broker.registry().servers()) shown[info.id] = info;
  REQUIRE(shown.size() == 2);
  CHECK(shown[server.id].status == ServerStatus::closed);
  CHECK(shown[server.id].workers.empty());

  t.advance(4s);
  REQUIRE(t.broker.registry().servers().size() == 1);
  CHECK(t.broker.registry().servers()[0].id == "other");
  t.broker.registry().retire(other);
  CHECK(t.broker.registry().servers().empty());
  CHECK_NOTHROW(t.broker.registry().retire(other));
}

TASKMUX_CONTRACT("queues that are opened are told apart by whether they were ever used") {
  TestType t;
  enqueue(t.broker, message("t1", "used"));
  const std::string queues[] = {"never", "used", "nor this"};
  CHECK(t.broker.open(queues).never_used == std::vector<std::string>{"never", "nor this"});
  CHECK(t.broker.open({}).never_used.empty());
  CHECK(t.view.queues() == std::vector<std::string>{"used"});
}

TASKMUX_CONTRACT("a broker that is there answers a ping, and shows its view") {
  TestType t;
  CHECK_NOTHROW(t.broker.ping());
  CHECK(&t.broker.queue_view() == &t.view);
}

// Threads

TASKMUX_CONTRACT("many producers and many takers: each task is run exactly once") {
  TestType t;
  constexpr int producers = 2;
  constexpr int takers = 4;
  constexpr std::size_t each = 1000;
  std::atomic<std::size_t> settled{0};
  std::mutex mutex;
  std::map<std::string, int> runs_of;

  std::vector<std::thread> threads;
  for (int p = 0; p < producers; ++p) {
    threads.emplace_back([&t, p] {
      std::vector<EnqueueRequest> all = many("p" + std::to_string(p) + "-", each);
      for (std::size_t from = 0; from < all.size(); from += 50) {
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(from);
        t.broker.enqueue({begin, begin + 50});
      }
    });
  }
  for (int i = 0; i < takers; ++i) {
    threads.emplace_back([&] {
      const QueueQuota quotas[] = {{"default", 20}};
      std::vector<Settlement> ends;
      while (settled < producers * each) {
        const ExchangeReply reply = t.broker.exchange({.settlements = ends, .quotas = quotas});
        for (const SettleStatus status : statuses(reply.settled)) {
          if (status == SettleStatus::applied) ++settled;
        }
        ends.clear();
        const std::lock_guard lock{mutex};
        for (const Run& run : reply.runs) {
          ++runs_of[run.message->id];
          ends.push_back(completed(run));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();

  CHECK(settled == producers * each);
  CHECK(runs_of.size() == producers * each);
  for (const auto& [id, runs] : runs_of) {
    CAPTURE(id);
    REQUIRE(runs == 1);
  }
  CHECK(t.view.queue_info("default").size() == 0);
  CHECK(t.view.queue_info("default").processed_total == producers * each);
}

TASKMUX_CONTRACT("of many who settle one run, one is applied") {
  TestType t;
  t.broker.enqueue(many("t", 200));
  const std::vector<Run> runs = take(t.broker, "default", 200);
  REQUIRE(runs.size() == 200);
  std::atomic<int> applied{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const Run& run : runs) {
        if (settle(t.broker, retried(run, 1h)) == SettleStatus::applied) ++applied;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(applied == 200);
  CHECK(t.view.queue_info("default").retry == 200);
  CHECK(t.view.queue_info("default").failed_total == 200);
}

}  // namespace taskmux::test
