#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/base/thread.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/ready_queue.hpp"
#include "taskmux/detail/run/outcome_of.hpp"
#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/detail/run/task_rules.hpp"
#include "taskmux/serve_mux.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// When an attempt must end. A timeout and a deadline both bind; with neither, 30 minutes do, as in
/// asynq. What a Go peer wrote may be negative: then it is over already.
struct AttemptLimits {
  SteadyTime steady;
  Time wall;
};

inline AttemptLimits attempt_limits(const TaskMessage& message, std::optional<Duration> by_route,
                                    SteadyTime now, Time wall_now) {
  const auto bounded = [](std::chrono::seconds timeout) -> Duration {
    constexpr std::chrono::seconds longest =
        std::chrono::duration_cast<std::chrono::seconds>(Limits::longest);
    return std::clamp(timeout, -longest, longest);
  };
  Duration left = Limits::longest;
  if (message.timeout.count() == 0 && message.deadline == Time{}) left = default_timeout;
  if (message.timeout.count() != 0) left = bounded(message.timeout);
  if (message.deadline != Time{}) left = std::min(left, message.deadline - wall_now);
  if (by_route) left = std::min(left, *by_route);
  left = std::max(left, Duration{0});  // Long over is over; it must not overflow the clock either.
  return {now + left, wall_now + left};
}

/// Why an attempt at `message`, of these limits, can't succeed any more, nor can a later one; empty
/// if it can.
inline std::string_view too_late(const TaskMessage& message, const AttemptLimits& limits,
                                 SteadyTime now, Time wall_now) noexcept {
  if (message.expires_at != Time{} && wall_now >= message.expires_at)
    return "expired: no worker had started it in time";
  if (now < limits.steady) return {};
  if (message.deadline != Time{} && wall_now >= message.deadline)
    return "its deadline had passed before it could be started";
  return "its timeout leaves no time for an attempt";
}

/// Runs one attempt of `run` on this thread.
inline Outcome attempt(ServeMux& mux, const std::shared_ptr<RunState>& run) noexcept {
  return outcome_of([&] {
    Context context{run};
    return mux.handle(context, run->message().task, run->route());
  });
}

/// The threads that run handlers. A thread whose handler hangs can be given up: it is detached,
/// another takes its place, and whatever it still reaches it owns together with the pool.
class WorkerPool {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Config {
    std::size_t concurrency = 1;
    std::size_t max_abandoned = 1;
    std::function<void()> on_thread_start;
    std::shared_ptr<ServeMux> mux;
    std::shared_ptr<RunEnvironment> environment;
    /// Called on the worker's thread when an attempt begins, and when it has ended unless its
    /// thread was given up. A run that comes too late for any attempt is finished without started().
    std::function<void(const RunState&)> started;
    std::function<void(RunPtr, const Outcome&, double random)> finished;
    /// Called when a run turns out not to be there for a worker any more: the worker is free again.
    std::function<void()> skipped;
    /// Called with a run that was not begun since its lease was over; empty = such runs are begun.
    std::function<void(RunPtr)> lapsed{};
  };

  /// What there is room for.
  struct Room {
    std::size_t workers = 0;  ///< Free workers that no waiting run is meant for.
    std::size_t total = 0;    ///< Together with what may wait for a worker for a few milliseconds.
  };

  explicit WorkerPool(Config config) : shared_{std::make_shared<Shared>(std::move(config))} {}
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;
  ~WorkerPool() { join(); }

  /// Starts the threads; they, and those that will replace them, block the signals that the caller
  /// blocks. Throws std::system_error if the machine has no more; those that started are joined by
  /// the destructor.
  void start() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    signals_ = signal_mask();
    for (std::size_t slot = 0; slot < shared_->config.concurrency; ++slot)
      threads_.push_back(start_worker(slot));
  }

  ReadyQueue& ready() noexcept { return shared_->ready; }
  ReadyQueue::Load load() const { return shared_->ready.load(); }

  Room room() const {
    const Shared& shared = *shared_;
    if (shared.hung.load(std::memory_order_relaxed) >= shared.config.max_abandoned) return {};
    const ReadyQueue::Load load = shared.ready.load();
    const std::size_t taken = load.busy + load.ready;
    const std::size_t workers =
        shared.config.concurrency - shared.missing.load(std::memory_order_relaxed);
    const std::size_t places = workers > 0 ? workers + shared.prefetch() : 0;
    return {taken < workers ? workers - taken : 0, taken < places ? places - taken : 0};
  }

  /// Gives up the thread that runs `run`, unless the handler has just ended: the run is abandoned
  /// then, and the caller's to settle. Another thread takes its place if `replace`, and if the
  /// machine has one.
  bool give_up(RunState& run, bool replace) TASKMUX_EXCLUDES(mutex_) {
    shared_->hung.fetch_add(1, std::memory_order_relaxed);
    if (!run.advance(RunState::Phase::running, RunState::Phase::abandoned)) {
      shared_->hung.fetch_sub(1, std::memory_order_relaxed);
      return false;
    }
    shared_->ready.done();
    MutexLock lock{mutex_};
    threads_[run.worker()].detach();
    shared_->note_missing(run.worker());
    if (!replace) return true;
    missing_.push_back(run.worker());
    shared_->missing.store(missing_.size(), std::memory_order_relaxed);
    fill_up();
    return true;
  }

  /// Threads that could not be started.
  std::size_t missing() const noexcept { return shared_->missing.load(std::memory_order_relaxed); }

  /// Starts the threads that could not be started before; false if there still is one.
  bool replace_missing() TASKMUX_EXCLUDES(mutex_) {
    if (shared_->missing.load(std::memory_order_relaxed) == 0) return true;
    MutexLock lock{mutex_};
    return fill_up();
  }

  /// Runs were taken ahead and no worker came for them: none is taken ahead any more until a worker
  /// has ended a run.
  void gave_back() noexcept { shared_->gave_back.store(true, std::memory_order_relaxed); }

  /// Tells the pool how long a run took, as its workers do. For tests.
  void note_pace(SteadyTime::duration took) noexcept { shared_->note_pace(took); }

  /// Given-up threads that still hang.
  std::size_t hung() const noexcept { return shared_->hung.load(std::memory_order_relaxed); }

  /// Attempts at tasks whose type the mux has no handler for.
  std::uint64_t unknown_types() const noexcept {
    return shared_->unknown_types.load(std::memory_order_relaxed);
  }

  /// Whether the calling thread is one of the pool's, given up or not.
  bool on_worker_thread() const { return shared_->is_worker(std::this_thread::get_id()); }

  /// Closes the ready queue and waits for all threads but the given-up ones.
  void join() TASKMUX_EXCLUDES(mutex_) {
    shared_->ready.close();
    std::vector<std::thread> threads;
    {
      MutexLock lock{mutex_};
      threads.swap(threads_);
    }
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  /// Of a worker, on a cache line of its own.
  struct alignas(64) Slot {
    /// When it began its present run, in nanoseconds of the steady clock.
    std::atomic<std::int64_t> busy_since{idle};

    static constexpr std::int64_t idle = std::numeric_limits<std::int64_t>::max();
    static constexpr std::int64_t for_ever = std::numeric_limits<std::int64_t>::min();
  };

  /// A thread of the pool; on its own stack, so that a list of them needs no memory.
  struct Member {
    std::thread::id id;
    Member* next = nullptr;
  };

  struct Shared {
    explicit Shared(Config c)
        : config{std::move(c)}, slots{std::make_unique<Slot[]>(config.concurrency)} {}

    bool is_worker(std::thread::id id) const TASKMUX_EXCLUDES(mutex) {
      MutexLock lock{mutex};
      const Member* member = members;
      while (member != nullptr && member->id != id) member = member->next;
      return member != nullptr;
    }

    void note_pace(SteadyTime::duration took) noexcept {
      const std::int64_t mean = recent_ns.load(std::memory_order_relaxed);
      const std::int64_t took_ns = std::chrono::nanoseconds{took}.count();
      recent_ns.store(mean + (took_ns - mean) / 32, std::memory_order_relaxed);
      if (gave_back.load(std::memory_order_relaxed))
        gave_back.store(false, std::memory_order_relaxed);
    }

    void note_begin(std::size_t slot, SteadyTime at) noexcept {
      slots[slot].busy_since.store(ns_of(at), std::memory_order_relaxed);
    }
    void note_idle(std::size_t slot) noexcept {
      slots[slot].busy_since.store(Slot::idle, std::memory_order_relaxed);
    }
    /// The slot has no thread: nothing will be begun there.
    void note_missing(std::size_t slot) noexcept {
      slots[slot].busy_since.store(Slot::for_ever, std::memory_order_relaxed);
    }

    /// How many runs all workers together will have begun within a few milliseconds. Each is taken to
    /// need as long as runs did of late, or as long as it has been busy with its present one.
    std::size_t prefetch() const {
      constexpr std::int64_t window_ns = 4'000'000;
      constexpr std::int64_t most = 512;  // More would fall out of the processor's caches meanwhile.
      const std::int64_t mean =
          std::max<std::int64_t>(recent_ns.load(std::memory_order_relaxed), 1000);
      if (mean > window_ns || gave_back.load(std::memory_order_relaxed)) return 0;
      const std::int64_t now = ns_of(config.environment->clock->steady_now());
      std::int64_t sum = 0;
      for (std::size_t slot = 0; slot < config.concurrency; ++slot) {
        const std::int64_t since = slots[slot].busy_since.load(std::memory_order_relaxed);
        if (since <= now - window_ns) continue;
        const std::int64_t age = since == Slot::idle ? 0 : now - since;
        sum += std::min(window_ns / std::max(mean, age), most);
      }
      return static_cast<std::size_t>(sum);
    }

    static std::int64_t ns_of(SteadyTime at) noexcept {
      return std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count();
    }

    Config config;
    ReadyQueue ready;
    std::atomic<std::size_t> hung{0};
    std::atomic<std::uint64_t> unknown_types{0};
    std::atomic<std::size_t> missing{0};  ///< Workers that could not be replaced.
    std::atomic<bool> gave_back{false};   ///< Since a worker last ended a run.
    const std::unique_ptr<Slot[]> slots;
    /// A running mean of how long a worker takes from one run to the next that waits; a lost update
    /// does no harm. Begins high, so that nothing is hoarded before the pace is known.
    std::atomic<std::int64_t> recent_ns{
        std::chrono::nanoseconds{std::chrono::milliseconds{100}}.count()};
    mutable Mutex mutex;
    Member* members TASKMUX_GUARDED_BY(mutex) = nullptr;
  };

  /// What a worker's thread keeps from run to run.
  struct Worker {
    std::size_t slot;
    SteadyTime free_since{};  ///< When it was given its present run, or ended the one before.
    bool given_up = false;
    Random random{};
  };

  bool fill_up() TASKMUX_REQUIRES(mutex_) {
    try {
      while (!missing_.empty()) {
        threads_[missing_.back()] = start_worker(missing_.back());
        missing_.pop_back();
        shared_->missing.store(missing_.size(), std::memory_order_relaxed);
      }
    } catch (const std::exception&) {
      return false;  // The machine has no more threads just now.
    }
    return true;
  }

  std::thread start_worker(std::size_t slot) TASKMUX_REQUIRES(mutex_) {
    return start_thread("tmx-worker", signals_, shared_->config.on_thread_start,
                        [shared = shared_, slot] { work(*shared, slot); });
  }

  static void work(Shared& shared, std::size_t slot) {
    Member self{.id = std::this_thread::get_id()};
    {
      MutexLock lock{shared.mutex};
      self.next = std::exchange(shared.members, &self);
    }
    Worker worker{.slot = slot};
    shared.note_idle(slot);
    while (RunPtr run = shared.ready.pop()) {
      worker.free_since = shared.config.environment->clock->steady_now();
      while (run && !worker.given_up) run = work_on(shared, std::move(run), worker);
      if (worker.given_up) {
        shared.hung.fetch_sub(1, std::memory_order_relaxed);
        break;
      }
      shared.note_idle(slot);
    }
    MutexLock lock{shared.mutex};
    Member** member = &shared.members;
    while (*member != &self) member = &(*member)->next;
    *member = self.next;
  }

  /// Deals with `run`; returns the next one, if one waits.
  static RunPtr work_on(Shared& shared, RunPtr run, Worker& worker) {
    const Config& config = shared.config;
    // Between two runs no time passes that would matter, and a look at the clock costs as much as a
    // small handler.
    const SteadyTime begin = std::max(worker.free_since, run->taken_at());
    const Time wall =
        run->taken_at_wall() + std::chrono::duration_cast<Duration>(begin - run->taken_at());
    if (config.lapsed && begin >= run->lease_until() &&
        run->advance(RunState::Phase::ready, RunState::Phase::ended)) {
      // This process was stopped for a while, perhaps: somebody else may have run the task since.
      RunPtr next = shared.ready.done_and_pop();
      config.lapsed(std::move(run));
      return next;
    }
    const TaskRoute route = config.mux->route(run->message().task.type);
    const AttemptLimits limits = attempt_limits(run->message(), route.timeout, begin, wall);
    if (const std::string_view reason = too_late(run->message(), limits, begin, wall);
        !reason.empty() && run->withdraw()) {
      run->set_route(route);
      const Outcome outcome =
          outcome_of([&] { return Outcome::skip_retry(std::string{reason}); });
      RunPtr next = shared.ready.done_and_pop();
      config.finished(std::move(run), outcome, 0.5);
      return next;
    }
    if (!run->start(begin, limits.steady, limits.wall, worker.slot, route)) {
      RunPtr next = shared.ready.done_and_pop();
      config.skipped();
      return next;
    }
    shared.note_begin(worker.slot, begin);
    if (!route.known) shared.unknown_types.fetch_add(1, std::memory_order_relaxed);
    config.started(*run);
    const Outcome outcome = attempt(*config.mux, run);
    worker.free_since = config.environment->clock->steady_now();
    if (!run->end(worker.free_since)) {
      worker.given_up = true;
      return nullptr;
    }
    shared.note_pace(worker.free_since - begin);
    // Before the outcome is handed on, so that whoever is woken by it sees who is free.
    RunPtr next = shared.ready.done_and_pop();
    config.finished(std::move(run), outcome, worker.random.unit());
    return next;
  }

  const std::shared_ptr<Shared> shared_;
  Mutex mutex_;
  sigset_t signals_ TASKMUX_GUARDED_BY(mutex_){};
  std::vector<std::thread> threads_ TASKMUX_GUARDED_BY(mutex_);
  std::vector<std::size_t> missing_ TASKMUX_GUARDED_BY(mutex_);  ///< Slots without a thread.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
