#pragma once

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/base/thread.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
#include "taskmux/detail/engine/slots.hpp"
#include "taskmux/detail/run/attempt.hpp"
#include "taskmux/detail/run/outcome_of.hpp"
#include "taskmux/detail/run/run_state.hpp"
#include "taskmux/serve_mux.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Works on runs with one thread for each slot. A thread whose handler hangs can be given up: it is
/// detached, another takes its place, and it shares the ownership of everything that it can still
/// reach with the runner.
class ThreadRunner {
 public:
  using RunPtr = std::shared_ptr<RunState>;

  struct Config {
    std::shared_ptr<Slots> slots;
    std::function<void()> on_thread_start;
    std::shared_ptr<ServeMux> mux;
    std::shared_ptr<Clock> clock;
    EngineEvents& events;  ///< Told on the workers' threads, but for those that were given up.
  };

  explicit ThreadRunner(Config config) : shared_{std::make_shared<Shared>(std::move(config))} {}
  ThreadRunner(const ThreadRunner&) = delete;
  ThreadRunner& operator=(const ThreadRunner&) = delete;
  ~ThreadRunner() { join(); }

  /// Starts the threads; they, and those that will replace them, block the signals that the caller
  /// blocks. Throws std::system_error if the machine has no more; those that started are joined by
  /// the destructor.
  void start() TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    signals_ = signal_mask();
    for (std::size_t slot = 0; slot < slots().count(); ++slot)
      threads_.push_back(start_worker(slot));
  }

  /// Gives up the thread that runs `run`, unless the handler has just ended: the run is abandoned
  /// then, and the caller's to settle. Another thread takes its place if `replace`, and if the
  /// machine has one.
  bool give_up(RunState& run, bool replace) TASKMUX_EXCLUDES(mutex_) {
    if (!slots().give_up(run)) return false;
    MutexLock lock{mutex_};
    threads_[run.worker()].detach();
    if (!replace) return true;
    missing_.push_back(run.worker());
    slots().set_missing(missing_.size());
    fill_up();
    return true;
  }

  /// Starts the threads that could not be started before; false if there still is one.
  bool replace_missing() TASKMUX_EXCLUDES(mutex_) {
    if (slots().missing() == 0) return true;
    MutexLock lock{mutex_};
    return fill_up();
  }

  /// Whether the calling thread is one of the runner's, given up or not.
  bool on_worker_thread() const { return shared_->is_worker(std::this_thread::get_id()); }

  /// Closes the ready queue and waits for all threads but the given-up ones.
  void join() TASKMUX_EXCLUDES(mutex_) {
    slots().ready().close();
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
  /// A thread of the runner; on its own stack, so that a list of them needs no memory.
  struct Member {
    std::thread::id id;
    Member* next = nullptr;
  };

  struct Shared {
    explicit Shared(Config c) : config{std::move(c)} {}

    bool is_worker(std::thread::id id) const TASKMUX_EXCLUDES(mutex) {
      MutexLock lock{mutex};
      const Member* member = members;
      while (member != nullptr && member->id != id) member = member->next;
      return member != nullptr;
    }

    const Config config;
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

  Slots& slots() const noexcept { return *shared_->config.slots; }

  bool fill_up() TASKMUX_REQUIRES(mutex_) {
    try {
      while (!missing_.empty()) {
        threads_[missing_.back()] = start_worker(missing_.back());
        missing_.pop_back();
        slots().set_missing(missing_.size());
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
    const Config& config = shared.config;
    Worker worker{.slot = slot};
    config.slots->note_idle(slot);
    while (RunPtr run = config.slots->ready().pop()) {
      worker.free_since = config.clock->steady_now();
      while (run && !worker.given_up) run = work_on(config, std::move(run), worker);
      if (worker.given_up) {
        config.slots->note_returned();
        break;
      }
      config.slots->note_idle(slot);
    }
    MutexLock lock{shared.mutex};
    Member** member = &shared.members;
    while (*member != &self) member = &(*member)->next;
    *member = self.next;
  }

  /// Deals with `run`; returns the next one, if one waits.
  static RunPtr work_on(const Config& config, RunPtr run, Worker& worker) {
    Slots& slots = *config.slots;
    // Between two runs no time passes that would matter, and a look at the clock costs as much as a
    // small handler.
    const SteadyTime begin = std::max(worker.free_since, run->taken_at());
    const Time wall =
        run->taken_at_wall() + std::chrono::duration_cast<Duration>(begin - run->taken_at());
    if (begin >= run->lease_until() &&
        run->advance(RunState::Phase::ready, RunState::Phase::ended)) {
      // This process may have been stopped for a while: another server may have run the task since.
      RunPtr next = slots.ready().done_and_pop();
      config.events.lapsed(std::move(run));
      return next;
    }
    const TaskRoute route = config.mux->route(run->message().task.type);
    const AttemptLimits limits = attempt_limits(run->message(), route.timeout, begin, wall);
    if (const std::string_view reason = too_late(run->message(), limits, begin, wall);
        !reason.empty() && run->withdraw()) {
      run->set_route(route);
      const Outcome outcome = outcome_of([&] { return Outcome::skip_retry(std::string{reason}); });
      RunPtr next = slots.ready().done_and_pop();
      config.events.finished(std::move(run), outcome, 0.5);
      return next;
    }
    if (!run->start(begin, limits.steady, limits.wall, worker.slot, route)) {
      RunPtr next = slots.ready().done_and_pop();
      config.events.skipped();
      return next;
    }
    slots.note_begin(worker.slot, begin);
    config.events.started(*run);
    const Outcome outcome = attempt(*config.mux, run);
    worker.free_since = config.clock->steady_now();
    if (!run->end(worker.free_since)) {
      worker.given_up = true;
      return nullptr;
    }
    slots.note_pace(worker.free_since - begin);
    // Before the outcome is handed on, so that a thread that it wakes sees which workers are free.
    RunPtr next = slots.ready().done_and_pop();
    config.events.finished(std::move(run), outcome, worker.random.unit());
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
