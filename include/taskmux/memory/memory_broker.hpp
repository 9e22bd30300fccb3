#pragma once

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/memory/ids.hpp"
#include "taskmux/detail/memory/pool.hpp"
#include "taskmux/detail/memory/queue.hpp"
#include "taskmux/detail/memory/task.hpp"
#include "taskmux/detail/memory/unique_key.hpp"
#include "taskmux/detail/memory/watches.hpp"
#include "taskmux/error.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/registry.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// The options of a MemoryBroker. Every field may be left out.
struct MemoryBrokerOptions {
  /// The source of time; the machine's clock if null.
  std::shared_ptr<Clock> clock{};
  /// The maximum number of tasks that the broker stores, in all queues and states together; further
  /// tasks are refused with queue_full. 0: no limit.
  std::size_t max_tasks = 0;
  /// Used by servers that have no logger of their own. The broker itself logs nothing.
  Logger logger{};
};

/// An in-process broker: it needs no server, and its tasks end with the process. It implements the
/// whole contract of Broker, QueueView and Registry, with microsecond precision. A lost run is
/// taken over 1 s after its lease expired. Archived tasks are deleted only on request. Thread-safe.
///
/// A step of the wall clock affects only instants: `process_at`, deadlines and expiry. All
/// durations are measured by the steady clock: leases, `process_in`, retry delays, snoozes,
/// retentions, unique locks.
// Virtual functions that are defined elsewhere are declared `inline` here: otherwise one of them
// would be the key function, and every file that includes this header would compile the whole
// broker.
class TASKMUX_API MemoryBroker final : public Broker, public QueueView, public Registry {
 public:
  explicit MemoryBroker(MemoryBrokerOptions options = {});

  /// In a child process, it frees nothing: another thread may have been changing the tables when
  /// fork() was called.
  TASKMUX_INLINE ~MemoryBroker() override;

  TASKMUX_INLINE std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) override;
  TASKMUX_INLINE ExchangeReply exchange(const ExchangeRequest& request) override;
  TASKMUX_INLINE std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override;
  TASKMUX_INLINE std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                                      std::function<void(const Hint&)> callback) override;
  TASKMUX_INLINE UpkeepReply upkeep(const UpkeepRequest& request) override;
  void ping() override { check_process(); }
  TASKMUX_INLINE OpenReply open(std::span<const std::string> queues) override;
  std::string describe() const override { return "in memory"; }
  Logger logger() const override { return logger_; }
  Registry& registry() override { return *this; }
  QueueView& queue_view() override { return *this; }

  Time now() override { return clock_->now(); }
  TASKMUX_INLINE std::vector<std::string> queues() override;
  TASKMUX_INLINE std::vector<QueueInfoReply> queue_infos(
      std::span<const std::string> queues) override;
  TASKMUX_INLINE std::vector<DailyStats> history(std::string_view queue, int days) override;
  std::vector<GroupInfo> groups(std::string_view queue) override {
    static_cast<void>(queue);
    check_process();
    return {};
  }
  TASKMUX_INLINE TaskPage list(const ListRequest& request) override;
  TASKMUX_INLINE std::optional<TaskInfo> find(std::string_view queue, std::string_view id) override;
  TASKMUX_INLINE std::vector<TaskStatus> states(std::string_view queue,
                                                std::span<const std::string> ids) override;
  TASKMUX_INLINE std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue,
                                                        std::vector<std::string> ids,
                                                        std::function<void()> callback) override;
  TASKMUX_INLINE std::vector<ActReply> act(const ActRequest& request) override;
  TASKMUX_INLINE std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                             std::size_t limit) override;
  TASKMUX_INLINE std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                              const TrimRequest& request) override;
  TASKMUX_INLINE void update_payload(std::string_view queue, std::string_view id,
                             std::string payload) override;
  TASKMUX_INLINE void pause(std::string_view queue) override;
  TASKMUX_INLINE void unpause(std::string_view queue) override;
  TASKMUX_INLINE void cancel(std::string_view queue, std::string_view id, CancelMode mode) override;
  TASKMUX_INLINE void delete_queue(std::string_view queue, bool force) override;

  TASKMUX_INLINE void announce(const ServerInfo& server, Duration lifetime) override;
  TASKMUX_INLINE void retire(const ServerInfo& server) override;
  TASKMUX_INLINE std::vector<ServerInfo> servers() override;

 private:
  using Queues = std::map<std::string, detail::MemoryQueue, std::less<>>;
  using Copies = std::vector<std::shared_ptr<detail::MemoryTask>>;
  class WatchHandle;
  class TaskWatchHandle;

  /// An id to be remembered; see EnqueueRequest::idempotent_for.
  struct Remembrance {
    detail::MemoryIds::Digest id;
    Time until;  ///< By the steady clock.
  };

  /// A task to be enqueued, made before the lock is taken.
  struct Arrival {
    std::shared_ptr<detail::MemoryTask> task;
    detail::MemoryQueue::Due due;
    Time locked_until;  ///< By the steady clock.
    std::optional<Remembrance> remembrance{};
  };

  /// The runs that were taken by one quota of an exchange.
  struct Share {
    detail::MemoryQueue* queue;
    std::size_t quota;
    std::vector<Run> runs{};
    bool blocked = false;
  };

  struct LiveServer {
    ServerInfo info;
    Time until;  ///< By the steady clock.
  };

  /// Finds queues by name, and caches the last one: most batches contain only one queue.
  class QueueFinder {
   public:
    QueueFinder(Queues& queues, detail::MemoryBoard& board)
        : queues_{queues}, board_{board}, found_{queues.end()} {}

    detail::MemoryQueue* find(std::string_view name) {
      if (found_ == queues_.end() || found_->first != name) found_ = queues_.find(name);
      return found_ == queues_.end() ? nullptr : &found_->second;
    }
    detail::MemoryQueue& find_or_make(const std::string& name) {
      if (!find(name)) found_ = queues_.try_emplace(name, name, board_).first;
      return found_->second;
    }

   private:
    Queues& queues_;
    detail::MemoryBoard& board_;
    Queues::iterator found_;
  };

  void check_process() const {
    if (::getpid() != pid_) {
      throw Error{Errc::forked, "memory broker: made in another process, before fork()"};
    }
  }

  detail::MemoryNow read_clock() const {
    const Duration since_start =
        std::chrono::floor<Duration>(clock_->steady_now() - made_at_steady_);
    return {clock_->now(), made_at_ + since_start};
  }

  detail::MemoryQueue& known(std::string_view queue) TASKMUX_REQUIRES(mutex_);
  detail::MemoryQueue* find_queue(std::string_view queue) TASKMUX_REQUIRES(mutex_);
  detail::MemoryTask& known(std::string_view queue, std::string_view id) TASKMUX_REQUIRES(mutex_);
  std::vector<Arrival> receive(std::vector<EnqueueRequest>& batch, detail::MemoryNow now) const;
  EnqueueReply admit(Arrival& arrival, detail::MemoryNow now, QueueFinder& finder,
                     std::size_t& room) TASKMUX_REQUIRES(mutex_);
  static Copies copy_rewritten(std::span<const Settlement> settlements);
  std::vector<SettleReply> settle(std::span<const Settlement> settlements, Copies& copies,
                                   detail::MemoryNow now, detail::MemoryGraveyard& dead)
      TASKMUX_REQUIRES(mutex_);
  void take(const ExchangeRequest& request, detail::MemoryNow now, ExchangeReply& reply)
      TASKMUX_REQUIRES(mutex_);
  void give_back(std::span<const LostTake> lost, detail::MemoryNow now) TASKMUX_REQUIRES(mutex_);
  void tell_watches(detail::MemoryHints& hints) TASKMUX_REQUIRES(mutex_);
  Watch::State arm(detail::MemoryWatcher& watcher, bool all);
  void end(detail::MemoryWatcher& watcher);
  TaskWatch::State arm(const std::string& queue, std::span<const std::string> ids,
                       const std::shared_ptr<detail::MemoryWatcher>& watcher);
  void end(const std::string& queue, std::span<const std::string> ids,
           detail::MemoryWatcher& watcher);
  static TaskInfo describe(const detail::MemoryTask& task, detail::MemoryNow now, bool with_result);
  static void add_message(TaskInfo& info, const TaskMessage& message, bool with_payload);
  static std::optional<Time> if_set(Time time) {
    return time == Time{} ? std::nullopt : std::optional{time};
  }
  static std::string text(std::string_view kind, std::string_view name, std::string_view cause);
  static std::string text_of_task(std::string_view id, std::string_view cause);

  const std::shared_ptr<Clock> clock_;
  const Time made_at_ = clock_->now();
  const SteadyTime made_at_steady_ = clock_->steady_now();
  const std::size_t max_tasks_;
  const Logger logger_;
  const pid_t pid_ = ::getpid();
  const detail::MemoryUniqueKeys unique_keys_;
  /// Declared before the queues, which hold blocks of it.
  std::unique_ptr<detail::MemoryPool, detail::MemoryPool::Close> pool_{
      new detail::MemoryPool};

  detail::Mutex mutex_;
  /// No queue is among the changed ones when the mutex is free, but for a call that failed.
  detail::MemoryBoard board_ TASKMUX_GUARDED_BY(mutex_);
  Queues queues_ TASKMUX_GUARDED_BY(mutex_);
  detail::MemoryWatches watches_ TASKMUX_GUARDED_BY(mutex_);
  std::map<std::string, LiveServer> servers_ TASKMUX_GUARDED_BY(mutex_);  // By id.
  std::uint64_t token_ TASKMUX_GUARDED_BY(mutex_) = 0;                    // The last token.
};

}  // namespace v0
}  // namespace taskmux

#ifndef TASKMUX_COMPILED
#include "taskmux/detail/memory/broker.hpp"
#endif
