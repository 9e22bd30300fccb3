#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/inspector.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The maximum number of tasks that one call of the port acts on, so that no broker is blocked for
/// long.
inline constexpr std::size_t action_chunk = 1000;

/// An action, as the port names it and as the caller named it.
struct Operation {
  TaskAction action;
  std::string_view name;
};
inline constexpr Operation run_operation{TaskAction::run, "run"};
inline constexpr Operation requeue_operation{TaskAction::run, "requeue"};
inline constexpr Operation archive_operation{TaskAction::archive, "archive"};
inline constexpr Operation remove_operation{TaskAction::remove, "remove"};

/// Returns a text such as `task 42 (queue "critical")`.
inline std::string task_subject(std::string_view queue, std::string_view id) {
  return task_in_words(id, {}, queue);
}

/// Performs an action on one task, if it is in state `only` (when given). Throws
/// Error{task_not_found} or {wrong_state}.
inline void act_on(QueueView& view, std::string_view queue, std::string_view id,
                   Operation operation, std::optional<TaskState> only) {
  const std::string ids[] = {std::string{id}};
  const auto replies = during(operation.name, [&] {
    return view.act(
        {.queue = std::string{queue}, .action = operation.action, .ids = ids, .only = only});
  });
  if (!replies.at(0).error) return;
  const Errc errc = *replies.at(0).error;
  std::string cause{to_string(errc)};
  if (errc == Errc::task_not_found) cause = "there is none";
  if (errc == Errc::wrong_state) {
    const auto info = during(operation.name, [&] { return view.find(queue, id); });
    cause = "it is " + std::string{info ? to_string(info->state) : "gone"};
  }
  throw Error{errc, std::string{operation.name} + ": " + task_subject(queue, id) + ": " + cause,
              ids[0]};
}

constexpr std::size_t count_of(const QueueInfo& info, TaskState state) noexcept {
  switch (state) {
    case TaskState::pending: return info.pending;
    case TaskState::active: return info.active;
    case TaskState::scheduled: return info.scheduled;
    case TaskState::retry: return info.retry;
    case TaskState::archived: return info.archived;
    case TaskState::completed: return info.completed;
    case TaskState::aggregating: return info.aggregating;
  }
  return 0;
}

/// Returns the infos of `queues`. A queue to which nothing was ever enqueued is shown as empty if a
/// live server serves it.
inline std::vector<QueueInfoReply> infos_of(QueueView& view, Registry& registry,
                                            std::span<const std::string> queues) {
  std::vector<QueueInfoReply> replies = view.queue_infos(queues);
  const auto is_missing = [](const QueueInfoReply& reply) {
    return reply.error && reply.error->errc() == Errc::queue_not_found;
  };
  if (std::none_of(replies.begin(), replies.end(), is_missing)) return replies;
  std::set<std::string> served;
  for (const ServerInfo& server : registry.servers()) {
    for (const auto& [queue, priority] : server.queues) served.insert(queue);
  }
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (!is_missing(replies[i]) || !served.contains(queues[i])) continue;
    replies[i] = {};
    replies[i].info.queue = queues[i];
  }
  return replies;
}

/// Returns how many tasks of `state` a queue holds; 0 if there is no such queue.
inline std::size_t count_in(QueueView& view, std::string_view queue, TaskState state) {
  const std::string names[] = {std::string{queue}};
  const QueueInfoReply reply = std::move(view.queue_infos(names).at(0));
  if (reply.error && reply.error->errc() != Errc::queue_not_found) throw *reply.error;
  return count_of(reply.info, state);
}

/// Returns the tasks of `request`, up to its limit, in as many pages as needed.
inline std::vector<TaskInfo> list_pages(QueueView& view, ListRequest request) {
  std::vector<TaskInfo> tasks;
  for (std::size_t left = request.limit; left > 0; left = request.limit - tasks.size()) {
    ListRequest part = request;
    part.limit = left;
    TaskPage page = view.list(part);
    std::move(page.tasks.begin(), page.tasks.end(), std::back_inserter(tasks));
    if (page.next.empty()) break;
    request.cursor = std::move(page.next);
  }
  return tasks;
}

/// Runs `body`, which adds the number of processed tasks to its argument, and returns that number.
/// If `body` throws an Error, the number is added to its text.
template <std::invocable<std::size_t&> Body>
std::size_t counting(const std::string& name, Body&& body) {
  std::size_t done = 0;
  try {
    body(done);
  } catch (const Error& e) {
    std::string text = name + ": ";
    if (done > 0) text += "after " + std::to_string(done) + " were done: ";
    throw Error{e.errc(), text + e.what()};
  }
  return done;
}

/// Performs an action on as many tasks of `state` as there are now; returns how many.
inline std::size_t act_on_all(QueueView& view, std::string_view queue, TaskState state,
                              Operation operation) {
  const std::string name = std::string{operation.name} + " all " + std::string{to_string(state)} +
                           " tasks of queue " + in_quotes(queue);
  return counting(name, [&](std::size_t& done) {
    // At least one, so that the port reports an impossible action.
    const std::size_t most = std::max<std::size_t>(1, count_in(view, queue, state));
    while (done < most) {
      const std::size_t step =
          view.act_all(queue, operation.action, state, std::min(most - done, action_chunk));
      if (step == 0) break;
      done += step;
    }
  });
}

/// Waits for the ends of tasks of one queue.
class ResultWaiter {
 public:
  ResultWaiter(QueueView& view, Clock& clock, std::string_view queue,
               std::span<const std::string> ids)
      : view_{view}, clock_{clock}, queue_{queue}, ids_{ids}, replies_(ids.size()) {}

  std::vector<WaitReply> wait(Duration timeout) {
    const SteadyTime end = clock_.steady_now() + timeout;
    Waker waker;
    std::unique_ptr<TaskWatch> watch;
    std::vector<std::size_t> watched;
    std::vector<std::size_t> open;
    for (std::size_t n = 0; n < ids_.size(); ++n) open.push_back(n);
    for (bool seen = false; !open.empty(); seen = true) {
      if (!watch || open.size() <= watched.size() / 2) {
        watched = open;
        watch = view_.watch_tasks(queue_, ids_of(watched), [&waker] { waker.notify(); });
      }
      const TaskWatch::State state = watch->arm();
      for (std::size_t i = 0; i < watched.size(); ++i) {
        if (!is_open(watched[i])) continue;
        const std::optional<TaskState> now = state.tasks.at(i).state;
        if (!seen || has_ended(now)) look_at(watched[i], seen);
        states_[watched[i]] = now;
      }
      std::erase_if(open, [this](std::size_t n) { return !is_open(n); });
      if (open.empty()) break;
      const SteadyTime now = clock_.steady_now();
      if (now >= end) {
        for (const std::size_t n : open) time_out(n);
        break;
      }
      clock_.wait(waker,
                  state.poll_after ? std::min<SteadyTime>(end, now + *state.poll_after) : end);
    }
    return std::move(replies_);
  }

 private:
  static bool has_ended(std::optional<TaskState> state) noexcept {
    return !state || state == TaskState::completed || state == TaskState::archived;
  }

  bool is_open(std::size_t n) const noexcept { return !replies_[n].task && !replies_[n].error; }

  std::vector<std::string> ids_of(const std::vector<std::size_t>& numbers) const {
    std::vector<std::string> ids;
    for (const std::size_t n : numbers) ids.push_back(ids_[n]);
    return ids;
  }

  void fail(std::size_t n, Errc errc, const std::string& cause) {
    replies_[n].error =
        Error{errc, "wait for result: " + task_subject(queue_, ids_[n]) + ": " + cause, ids_[n]};
  }

  void look_at(std::size_t n, bool seen) {
    std::optional<TaskInfo> task = view_.find(queue_, ids_[n]);
    if (!task) return fail(n, Errc::task_not_found, seen ? "it is gone" : "there is none");
    if (task->state == TaskState::archived) {
      return fail(n, Errc::wrong_state,
                  task->last_error.empty() ? "archived" : "archived: " + task->last_error);
    }
    if (task->state == TaskState::completed) {
      replies_[n].task = std::move(task);
    } else if (task->retention.count() == 0) {
      fail(n, Errc::invalid_argument,
           "it has no retention, so its end could not be distinguished from its removal");
    }
  }

  void time_out(std::size_t n) {
    const std::optional<TaskState> state = states_[n];
    fail(n, Errc::timed_out,
         "still " + std::string{state ? to_string(*state) : "waiting"} + " when the time was over");
  }

  QueueView& view_;
  Clock& clock_;
  const std::string queue_;
  const std::span<const std::string> ids_;
  std::vector<WaitReply> replies_;
  std::map<std::size_t, std::optional<TaskState>> states_{};  // as last seen
};

}  // namespace detail

TASKMUX_INLINE Inspector::Inspector(Broker& broker, InspectorConfig config)
    : view_{broker.queue_view()},
      registry_{broker.registry()},
      config_{std::move(config)},
      clock_{config_.clock ? config_.clock : std::make_shared<SystemClock>()} {}

TASKMUX_INLINE Time Inspector::now() {
  return detail::during("now", [&] { return view_.now(); });
}

TASKMUX_INLINE std::vector<std::string> Inspector::queues() {
  return detail::during("queues", [&] { return view_.queues(); });
}

TASKMUX_INLINE QueueInfo Inspector::queue_info(std::string_view queue) {
  return detail::during("queue info", [&] {
    const std::string names[] = {std::string{queue}};
    QueueInfoReply reply = std::move(detail::infos_of(view_, registry_, names).at(0));
    if (reply.error) throw *reply.error;
    return std::move(reply.info);
  });
}

TASKMUX_INLINE std::vector<QueueInfoReply> Inspector::queue_infos(
    std::span<const std::string> queues) {
  return detail::during("queue infos", [&] { return detail::infos_of(view_, registry_, queues); });
}

TASKMUX_INLINE std::vector<DailyStats> Inspector::history(std::string_view queue, int days) {
  return detail::during("history", [&] { return view_.history(queue, days); });
}

TASKMUX_INLINE std::vector<GroupInfo> Inspector::groups(std::string_view queue) {
  return detail::during("groups", [&] { return view_.groups(queue); });
}

TASKMUX_INLINE std::vector<TaskInfo> Inspector::list(std::string_view queue, TaskState state,
                                                     std::size_t limit) {
  return detail::during("list", [&] {
    return detail::list_pages(view_, {.queue = std::string{queue}, .state = state, .limit = limit});
  });
}

TASKMUX_INLINE TaskPage Inspector::list(const ListRequest& request) {
  return detail::during("list", [&] { return view_.list(request); });
}

TASKMUX_INLINE std::vector<TaskStatus> Inspector::states(std::string_view queue,
                                                         std::span<const std::string> ids) {
  return detail::during("states", [&] { return view_.states(queue, ids); });
}

TASKMUX_INLINE std::optional<TaskInfo> Inspector::find(std::string_view queue, std::string_view id) {
  return detail::during("find", [&] { return view_.find(queue, id); });
}

TASKMUX_INLINE std::vector<ActReply> Inspector::act(const ActRequest& request) {
  return detail::during("act", [&] { return view_.act(request); });
}

TASKMUX_INLINE void Inspector::run(std::string_view queue, std::string_view id) {
  detail::act_on(view_, queue, id, detail::run_operation, std::nullopt);
}

TASKMUX_INLINE void Inspector::archive(std::string_view queue, std::string_view id) {
  detail::act_on(view_, queue, id, detail::archive_operation, std::nullopt);
}

TASKMUX_INLINE void Inspector::remove(std::string_view queue, std::string_view id) {
  detail::act_on(view_, queue, id, detail::remove_operation, std::nullopt);
}

TASKMUX_INLINE std::size_t Inspector::run_all(std::string_view queue, TaskState state) {
  return detail::act_on_all(view_, queue, state, detail::run_operation);
}

TASKMUX_INLINE std::size_t Inspector::archive_all(std::string_view queue, TaskState state) {
  return detail::act_on_all(view_, queue, state, detail::archive_operation);
}

TASKMUX_INLINE std::size_t Inspector::remove_all(std::string_view queue, TaskState state) {
  return detail::act_on_all(view_, queue, state, detail::remove_operation);
}

TASKMUX_INLINE void Inspector::update_payload(std::string_view queue, std::string_view id,
                                      std::string payload) {
  if (payload.size() > config_.max_payload_bytes) {
    throw Error{Errc::payload_too_large,
                "update payload: " + detail::task_subject(queue, id) + ": the payload has " +
                    std::to_string(payload.size()) + " bytes, more than " +
                    std::to_string(config_.max_payload_bytes),
                std::string{id}};
  }
  detail::during("update payload", [&] { view_.update_payload(queue, id, std::move(payload)); });
}

TASKMUX_INLINE void Inspector::pause(std::string_view queue) {
  detail::during("pause", [&] { view_.pause(queue); });
}

TASKMUX_INLINE void Inspector::unpause(std::string_view queue) {
  detail::during("unpause", [&] { view_.unpause(queue); });
}

TASKMUX_INLINE void Inspector::cancel(std::string_view queue, std::string_view id, CancelMode mode) {
  detail::during("cancel", [&] { view_.cancel(queue, id, mode); });
}

TASKMUX_INLINE void Inspector::delete_queue(std::string_view queue, bool force) {
  detail::during("delete queue", [&] { view_.delete_queue(queue, force); });
}

TASKMUX_INLINE std::vector<ServerInfo> Inspector::servers() {
  return detail::during("servers", [&] { return registry_.servers(); });
}

TASKMUX_INLINE TaskInfo Inspector::wait_for_result(std::string_view queue, std::string_view id,
                                           Duration timeout) {
  const std::string ids[] = {std::string{id}};
  WaitReply reply = std::move(wait_for_results(queue, ids, timeout).at(0));
  if (reply.error) throw *reply.error;
  return *std::move(reply.task);
}

TASKMUX_INLINE std::vector<WaitReply> Inspector::wait_for_results(std::string_view queue,
                                                                  std::span<const std::string> ids,
                                                                  Duration timeout) {
  return detail::during("wait for result", [&] {
    const std::string fault = detail::fault_of(timeout, Duration{0});
    if (!fault.empty()) throw Error{Errc::invalid_argument, "the timeout " + fault};
    return detail::ResultWaiter{view_, *clock_, queue, ids}.wait(timeout);
  });
}

}  // namespace v0
}  // namespace taskmux
