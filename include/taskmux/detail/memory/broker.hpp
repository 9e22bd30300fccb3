#pragma once

// The bodies of MemoryBroker; included only by its header.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/memory/memory_broker.hpp"

namespace taskmux {
inline namespace v0 {

class MemoryBroker::WatchHandle final : public Watch {
 public:
  WatchHandle(MemoryBroker& broker, std::shared_ptr<detail::MemoryWatcher> watcher)
      : broker_{broker}, watcher_{std::move(watcher)} {}
  ~WatchHandle() override { broker_.end(*watcher_); }

  State arm() override { return broker_.arm(*watcher_, true); }
  State rearm() override { return broker_.arm(*watcher_, false); }

 private:
  MemoryBroker& broker_;
  const std::shared_ptr<detail::MemoryWatcher> watcher_;
};

class MemoryBroker::TaskWatchHandle final : public TaskWatch {
 public:
  TaskWatchHandle(MemoryBroker& broker, std::string_view queue, std::vector<std::string> ids,
                  std::function<void()> callback)
      : broker_{broker},
        queue_{queue},
        ids_{std::move(ids)},
        watcher_{std::make_shared<detail::MemoryWatcher>(
            std::vector<std::string>{},
            [callback = std::move(callback)](const Hint&) { callback(); })} {}
  ~TaskWatchHandle() override { broker_.end(queue_, ids_, *watcher_); }

  State arm() override { return broker_.arm(queue_, ids_, watcher_); }

 private:
  MemoryBroker& broker_;
  const std::string queue_;
  const std::vector<std::string> ids_;
  const std::shared_ptr<detail::MemoryWatcher> watcher_;
};

namespace detail {

/// Moves the contents of `table` to a place where nothing destroys them. Does not access the
/// entries.
template <typename Table>
void forsake(Table& table) noexcept {
  alignas(Table) std::byte nowhere[sizeof(Table)];
  ::new (static_cast<void*>(nowhere)) Table{std::move(table)};
}

}  // namespace detail

TASKMUX_INLINE MemoryBroker::MemoryBroker(MemoryBrokerOptions options)
    : clock_{options.clock ? std::move(options.clock) : std::make_shared<SystemClock>()},
      max_tasks_{options.max_tasks},
      logger_{std::move(options.logger)} {}

TASKMUX_INLINE MemoryBroker::~MemoryBroker() {
  if (::getpid() == pid_) return;
  // The locks of the pool may be held forever, and the tables may be half changed.
  detail::forsake(queues_);
  detail::forsake(watches_);
  detail::forsake(servers_);
  static_cast<void>(pool_.release());
}

TASKMUX_INLINE std::vector<EnqueueReply> MemoryBroker::enqueue(std::vector<EnqueueRequest> batch) {
  check_process();
  const detail::MemoryNow now = read_clock();
  std::vector<Arrival> arrivals = receive(batch, now);
  std::vector<EnqueueReply> replies;
  replies.reserve(arrivals.size());
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  QueueFinder finder{queues_, board_};
  std::size_t room = max_tasks_ == 0 ? std::numeric_limits<std::size_t>::max()
                                     : max_tasks_ - std::min(max_tasks_, board_.tasks);
  for (Arrival& arrival : arrivals) replies.push_back(admit(arrival, now, finder, room));
  tell_watches(hints);
  return replies;
}

/// Makes the tasks of a batch, as far as this needs no lock.
TASKMUX_INLINE std::vector<MemoryBroker::Arrival> MemoryBroker::receive(std::vector<EnqueueRequest>& batch,
                                                                detail::MemoryNow now) const {
  std::vector<Arrival> arrivals;
  arrivals.reserve(batch.size());
  for (EnqueueRequest& request : batch) {
    TaskMessage& message = request.message;
    message.enqueued_at = now.wall;
    if (request.expires_in) message.expires_at = detail::later(now.wall, *request.expires_in);
    message.unique_key.clear();
    if (request.unique_for.count() > 0) {
      message.unique_key = unique_keys_.key(message.task, request.unique_empty_payload);
    }
    detail::MemoryQueue::Due due{.at = request.process_at.value_or(now.wall)};
    if (request.process_in) due = {detail::later(now.steady, *request.process_in), true};
    std::optional<Remembrance> remembrance;
    if (request.idempotent_for.count() > 0) {
      remembrance = Remembrance{unique_keys_.digest(message.id),
                                detail::later(now.steady, request.idempotent_for)};
    }
    arrivals.push_back(
        {std::allocate_shared<detail::MemoryTask>(
             detail::MemoryPoolAllocator<detail::MemoryTask>{*pool_}, std::move(message)),
         due, detail::later(std::max(now.steady, due.steady(now)), request.unique_for),
         remembrance});
  }
  return arrivals;
}

TASKMUX_INLINE EnqueueReply MemoryBroker::admit(Arrival& arrival, detail::MemoryNow now,
                                        QueueFinder& finder, std::size_t& room) {
  const TaskMessage& message = arrival.task->message;
  if (arrival.remembrance) {
    detail::MemoryQueue* known = finder.find(message.queue);
    if (known && known->ids().holds(arrival.remembrance->id, now.steady)) {
      return {.accepted_before = true};
    }
  }
  if (room == 0) {
    const detail::MemoryQueue* known = finder.find(message.queue);
    if (!known || !known->find(message.id)) {
      return {.error = Errc::queue_full,
              .detail = "the memory broker has reached its limit of " + std::to_string(max_tasks_)};
    }
  }
  detail::MemoryQueue& queue = finder.find_or_make(message.queue);
  std::optional<detail::MemoryIds::Entry> entry;
  if (arrival.remembrance) {
    // Two, so that expired ids do not accumulate in a queue without upkeep.
    queue.ids().expire(now.steady, 2);
    entry.emplace(queue.ids(), arrival.remembrance->id);
  }
  const std::optional<Errc> refused =
      queue.add(arrival.task, now, arrival.due, arrival.locked_until);
  if (refused == Errc::duplicate_task) {
    return {.error = refused,
            .detail = "a task of the same queue, type and payload holds the lock"};
  }
  if (refused) return {.error = refused, .detail = "the queue holds a task of this id"};
  if (entry) entry->keep_until(arrival.remembrance->until);
  --room;
  if (arrival.due.has_come(now)) return {};
  return {.state = TaskState::scheduled, .process_at = arrival.due.wall(now)};
}

TASKMUX_INLINE ExchangeReply MemoryBroker::exchange(const ExchangeRequest& request) {
  check_process();
  const detail::MemoryNow now = read_clock();
  ExchangeReply reply{.now = now.wall};
  Copies copies = copy_rewritten(request.settlements);
  detail::MemoryGraveyard dead;
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  reply.settled = settle(request.settlements, copies, now, dead);
  give_back(request.lost_takes, now);
  take(request, now, reply);
  tell_watches(hints);
  return reply;
}

/// Copies, before the lock is taken, the tasks whose messages the settlements will change.
TASKMUX_INLINE MemoryBroker::Copies MemoryBroker::copy_rewritten(std::span<const Settlement> settlements) {
  Copies copies;
  for (std::size_t i = 0; i < settlements.size(); ++i) {
    const TaskMessage* message = settlements[i].run.message.get();
    if (!message || !detail::transition_of(settlements[i]).rewrites()) continue;
    copies.resize(settlements.size());
    copies[i] = std::make_shared<detail::MemoryTask>(*message);
  }
  return copies;
}

TASKMUX_INLINE std::vector<SettleReply> MemoryBroker::settle(std::span<const Settlement> settlements,
                                                     Copies& copies, detail::MemoryNow now,
                                                     detail::MemoryGraveyard& dead) {
  std::vector<SettleReply> replies(settlements.size());
  QueueFinder finder{queues_, board_};
  constexpr std::size_t ahead = 4;
  for (std::size_t i = 0; i < settlements.size(); ++i) {
    if (i + ahead < settlements.size()) {
      detail::prefetch_task(settlements[i + ahead].run.message.get());
    }
    const TaskMessage* message = settlements[i].run.message.get();
    detail::MemoryQueue* queue = message ? finder.find(message->queue) : nullptr;
    auto copy = copies.empty() ? nullptr : std::move(copies[i]);
    const bool applied = queue && queue->settle(settlements[i], std::move(copy), now, dead);
    replies[i].status = applied ? SettleStatus::applied : SettleStatus::stale;
  }
  return replies;
}

TASKMUX_INLINE void MemoryBroker::give_back(std::span<const LostTake> lost, detail::MemoryNow now) {
  for (const LostTake& call : lost) {
    for (const std::string& name : call.queues) {
      const auto found = queues_.find(name);
      if (found != queues_.end()) found->second.give_back(call.token_block, now);
    }
  }
}

TASKMUX_INLINE void MemoryBroker::take(const ExchangeRequest& request, detail::MemoryNow now,
                               ExchangeReply& reply) {
  constexpr std::size_t forward_at_least = 1000;
  constexpr std::size_t most_of_block = 65'536;
  std::size_t wanted = 0;
  for (const QueueQuota& quota : request.quotas) wanted += quota.count;
  std::uint64_t named = (request.token_block << 16) - 1;
  std::uint64_t& token = request.token_block != 0 ? named : token_;
  if (request.token_block != 0) wanted = std::min(wanted, most_of_block);

  std::vector<Share> shares;
  shares.reserve(request.quotas.size());
  for (const QueueQuota& quota : request.quotas) {
    const auto found = queues_.find(quota.queue);
    if (found == queues_.end()) continue;
    found->second.forward(now, std::max(wanted, forward_at_least));
    shares.push_back({.queue = &found->second, .quota = quota.count});
  }

  std::size_t left = wanted;
  std::size_t free_workers = request.free_workers;
  const auto give = [&](Share& share, std::size_t count) TASKMUX_REQUIRES(mutex_) {
    if (share.blocked || share.queue->paused()) return;
    const std::size_t before = share.runs.size();
    share.blocked = !share.queue->take(count, free_workers, now, request.lease, token, share.runs);
    const std::size_t taken = share.runs.size() - before;
    left -= taken;
    free_workers -= std::min(free_workers, taken);
  };
  for (Share& share : shares) give(share, std::min(share.quota, left));
  for (Share& share : shares) give(share, left);

  for (Share& share : shares) {
    if (reply.runs.empty()) {
      reply.runs = std::move(share.runs);
    } else {
      std::move(share.runs.begin(), share.runs.end(), std::back_inserter(reply.runs));
    }
    reply.next_due = detail::earlier(reply.next_due, share.queue->next_due(now));
    reply.more = reply.more || share.queue->ready(now);
  }
}

TASKMUX_INLINE std::vector<ExtendReply> MemoryBroker::extend(std::span<const ExtendRequest> runs, Duration lease) {
  check_process();
  const Time lease_end = detail::later(read_clock().steady, lease);
  std::vector<ExtendReply> replies;
  replies.reserve(runs.size());
  detail::MutexLock lock{mutex_};
  QueueFinder finder{queues_, board_};
  for (const ExtendRequest& request : runs) {
    const TaskMessage* message = request.run.message.get();
    detail::MemoryQueue* queue = message ? finder.find(message->queue) : nullptr;
    replies.push_back(queue ? queue->extend(request, lease_end)
                            : ExtendReply{.status = LeaseStatus::lost});
  }
  return replies;
}

TASKMUX_INLINE std::unique_ptr<Watch> MemoryBroker::watch(std::vector<std::string> queues,
                                                  std::function<void(const Hint&)> callback) {
  check_process();
  auto watcher = std::make_shared<detail::MemoryWatcher>(std::move(queues), std::move(callback));
  auto handle = std::make_unique<WatchHandle>(*this, watcher);
  detail::MutexLock lock{mutex_};
  watches_.add(watcher);
  return handle;
}

TASKMUX_INLINE Watch::State MemoryBroker::arm(detail::MemoryWatcher& watcher, bool all) {
  check_process();
  const detail::MemoryNow now = read_clock();
  Watch::State state{.now = now.wall};
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  tell_watches(hints);  // Of what a call that failed has changed.
  detail::MemoryKnowledge& known = watcher.knowledge;
  if (all) known.forget_all();
  known.forget_due(now.steady);
  const auto look_at = [&](std::size_t number)
                           TASKMUX_REQUIRES(mutex_) -> detail::MemoryKnowledge::Look {
    const auto found = queues_.find(watcher.queues()[number]);
    if (found == queues_.end()) return {};
    detail::MemoryQueue& queue = found->second;
    queue.set_noted(false);
    if (queue.ready(now)) return {.ready = true};
    const std::optional<Time> due = queue.next_due(now);
    return {.due = due ? std::optional{detail::to_steady(*due, now)} : std::nullopt};
  };
  for (std::size_t i = 0; i < known.unknown().size();) {
    const detail::MemoryKnowledge::Look look = look_at(known.unknown()[i]);
    known.note(i, look);
    if (!look.ready) continue;
    state.ready = true;
    ++i;
  }
  state.report = watcher.note_report();
  watcher.armed = !state.ready;
  watcher.told = known.next_due();
  if (watcher.told) state.next_due = detail::to_wall(*watcher.told, now);
  return state;
}

TASKMUX_INLINE void MemoryBroker::end(detail::MemoryWatcher& watcher) {
  if (::getpid() != pid_) return;  // after fork(), the lock may be held forever
  {
    detail::MutexLock lock{mutex_};
    watches_.remove(watcher);
  }
  watcher.end();
}

/// Collects hints for the watches on queues that have just changed. Visits only those queues: there
/// may be many others.
TASKMUX_INLINE void MemoryBroker::tell_watches(detail::MemoryHints& hints) {
  const bool any_armed = board_.changed && watches_.any_armed();
  while (detail::MemoryQueue* const queue = board_.changed) {
    // First, since it may fail: a later call then hints at the queue, which is still in the list.
    if (queue->news() != Time::max()) {
      if (any_armed || !queue->noted()) watches_.ready(queue->name(), queue->news(), hints);
      queue->set_noted(true);
    }
    queue->tell_task_watches(hints);
    board_.changed = queue->forget_news();
  }
}

TASKMUX_INLINE UpkeepReply MemoryBroker::upkeep(const UpkeepRequest& request) {
  check_process();
  const detail::MemoryNow now = read_clock();
  UpkeepReply reply{.now = now.wall};
  detail::MemoryGraveyard dead;
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  for (const std::string& name : request.queues) {
    const auto found = queues_.find(name);
    if (found == queues_.end()) continue;
    detail::MemoryQueue& queue = found->second;
    reply.forwarded += queue.forward(now, request.limit);
    reply.expired += queue.expire(now, request.limit, dead);
    queue.ids().expire(now.steady, request.limit);
    if (request.recover) {
      reply.more |=
          queue.recover(now, request.lease, request.limit, request.own, token_, reply.lost);
    }
    reply.more |=
        queue.has_due(now) || queue.has_expired(now) || queue.ids().has_expired(now.steady);
    reply.next_due = detail::earlier(reply.next_due, queue.next_due(now));
  }
  tell_watches(hints);
  return reply;
}

TASKMUX_INLINE void MemoryBroker::announce(const ServerInfo& server, Duration lifetime) {
  check_process();
  const Time now = read_clock().steady;
  LiveServer live{server, detail::later(now, std::chrono::ceil<std::chrono::seconds>(lifetime))};
  detail::MutexLock lock{mutex_};
  std::erase_if(servers_, [&](const auto& entry) { return entry.second.until <= now; });
  servers_.insert_or_assign(server.id, std::move(live));
}

TASKMUX_INLINE void MemoryBroker::retire(const ServerInfo& server) {
  check_process();
  detail::MutexLock lock{mutex_};
  servers_.erase(server.id);
}

TASKMUX_INLINE std::vector<ServerInfo> MemoryBroker::servers() {
  check_process();
  const Time now = read_clock().steady;
  std::vector<ServerInfo> alive;
  detail::MutexLock lock{mutex_};
  for (const auto& [id, server] : servers_) {
    if (server.until > now) alive.push_back(server.info);
  }
  return alive;
}

/// Null if nothing was ever enqueued to it.
TASKMUX_INLINE detail::MemoryQueue* MemoryBroker::find_queue(std::string_view queue) {
  const auto found = queues_.find(queue);
  return found == queues_.end() ? nullptr : &found->second;
}

TASKMUX_INLINE detail::MemoryQueue& MemoryBroker::known(std::string_view queue) {
  detail::MemoryQueue* const found = find_queue(queue);
  if (!found) {
    throw Error{Errc::queue_not_found, text("queue", queue, "nothing was ever enqueued to it")};
  }
  return *found;
}

TASKMUX_INLINE detail::MemoryTask& MemoryBroker::known(std::string_view queue, std::string_view id) {
  detail::MemoryQueue* const found = find_queue(queue);
  detail::MemoryTask* const task = found ? found->find(id) : nullptr;
  if (!task) {
    throw Error{Errc::task_not_found, text_of_task(id, "not in the queue"), std::string{id}};
  }
  return *task;
}

TASKMUX_INLINE std::string MemoryBroker::text(std::string_view kind, std::string_view name,
                                      std::string_view cause) {
  std::string text{kind};
  text.append(" \"").append(name).append("\": ").append(cause);
  return text;
}

TASKMUX_INLINE std::string MemoryBroker::text_of_task(std::string_view id, std::string_view cause) {
  return detail::task_in_words(id, {}, {}).append(": ").append(cause);
}

TASKMUX_INLINE OpenReply MemoryBroker::open(std::span<const std::string> queues) {
  check_process();
  OpenReply reply;
  detail::MutexLock lock{mutex_};
  for (const std::string& queue : queues) {
    if (!queues_.contains(queue)) reply.never_used.push_back(queue);
  }
  return reply;
}

TASKMUX_INLINE std::vector<std::string> MemoryBroker::queues() {
  check_process();
  std::vector<std::string> names;
  detail::MutexLock lock{mutex_};
  for (const auto& [name, queue] : queues_) names.push_back(name);
  return names;
}

TASKMUX_INLINE std::vector<QueueInfoReply> MemoryBroker::queue_infos(
    std::span<const std::string> queues) {
  check_process();
  const detail::MemoryNow now = read_clock();
  std::vector<QueueInfoReply> replies(queues.size());
  detail::MutexLock lock{mutex_};
  for (std::size_t i = 0; i < queues.size(); ++i) {
    try {
      replies[i].info = known(queues[i]).info(now);
    } catch (const Error& error) {
      replies[i].error = error;
    }
    replies[i].info.queue = queues[i];
  }
  return replies;
}

TASKMUX_INLINE std::vector<DailyStats> MemoryBroker::history(std::string_view queue, int days) {
  check_process();
  if (days < 1 || days > 90) {
    throw Error{Errc::invalid_argument, text("history of queue", queue, "1 to 90 days are kept")};
  }
  const auto today = std::chrono::floor<std::chrono::days>(clock_->now());
  std::vector<DailyStats> stats;
  detail::MutexLock lock{mutex_};
  const detail::MemoryQueue* const found = find_queue(queue);
  for (int back = 0; found && back < days; ++back) {
    stats.push_back(found->statistics().on(today - std::chrono::days{back}));
  }
  return stats;
}

TASKMUX_INLINE TaskPage MemoryBroker::list(const ListRequest& request) {
  constexpr std::size_t most_visited = 10'000;  // since the lock is held in the meantime
  check_process();
  if (request.state == TaskState::aggregating) {
    if (request.group.empty()) {
      throw Error{Errc::invalid_argument,
                  text("queue", request.queue, "which group to list was not given")};
    }
    return {};
  }
  if (request.limit == 0) return {.next = request.cursor};
  const detail::MemoryNow now = read_clock();
  TaskPage page;
  std::vector<std::shared_ptr<const TaskMessage>> messages;  // copied after the lock is released
  std::size_t visited = 0;
  const auto visit = [&](const detail::MemoryTask& task) {
    if (page.tasks.size() == request.limit || visited == most_visited) return false;
    ++visited;
    TaskInfo info = describe(task, now, false);
    const TaskMessage& message = task.message;
    info.enqueued_at = if_set(message.enqueued_at);
    info.last_failed_at = if_set(message.last_failed_at);
    if (!request.filter.selects(message.id, message.task.type, message.last_error,
                                TaskFilter::since(info))) {
      return true;
    }
    if (request.with_result && task.result) info.result = *task.result;
    page.tasks.push_back(std::move(info));
    messages.push_back(task.share());
    return true;
  };
  {
    detail::MutexLock lock{mutex_};
    const detail::MemoryQueue* const found = find_queue(request.queue);
    if (!found) return page;
    page.next = found->walk(request.state, request.cursor, request.filter.after,
                            request.filter.until, now, visit);
  }
  for (std::size_t i = 0; i < page.tasks.size(); ++i)
    add_message(page.tasks[i], *messages[i], request.with_payload);
  return page;
}

TASKMUX_INLINE std::optional<TaskInfo> MemoryBroker::find(std::string_view queue, std::string_view id) {
  check_process();
  const detail::MemoryNow now = read_clock();
  TaskInfo info;
  std::shared_ptr<const TaskMessage> message;
  {
    detail::MutexLock lock{mutex_};
    const detail::MemoryQueue* const found = find_queue(queue);
    const detail::MemoryTask* const task = found ? found->find(id) : nullptr;
    if (!task) return std::nullopt;
    info = describe(*task, now, true);
    message = task->share();
  }
  add_message(info, *message, true);
  return info;
}

/// Returns a snapshot of a task.
TASKMUX_INLINE TaskInfo MemoryBroker::describe(const detail::MemoryTask& task,
                                               detail::MemoryNow now, bool with_result) {
  TaskInfo info;
  info.state = task.state;
  info.crashes = task.crashes;
  if (with_result && task.result) info.result = *task.result;
  switch (task.state) {
    case TaskState::active:
      info.started_at = task.at;
      info.orphaned = task.lease_end <= now.steady;
      break;
    case TaskState::scheduled:
    case TaskState::retry:
      info.next_process_at = detail::MemoryQueue::due_of(task).wall(now);
      break;
    case TaskState::archived: info.archived_at = task.at; break;
    case TaskState::completed: info.completed_at = task.message.completed_at; break;
    case TaskState::pending:
    case TaskState::aggregating: break;
  }
  return info;
}

TASKMUX_INLINE void MemoryBroker::add_message(TaskInfo& info, const TaskMessage& message,
                                              bool with_payload) {
  info.id = message.id;
  info.queue = message.queue;
  info.task.type = message.task.type;
  if (with_payload) info.task.payload = message.task.payload;
  info.task.headers = message.task.headers;
  info.max_retry = message.max_retry;
  info.retried = message.retried;
  info.timeout = message.timeout;
  info.retention = message.retention;
  info.deadline = if_set(message.deadline);
  info.enqueued_at = if_set(message.enqueued_at);
  info.last_failed_at = if_set(message.last_failed_at);
  info.expires_at = if_set(message.expires_at);
  info.last_error = message.last_error;
}

TASKMUX_INLINE std::vector<TaskStatus> MemoryBroker::states(std::string_view queue,
                                                            std::span<const std::string> ids) {
  check_process();
  std::vector<TaskStatus> statuses(ids.size());
  detail::MutexLock lock{mutex_};
  const detail::MemoryQueue* const found = find_queue(queue);
  for (std::size_t i = 0; found && i < ids.size(); ++i) {
    const detail::MemoryTask* const task = found->find(ids[i]);
    if (task) statuses[i].state = TaskState{task->state};
  }
  return statuses;
}

TASKMUX_INLINE std::unique_ptr<TaskWatch> MemoryBroker::watch_tasks(
    std::string_view queue, std::vector<std::string> ids, std::function<void()> callback) {
  check_process();
  return std::make_unique<TaskWatchHandle>(*this, queue, std::move(ids), std::move(callback));
}

TASKMUX_INLINE TaskWatch::State MemoryBroker::arm(
    const std::string& queue, std::span<const std::string> ids,
    const std::shared_ptr<detail::MemoryWatcher>& watcher) {
  check_process();
  TaskWatch::State state{.tasks = std::vector<TaskStatus>(ids.size())};
  detail::MutexLock lock{mutex_};
  watcher->note_report();
  watcher->armed = true;
  detail::MemoryQueue* const found = find_queue(queue);
  if (!found) return state;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    found->unwatch(ids[i], *watcher);  // of the last time
    detail::MemoryTask* const task = found->find(ids[i]);
    if (!task) continue;
    found->watch(*task, watcher);
    state.tasks[i].state = TaskState{task->state};
  }
  return state;
}

TASKMUX_INLINE void MemoryBroker::end(const std::string& queue, std::span<const std::string> ids,
                                      detail::MemoryWatcher& watcher) {
  if (::getpid() != pid_) return;  // after fork(), the lock may be held for ever
  {
    detail::MutexLock lock{mutex_};
    if (detail::MemoryQueue* const found = find_queue(queue)) {
      for (const std::string& id : ids) found->unwatch(id, watcher);
    }
  }
  watcher.end();
}

TASKMUX_INLINE std::vector<ActReply> MemoryBroker::act(const ActRequest& request) {
  check_process();
  const detail::MemoryNow now = read_clock();
  std::vector<ActReply> replies;
  replies.reserve(request.ids.size());
  detail::MemoryGraveyard dead;
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  detail::MemoryQueue* const found = find_queue(request.queue);
  for (const std::string& id : request.ids) {
    detail::MemoryTask* const task = found ? found->find(id) : nullptr;
    if (!task) {
      replies.push_back({Errc::task_not_found});
    } else if ((request.only && task->state != *request.only) ||
               !allows(request.action, task->state)) {
      replies.push_back({Errc::wrong_state});
    } else {
      found->act(request.action, *task, now, dead);
      replies.push_back({});
    }
  }
  tell_watches(hints);
  return replies;
}

TASKMUX_INLINE std::size_t MemoryBroker::act_all(std::string_view queue, TaskAction action, TaskState state,
                                         std::size_t limit) {
  check_process();
  if (!allows(action, state)) {
    throw Error{Errc::wrong_state,
                text("tasks of state", to_string(state), "the action is not possible")};
  }
  const detail::MemoryNow now = read_clock();
  detail::MemoryGraveyard dead;
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  detail::MemoryQueue* const found = find_queue(queue);
  const std::size_t done = found ? found->act_all(action, state, limit, now, dead) : 0;
  tell_watches(hints);
  return done;
}

TASKMUX_INLINE std::vector<TrimReply> MemoryBroker::trim_archives(std::span<const std::string> queues,
                                                          const TrimRequest& request) {
  check_process();
  const detail::MemoryNow now = read_clock();
  std::vector<TrimReply> replies(queues.size());
  detail::MemoryGraveyard dead;
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  for (std::size_t i = 0; i < queues.size(); ++i) {
    const auto found = queues_.find(queues[i]);
    if (found != queues_.end()) replies[i] = found->second.trim(request, now, dead);
  }
  tell_watches(hints);
  return replies;
}

TASKMUX_INLINE void MemoryBroker::update_payload(std::string_view queue, std::string_view id,
                                         std::string payload) {
  check_process();
  detail::MemoryGraveyard dead;
  detail::MutexLock lock{mutex_};
  detail::MemoryTask& task = known(queue, id);
  if (task.state == TaskState::active || task.state == TaskState::completed) {
    throw Error{Errc::wrong_state, text_of_task(id, "it is " + std::string{to_string(task.state)}),
                std::string{id}};
  }
  auto rewritten = std::make_shared<detail::MemoryTask>(task.message);
  rewritten->message.task.payload = std::move(payload);
  known(queue).rewrite(task, std::move(rewritten), dead);
}

TASKMUX_INLINE void MemoryBroker::pause(std::string_view queue) {
  check_process();
  detail::MutexLock lock{mutex_};
  detail::MemoryQueue& found = QueueFinder{queues_, board_}.find_or_make(std::string{queue});
  if (found.paused()) throw Error{Errc::wrong_state, text("queue", queue, "already paused")};
  found.pause();
}

TASKMUX_INLINE void MemoryBroker::unpause(std::string_view queue) {
  check_process();
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  detail::MemoryQueue& found = known(queue);
  if (!found.paused()) throw Error{Errc::wrong_state, text("queue", queue, "not paused")};
  found.unpause();
  tell_watches(hints);
}

TASKMUX_INLINE void MemoryBroker::cancel(std::string_view queue, std::string_view id, CancelMode mode) {
  check_process();
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  detail::MemoryTask& task = known(queue, id);
  if (task.state != TaskState::active) {
    throw Error{Errc::wrong_state,
                text_of_task(id, "it is " + std::string{to_string(task.state)}), std::string{id}};
  }
  task.cancel_requested = true;
  task.cancel_mode = mode;
  watches_.cancel(queue, id, hints);
}

TASKMUX_INLINE void MemoryBroker::delete_queue(std::string_view queue, bool force) {
  check_process();
  Queues::node_type dead;  // freed after the lock is released
  detail::MemoryHints hints;
  detail::MutexLock lock{mutex_};
  detail::MemoryQueue& found = known(queue);
  if (found.has_active()) {
    throw Error{Errc::wrong_state, text("queue", queue, "tasks of it are active")};
  }
  if (!force && found.size() > 0) {
    throw Error{Errc::queue_not_empty, text("queue", queue, "holds tasks")};
  }
  found.note_end();
  found.tell_task_watches(hints);
  // After a call that failed, the queue may be among those that have changed.
  tell_watches(hints);
  board_.tasks -= found.size();
  dead = queues_.extract(queues_.find(queue));
}

}  // namespace v0
}  // namespace taskmux
