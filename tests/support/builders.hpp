#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/error.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"
#include "taskmux/task.hpp"

/// Builders with defaults, so that a test states only what is relevant to it.
namespace taskmux::test {

/// Makes a message as Client would.
inline TaskMessage message(std::string id, std::string queue = "default",
                           std::string payload = "payload") {
  TaskMessage message;
  message.id = std::move(id);
  message.queue = std::move(queue);
  message.task = {.type = "email:welcome", .payload = std::move(payload)};
  message.timeout = std::chrono::minutes{30};
  return message;
}

/// Makes a request for a task that is due at once.
inline EnqueueRequest pending(TaskMessage message) { return {.message = std::move(message)}; }

inline EnqueueRequest scheduled(TaskMessage message, Time at) {
  return {.message = std::move(message), .process_at = at};
}

inline EnqueueRequest scheduled(TaskMessage message, Duration in) {
  return {.message = std::move(message), .process_in = in};
}

/// Makes a request for a task with a unique lock.
inline EnqueueRequest unique(TaskMessage message,
                             std::chrono::seconds lock = std::chrono::hours{1}) {
  return {.message = std::move(message), .unique_for = lock};
}

/// Makes a request for a task whose id is to be remembered.
inline EnqueueRequest idempotent(TaskMessage message,
                                 std::chrono::seconds how_long = std::chrono::hours{1}) {
  return {.message = std::move(message), .idempotent_for = how_long};
}

inline EnqueueReply enqueue(Broker& broker, EnqueueRequest request) {
  std::vector<EnqueueRequest> batch;
  batch.push_back(std::move(request));
  return broker.enqueue(std::move(batch)).at(0);
}

inline EnqueueReply enqueue(Broker& broker, TaskMessage message) {
  return enqueue(broker, pending(std::move(message)));
}

/// Makes requests for `count` pending tasks with the ids "<prefix>1", "<prefix>2", ...
inline std::vector<EnqueueRequest> many(const std::string& prefix, std::size_t count,
                                        const std::string& queue = "default") {
  std::vector<EnqueueRequest> batch;
  for (std::size_t i = 1; i <= count; ++i) {
    batch.push_back(pending(message(prefix + std::to_string(i), queue)));
  }
  return batch;
}

inline std::vector<Run> take(Broker& broker, const std::string& queue = "default",
                             std::size_t count = 100, Duration lease = std::chrono::seconds{10}) {
  const QueueQuota quotas[] = {{queue, count}};
  return broker.exchange({.quotas = quotas, .lease = lease}).runs;
}

/// Takes the next task. Throws if there is none.
inline Run take_one(Broker& broker, const std::string& queue = "default",
                    Duration lease = std::chrono::seconds{10}) {
  std::vector<Run> runs = take(broker, queue, 1, lease);
  if (runs.size() != 1) throw std::logic_error{"no task to take in " + queue};
  return runs.front();
}

/// Enqueues a task and takes it; it must be the only one in its queue.
inline Run started(Broker& broker, TaskMessage message) {
  const std::string queue = message.queue;
  if (enqueue(broker, std::move(message)).error) throw std::logic_error{"not accepted"};
  return take_one(broker, queue);
}

inline Settlement completed(Run run) { return {.run = std::move(run)}; }

inline Settlement completed(Run run, std::string result) {
  return {.run = std::move(run), .result = std::move(result)};
}

inline Settlement removed(Run run) { return {.run = std::move(run), .action = SettleAction::remove}; }

inline Settlement retried(Run run, Duration delay, std::string error = "boom") {
  return {.run = std::move(run),
          .action = SettleAction::retry,
          .error = std::move(error),
          .delay = delay};
}

/// Makes the settlement of a run that upkeep took over from a lost worker.
inline Settlement crashed(Run run, Duration delay = {}) {
  return {.run = std::move(run),
          .action = SettleAction::retry,
          .error = "worker lost",
          .delay = delay,
          .attempt = Attempt::crashed};
}

inline Settlement archived(Run run, std::string error = "boom") {
  return {.run = std::move(run), .action = SettleAction::archive, .error = std::move(error)};
}

inline Settlement given_back(Run run) {
  return {.run = std::move(run), .action = SettleAction::give_back};
}

inline Settlement snoozed(Run run, Duration delay) {
  return {.run = std::move(run), .action = SettleAction::snooze, .delay = delay};
}

inline SettleStatus settle(Broker& broker, const Settlement& settlement) {
  return broker.exchange({.settlements = std::span{&settlement, 1}}).settled.at(0).status;
}

inline std::vector<SettleStatus> statuses(const std::vector<SettleReply>& replies) {
  std::vector<SettleStatus> statuses;
  for (const SettleReply& reply : replies) statuses.push_back(reply.status);
  return statuses;
}

/// Makes replies with only a status.
inline std::vector<SettleReply> settle_replies(const std::vector<SettleStatus>& statuses) {
  std::vector<SettleReply> replies;
  for (const SettleStatus status : statuses) replies.push_back({.status = status});
  return replies;
}

inline std::vector<SettleStatus> settle(Broker& broker, const std::vector<Settlement>& batch) {
  return statuses(broker.exchange({.settlements = batch}).settled);
}

/// Extends one run.
inline ExtendReply extend(Broker& broker, const Run& run,
                          Duration lease = std::chrono::seconds{10}, bool begun = false) {
  const ExtendRequest request{.run = run, .begun = begun};
  return broker.extend(std::span{&request, 1}, lease).at(0);
}

inline std::vector<ExtendReply> extend_all(Broker& broker, const std::vector<Run>& runs,
                                           Duration lease = std::chrono::seconds{10}) {
  std::vector<ExtendRequest> requests;
  for (const Run& run : runs) requests.push_back({.run = run});
  return broker.extend(requests, lease);
}

inline UpkeepReply upkeep(Broker& broker, const std::string& queue = "default",
                          std::size_t limit = 100) {
  return broker.upkeep({.queues = std::span{&queue, 1}, .limit = limit});
}

inline std::vector<std::string> ids(const std::vector<Run>& runs) {
  std::vector<std::string> ids;
  for (const Run& run : runs) ids.push_back(run.message->id);
  return ids;
}

inline std::vector<std::string> ids(const std::vector<TaskInfo>& infos) {
  std::vector<std::string> ids;
  for (const TaskInfo& info : infos) ids.push_back(info.id);
  return ids;
}

/// Returns whether the run of a task among `runs` had begun; nullopt if it is not among them.
inline std::optional<Begun> begun_of(const std::vector<Run>& runs, const std::string& id) {
  for (const Run& run : runs) {
    if (run.message->id == id) return run.begun;
  }
  return std::nullopt;
}

/// Returns the first tasks of a state, in the order of QueueView::list(), in as many pages as
/// needed.
inline std::vector<TaskInfo> listed(QueueView& view, ListRequest request) {
  std::vector<TaskInfo> tasks;
  while (tasks.size() < request.limit) {
    ListRequest part = request;
    part.limit -= tasks.size();
    TaskPage page = view.list(part);
    for (TaskInfo& task : page.tasks) tasks.push_back(std::move(task));
    if (page.next.empty()) break;
    request.cursor = std::move(page.next);
  }
  return tasks;
}
inline std::vector<TaskInfo> listed(QueueView& view, const std::string& queue, TaskState state,
                                    std::size_t limit = 10'000) {
  if (state != TaskState::aggregating)
    return listed(view, {.queue = queue, .state = state, .limit = limit});
  std::vector<TaskInfo> tasks;
  for (const GroupInfo& group : view.groups(queue)) {
    for (TaskInfo& task :
         listed(view, {.queue = queue, .state = state, .group = group.group, .limit = limit}))
      tasks.push_back(std::move(task));
  }
  return tasks;
}

/// Returns the replies of QueueView::act(), only as errors.
inline std::vector<std::optional<Errc>> act(QueueView& view, const std::string& queue,
                                            TaskAction action, std::span<const std::string> ids,
                                            std::optional<TaskState> only = std::nullopt) {
  std::vector<std::optional<Errc>> errors;
  for (const ActReply& reply :
       view.act({.queue = queue, .action = action, .ids = ids, .only = only}))
    errors.push_back(reply.error);
  return errors;
}

/// Returns the ids of all tasks of a state, in the order of list().
inline std::vector<std::string> ids(QueueView& view, TaskState state,
                                    const std::string& queue = "default") {
  return ids(listed(view, queue, state, 10'000));
}

/// Returns the state of a task; nullopt if there is no such task.
inline std::optional<TaskState> state_of(QueueView& view, const std::string& id,
                                         const std::string& queue = "default") {
  const std::optional<TaskInfo> info = view.find(queue, id);
  return info ? std::optional{info->state} : std::nullopt;
}

/// Returns the code of the Error that `function` throws; nullopt if it throws none.
template <typename Function>
std::optional<Errc> error_of(Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.errc();
  }
  return std::nullopt;
}

}  // namespace taskmux::test
