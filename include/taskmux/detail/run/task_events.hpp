#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/server_config.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

constexpr TaskEvent::Change change_of(SettleAction action) noexcept {
  switch (action) {
    case SettleAction::complete: return TaskEvent::Change::succeeded;
    case SettleAction::remove: return TaskEvent::Change::revoked;
    case SettleAction::retry: return TaskEvent::Change::retried;
    case SettleAction::archive: return TaskEvent::Change::archived;
    case SettleAction::give_back: return TaskEvent::Change::given_back;
    case SettleAction::snooze: return TaskEvent::Change::snoozed;
  }
  return TaskEvent::Change::given_back;
}

/// Returns the event for a change of `run`, whose type matched `pattern`; `now` is the end of a run
/// whose handler has not returned. `state` is null for a lost run that was taken over.
inline TaskEvent event_of(TaskEvent::Change change, const Run& run, const RunState* state,
                          std::string_view pattern, SteadyTime now) {
  TaskEvent event{.change = change,
                  .task = run.message,
                  .pattern = std::string{pattern},
                  .attempt = run.message->retried + 1};
  if (state == nullptr || state->started_at() == SteadyTime{}) return event;
  const auto until_started =
      std::chrono::duration_cast<Duration>(state->started_at() - state->taken_at());
  const Time ready_at = run.ready_at != Time{} ? run.ready_at : run.message->enqueued_at;
  if (ready_at != Time{})
    event.waited = std::max(state->taken_at_wall() + until_started - ready_at, Duration{0});
  if (change != TaskEvent::Change::started) {
    event.ran = std::chrono::duration_cast<Duration>(std::min(now, state->ended_at()) -
                                                     state->started_at());
  }
  return event;
}

inline TaskEvent event_of(const Settlement& settlement, const RunState* state,
                          std::string_view pattern, SteadyTime now) {
  TaskEvent event = event_of(change_of(settlement.action), settlement.run, state, pattern, now);
  event.delay = settlement.delay;
  event.error = settlement.error;
  return event;
}

/// Returns the size of the memory that `event` keeps alive, counting only what may be large.
inline std::size_t bytes_of(const TaskEvent& event) {
  const TaskMessage& message = *event.task;
  std::size_t bytes = message.task.payload.size() + message.last_error.size() + event.error.size();
  for (const auto& [key, value] : message.task.headers) bytes += key.size() + value.size();
  return bytes;
}

/// Removes the payload from the task of `event`, so that the event no longer keeps it alive.
inline void drop_payload(TaskEvent& event) {
  // All fields are listed, since a copy of the whole message would copy the payload.
  const auto& [id, queue, task, max_retry, retried, timeout, retention, deadline, last_failed_at,
               completed_at, enqueued_at, expires_at, last_error, unique_key] = *event.task;
  event.task = std::make_shared<const TaskMessage>(TaskMessage{
      id, queue, Task{task.type, {}, task.headers}, max_retry, retried, timeout, retention,
      deadline, last_failed_at, completed_at, enqueued_at, expires_at, last_error, unique_key});
  event.payload_dropped = true;
}

/// Calls `post` with `event` and each hook that wants it, so that a hook that throws does not
/// suppress the others.
template <typename Post>
void post_event(const Hooks& hooks, TaskEvent event, Post post) {
  using Change = TaskEvent::Change;
  const bool archived = event.change == Change::archived;
  const bool failed = archived || event.change == Change::retried;
  const auto shared = std::make_shared<const TaskEvent>(std::move(event));
  if (hooks.on_state_change) post(hooks.on_state_change, shared);
  if (hooks.on_failure && failed) post(hooks.on_failure, shared);
  if (hooks.on_dead_letter && archived) post(hooks.on_dead_letter, shared);
}

inline bool wants_task_events(const Hooks& hooks) noexcept {
  return hooks.on_failure || hooks.on_dead_letter || hooks.on_state_change;
}

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
