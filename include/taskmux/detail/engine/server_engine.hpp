#pragma once

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "taskmux/detail/base/earlier.hpp"
#include "taskmux/detail/base/error_text.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/detail/base/uuid.hpp"
#include "taskmux/detail/engine/archive_trimmer.hpp"
#include "taskmux/detail/engine/engine_events.hpp"
#include "taskmux/detail/engine/fetcher.hpp"
#include "taskmux/detail/engine/health_monitor.hpp"
#include "taskmux/detail/engine/lease_keeper.hpp"
#include "taskmux/detail/engine/loop_thread.hpp"
#include "taskmux/detail/engine/notifier.hpp"
#include "taskmux/detail/engine/queue_picker.hpp"
#include "taskmux/detail/engine/settler.hpp"
#include "taskmux/detail/engine/slots.hpp"
#include "taskmux/detail/engine/thread_runner.hpp"
#include "taskmux/detail/engine/unserved_queues.hpp"
#include "taskmux/detail/engine/upkeep.hpp"
#include "taskmux/detail/engine/watchdog.hpp"
#include "taskmux/detail/run/log_records.hpp"
#include "taskmux/detail/run/run_registry.hpp"
#include "taskmux/detail/run/task_events.hpp"
#include "taskmux/detail/run/task_rules.hpp"
#include "taskmux/registry.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// Of a running task, for a heartbeat: at least what a broker keeps of it (see Registry::announce()).
inline constexpr std::size_t most_shown_of_payload = 8192;

/// More threads than a process can have are not meant: -1, perhaps, or a number that overflowed.
inline constexpr std::size_t most_workers = 32'768;

/// Throws std::invalid_argument for what a server can't work with.
inline void check_config(const ServerConfig& config, const ServeMux& mux, const Broker& broker) {
  const auto refuse_config = [](const std::string& why) {
    throw std::invalid_argument{"Server: " + why};
  };
  const auto check = [&](const char* name, Duration value, Duration least) {
    const std::string fault = fault_of(value, least);
    if (!fault.empty()) refuse_config(std::string{name} + ' ' + fault);
  };
  if (config.concurrency == 0) refuse_config("concurrency is 0");
  if (config.concurrency > most_workers) {
    refuse_config("concurrency is " + std::to_string(config.concurrency) + ", more than the " +
                  std::to_string(most_workers) + " threads that a server may have");
  }
  if (config.queues.empty()) refuse_config("no queue is given");
  for (const auto& [name, priority] : config.queues) {
    if (is_blank(name)) refuse_config("a queue name is blank");
    if (priority < 1) refuse_config("the priority of queue \"" + name + "\" is below 1");
  }
  if (mux.empty()) refuse_config("the mux has no handler");
  if (config.max_abandoned && *config.max_abandoned == 0) refuse_config("max_abandoned is 0");
  if (config.max_crashes < 1) refuse_config("max_crashes is below 1");
  check("shutdown_timeout", config.shutdown_timeout, Duration{0});
  check("abandon_after", config.abandon_after, Duration{0});
  if (const std::string fault = fault_of(config.lease, broker.shortest_lease()); !fault.empty()) {
    const std::string why =
        config.lease < broker.shortest_lease() ? broker.why_shortest_lease() : "";
    refuse_config("lease " + fault + (why.empty() ? "" : ", " + why));
  }
  check("heartbeat_interval", config.heartbeat_interval, std::chrono::milliseconds{1});
  check("upkeep_interval", config.upkeep_interval, std::chrono::milliseconds{1});
  check("archive.max_age", config.archive.max_age, Duration{0});
}

inline std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "unknown-host";
  return bounded_utf8(name.data(), name.size());
}

/// `config` as a server on `broker` works with it. Throws std::invalid_argument as check_config().
inline ServerConfig checked(ServerConfig config, const ServeMux& mux, const Broker& broker) {
  check_config(config, mux, broker);
  if (!config.logger.is_chosen()) config.logger = broker.logger();
  return config;
}

/// Puts the parts of a server together, starts and ends their threads, and turns what happens into
/// events. What is decided is decided in the parts.
class ServerEngine final : private EngineEvents {
 public:
  using EngineEvents::RunPtr;

  ServerEngine(Broker& broker, ServeMux mux, ServerConfig config)
      : broker_{broker},
        config_{checked(std::move(config), mux, broker)},
        mux_{std::make_shared<ServeMux>(std::move(mux))},
        environment_{std::make_shared<RunEnvironment>(clock_or_system(config_.clock),
                                                      config_.logger, config_.max_result_bytes)} {}

  ServerEngine(const ServerEngine&) = delete;
  ServerEngine& operator=(const ServerEngine&) = delete;

  ~ServerEngine() {
    try {
      shutdown();
    } catch (const std::exception& e) {
      tell(LogLevel::error, e.what());
    }
    environment_->log.close();
  }

  void start() TASKMUX_EXCLUDES(mutex_) {
    if (!at_home()) throw Error{Errc::forked, "start: this server was made before fork()"};
    {
      MutexLock lock{mutex_};
      if (phase_ != Phase::made)
        throw Error{Errc::wrong_state, "start: this server was started or shut down before"};
      if (stopped_)
        throw Error{Errc::wrong_state, "start: this server was stopped before it was started"};
      phase_ = Phase::starting;
    }
    OpenReply opened;
    try {
      opened = broker_.open(queues_);
      fetcher_.set_watch(broker_.watch(queues_, [this](const Hint& hint) { heed(hint); }));
    } catch (...) {
      set_phase(Phase::made);
      throw;
    }
    try {
      start_threads();
    } catch (...) {
      stop();
      end_threads();
      set_phase(Phase::ended);
      throw;
    }
    set_phase(Phase::running);
    surely([&] { tell_start(opened); });
  }

  /// Whether this process is the one that made it.
  bool at_home() const noexcept { return ::getpid() == pid_; }

  void stop() noexcept {
    if (!at_home()) return;
    fetcher_.stop_taking();
    stopped_ = true;
  }

  void shutdown() TASKMUX_EXCLUDES(mutex_) {
    if (!at_home()) throw Error{Errc::forked, "shutdown: this server was made before fork()"};
    if (on_own_thread())
      throw Error{Errc::wrong_state, "shutdown: called from a handler or hook of this server"};
    {
      MutexLock lock{mutex_};
      while (phase_ == Phase::starting || phase_ == Phase::ending) lock.wait(phase_changed_);
      if (phase_ == Phase::made) phase_ = Phase::ended;
      if (phase_ == Phase::ended) return;
      phase_ = Phase::ending;
    }
    // Nothing below throws: other threads that wait here must not wait for ever.
    stop();
    end_runs();
    end_threads();
    retire();
    tell(LogLevel::info, "shut down");
    set_phase(Phase::ended);
  }

  void run(std::stop_token stop_asked) {
    start();
    Waker waker;
    const std::stop_callback wake{stop_asked, [&waker] { waker.notify(); }};
    while (!stop_asked.stop_requested()) environment_->clock->wait(waker, std::nullopt);
    shutdown();
  }

  ServerStats stats() const {
    if (!at_home()) throw Error{Errc::forked, "stats: this server was made before fork()"};
    const SettlerCounts& counts = settler_.counts();
    const ReadyQueue::Load load = slots_->load();
    return {.running = load.busy,
            .ready = load.ready,
            .unsettled = settler_.unsettled(),
            .abandoned = slots_->hung(),
            .alone = fetcher_.alone(),
            .taken = fetcher_.taken(),
            .succeeded = counts.of(SettleAction::complete),
            .revoked = counts.of(SettleAction::remove),
            .retried = counts.of(SettleAction::retry),
            .archived = counts.of(SettleAction::archive),
            .given_back = counts.of(SettleAction::give_back),
            .snoozed = counts.of(SettleAction::snooze),
            .stale = counts.stale.load(std::memory_order_relaxed),
            .rejected = counts.rejected.load(std::memory_order_relaxed),
            .recovered = counts.recovered.load(std::memory_order_relaxed),
            .exchanges = fetcher_.exchanges(),
            .unknown_types = unknown_types_.load(std::memory_order_relaxed),
            .broker_errors = health_.broker_errors(),
            .hooks_dropped = notifier_.dropped(),
            .evicted = trimmer_.evicted()};
  }

  Health health() const TASKMUX_EXCLUDES(mutex_) {
    if (!at_home()) return {false, "made before fork()"};
    {
      MutexLock lock{mutex_};
      if (stopped_ || phase_ == Phase::ended) return {false, "stopped"};
      if (phase_ == Phase::made || phase_ == Phase::starting) return {false, "not started"};
    }
    return health_.health();
  }
  const std::string& id() const noexcept { return id_; }

  /// Whether it can be destroyed: not in a child process, where its threads are missing and its locks
  /// may be held for ever, nor on one of its own threads, which can't wait for itself.
  bool can_end() const { return at_home() && !on_own_thread(); }

  /// For the end of the process by std::exit() on a thread of this server, which has static storage
  /// then: lets no thread go on that uses the broker, since that may be destroyed next, and waits for
  /// no handler. Calls under way have a second. What was not recorded is found as the runs of a lost
  /// worker are.
  void abandon() noexcept {
    if (!at_home()) return;
    try {
      stop();
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds{1};
      for (CallLimit* const limit : {&limit_, &side_limit_, &hook_limit_}) limit->set(end);
      environment_->log.shut();
      for (LoopThread* const thread :
           {&upkeeping_, &watching_, &exchanging_, &extending_, &notifying_})
        thread->stop();
      fetcher_.drop_watch();
    } catch (...) {
      // The process is ending; the error can be reported to nobody.
    }
  }

 private:
  enum class Phase { made, starting, running, ending, ended };

  /// While one lives, broker calls of its thread go by a limit; then by `after`, if that is not null.
  class Limited {
   public:
    Limited(Broker& broker, const CallLimit& limit, const CallLimit* after = nullptr)
        : broker_{broker}, after_{after} {
      broker_.limit_calls_of_this_thread(&limit);
    }
    ~Limited() { broker_.limit_calls_of_this_thread(after_); }
    Limited(const Limited&) = delete;
    Limited& operator=(const Limited&) = delete;

   private:
    Broker& broker_;
    const CallLimit* const after_;
  };

  void tell(LogLevel level, std::string_view what) const noexcept {
    config_.logger({.level = level, .text = what, .server = id_});
  }

  void tell_start(const OpenReply& opened) const {
    if (!config_.logger.enabled(LogLevel::info)) return;
    std::string text = "started: queues";
    std::string_view separator = " ";
    for (const auto& [name, priority] : config_.queues) {
      text.append(separator).append(in_quotes(name));
      text.append(" (priority ").append(std::to_string(priority)).append(")");
      separator = ", ";
    }
    if (config_.strict_priority) text += ", strictly";
    text += "; concurrency " + std::to_string(config_.concurrency);
    text += "; broker: " + broker_.describe();
    separator = "; nothing was ever enqueued to ";
    for (const std::string& name : opened.never_used) {
      text.append(separator).append(in_quotes(name));
      separator = ", ";
    }
    tell(LogLevel::info, text);
  }

  std::vector<std::string> queue_names() const {
    std::vector<std::string> names;
    for (const auto& queue : config_.queues) names.push_back(queue.first);
    return names;
  }

  void set_phase(Phase phase) TASKMUX_EXCLUDES(mutex_) {
    {
      MutexLock lock{mutex_};
      phase_ = phase;
    }
    phase_changed_.notify_all();
  }

  // --- starting and ending ---

  void start_threads() {
    started_at_ = environment_->clock->now();
    const auto within = [this](const CallLimit& limit) {
      return [this, &limit] {
        broker_.limit_calls_of_this_thread(&limit);
        if (config_.on_thread_start) config_.on_thread_start();
      };
    };
    notifying_.start(within(hook_limit_), signal_mask());  // Hooks are the application's code.
    watching_.start(config_.on_thread_start);
    extending_.start(within(limit_));
    upkeeping_.start(within(side_limit_));
    runner_.start();
    exchanging_.start(within(limit_));
  }

  /// Takes a step of the shutdown; false if it throws, which is logged: the other steps must follow.
  template <typename Step>
  bool surely(Step step) const noexcept {
    try {
      step();
      return true;
    } catch (...) {
      log_exception(config_.logger, "a step of the server failed");
      return false;
    }
  }

  /// The same of a step that the end of the threads depends on: one that fails, for lack of memory, is
  /// repeated for some time. It must not matter how often it is taken.
  template <typename Step>
  void persistently(Step step) const noexcept {
    for (int left = 100; !surely(step) && left > 0; --left)
      std::this_thread::sleep_for(std::chrono::milliseconds{10});
  }

  /// Ends what runs: lets it finish, then asks it to stop, then puts it back.
  void end_runs() noexcept {
    persistently([this] { fetcher_.close(); });
    if (wait_until_idle(config_.shutdown_timeout)) return;
    persistently([this] { ask_to_stop(); });
    watching_.wake();
    if (wait_until_idle(config_.abandon_after)) return;
    watching_.stop();  // Would give them up too, and replace their threads.
    persistently([this] {
      for (const RunPtr& run : running()) watchdog_.give_up(run, false);
    });
  }

  void ask_to_stop() {
    const SteadyTime now = environment_->clock->steady_now();
    for (const RunPtr& run : registry_.select([](const RunState& each) {
           return each.phase() == RunState::Phase::starting ||
                  each.phase() == RunState::Phase::running;
         })) {
      run->request_stop(StopReason::shutdown, now);
    }
  }

  std::vector<RunPtr> running() const {
    return registry_.select(
        [](const RunState& run) { return run.phase() == RunState::Phase::running; });
  }

  bool wait_until_idle(Duration limit) noexcept {
    const SteadyTime until = environment_->clock->steady_now() + limit;
    while (slots_->load().busy > 0) {
      if (environment_->clock->steady_now() >= until) return false;
      persistently([&] { environment_->clock->wait(idle_, until); });
    }
    return true;
  }

  /// Ends the threads in the order in which they hand things on, so that nothing is left between two.
  /// The broker has as long as a lease lasts for all of it, since later outcomes would come too late
  /// anyway; what is not about outcomes has a second, and hooks have their own time after all that.
  void end_threads() noexcept {
    const auto now = std::chrono::steady_clock::now();
    limit_.set(now + config_.lease);
    side_limit_.set(now + std::min<Duration>(config_.lease, std::chrono::seconds{1}));
    const SteadyTime until = environment_->clock->steady_now() + config_.lease;
    upkeeping_.stop();
    watching_.stop();
    runner_.join();
    exchanging_.stop();
    surely([this] { fetcher_.drop_watch(); });
    surely([this, until] { flush(until); });
    extending_.stop();
    end_hooks();
  }

  void retire() noexcept {
    const Limited limited{broker_, limit_};
    try {
      broker_.registry().retire(describe());
    } catch (const std::exception& e) {
      surely([&] {
        tell(LogLevel::warning, std::string{"its record was left to expire: "} + e.what());
      });
    }
  }

  /// Lets the host hear what came last, for as long as a handler would be waited for.
  void end_hooks() noexcept {
    hook_limit_.set(std::chrono::steady_clock::now() + config_.abandon_after);
    const SteadyTime until = environment_->clock->steady_now() + config_.abandon_after;
    while (notifier_.pending() > 0 && environment_->clock->steady_now() < until) {
      notifying_.wake();
      persistently([&] { environment_->clock->wait(idle_, until); });
    }
    notifier_.drop_rest();
    notifying_.stop();
    surely([this] { trimmer_.tell_rest(); });
  }

  /// Plays the exchanging role on this thread until the last outcomes are recorded, and what lost
  /// calls took is given back; until `until`, but for a second only for a call that most likely took
  /// nothing.
  void flush(SteadyTime until) {
    const Limited limited{broker_, limit_};
    const SteadyTime begin = environment_->clock->steady_now();
    const auto unfinished = [&] {
      const SteadyTime now = environment_->clock->steady_now();
      return (settler_.unsettled() > 0 && now < until) ||
             (fetcher_.owes() && now < std::min(until, begin + std::chrono::seconds{1}));
    };
    while (unfinished()) {
      std::optional<SteadyTime> next;
      persistently([&] { next = fetcher_.run_once(); });
      if (next && *next > environment_->clock->steady_now()) {
        persistently([&] { environment_->clock->wait(idle_, std::min(until, *next)); });
      }
    }
    if (const std::size_t lost = settler_.unsettled()) {
      tell(LogLevel::error,
           std::to_string(lost) + " outcomes could not be recorded; their tasks will run again");
    }
  }

  bool on_own_thread() const {
    return notifying_.is_current() || watching_.is_current() || extending_.is_current() ||
           upkeeping_.is_current() || exchanging_.is_current() || runner_.on_worker_thread();
  }

  // --- what the parts tell each other: EngineEvents, and hints of the broker ---

  void heed(const Hint& hint) {
    if (hint.kind == Hint::Kind::cancel) {
      lease_keeper_.cancel(hint.task_id, hint.queue);
      extending_.wake();
    } else {
      fetcher_.hint(hint.queue, hint.report);
      exchanging_.wake();
    }
  }

  std::optional<SteadyTime> exchange_turn() {
    const std::optional<SteadyTime> next = fetcher_.run_once();
    if (stopped_.load(std::memory_order_relaxed)) idle_.notify();
    return next;
  }

  void exchange_due() noexcept override { exchanging_.wake(); }
  void watch_due() noexcept override { watching_.wake(); }

  void skipped() noexcept override {
    exchanging_.wake();
    if (stopped_.load(std::memory_order_relaxed)) idle_.notify();
  }

  /// Goes back if it is still ours; the broker refuses it if it is not.
  void lapsed(RunPtr run) noexcept override {
    try {
      config_.logger(
          about(run->message(), LogLevel::info, "not started: its lease had already ended"));
      settler_.give_back(run);
    } catch (...) {
      registry_.remove(std::span{&run, 1});
      log_exception(config_.logger, "a run could not be given back");
    }
    skipped();
  }

  /// Must not fail: the handler is called even if its start can't be logged or passed to hooks.
  void started(const RunState& run) noexcept override {
    if (!run.route().known) unknown_types_.fetch_add(1, std::memory_order_relaxed);
    try {
      if (config_.logger.enabled(LogLevel::debug)) {
        config_.logger(about(run.message(), LogLevel::debug,
                             "attempt " + std::to_string(run.message().retried + 1) + " starts"));
      }
      if (!config_.hooks.on_state_change) return;
      post(event_of(TaskEvent::Change::started, run.run(), &run, run.route().pattern,
                    run.started_at()));
    } catch (...) {
      log_exception(config_.logger, "the start of a run could not be reported");
    }
  }

  void finished(RunPtr run, const Outcome& outcome, double random) noexcept override {
    try {
      settler_.finish(run, outcome, random);
    } catch (...) {
      // Out of memory. Nobody extends the run any more, and so it is found as a lost one is.
      registry_.remove(std::span{&run, 1});
      exchanging_.wake();  // For its worker is free.
      log_exception(config_.logger, "an outcome was lost");
    }
    if (stopped_.load(std::memory_order_relaxed)) idle_.notify();
  }

  bool wants_settled() const noexcept override { return wants_events_; }
  void settled(const Settlement& settlement, const RunState* run,
               std::string_view pattern) override {
    post(event_of(settlement, run, pattern, environment_->clock->steady_now()));
  }

  /// The host's hook, which the trimmer calls in the middle of its own broker calls; empty without one.
  std::function<void(const TaskInfo&)> before_evict() {
    if (!config_.hooks.before_evict) return {};
    return [this](const TaskInfo& task) {
      const Limited limited{broker_, hook_limit_, &side_limit_};
      config_.hooks.before_evict(task);
    };
  }

  void post(TaskEvent event) {
    if (!notifier_.has_room_for(bytes_of(event))) drop_payload(event);
    const std::size_t bytes = bytes_of(event);
    post_event(config_.hooks, std::move(event), [&](const auto& hook, const auto& shared) {
      post_call([&hook, shared] { hook(*shared); }, bytes);
    });
  }

  void post_call(std::function<void()> call, std::size_t bytes = 0) {
    if (notifier_.post(std::move(call), bytes)) notifying_.wake();
  }

  /// One thread calls hooks, then trims archives a little, which has a hook too, and then may look for
  /// queues without a server.
  std::optional<SteadyTime> notify_turn() {
    const std::optional<SteadyTime> more = notifier_.run_once();
    const Limited limited{broker_, side_limit_, &hook_limit_};
    const std::optional<SteadyTime> trim_next = trimmer_.run_once();
    const std::optional<SteadyTime> look_next = unserved_.run_once();
    if (more) return more;
    return earlier(trim_next, look_next);
  }

  ServerStatus status() const TASKMUX_EXCLUDES(mutex_) {
    MutexLock lock{mutex_};
    if (phase_ == Phase::ending) return ServerStatus::closed;
    return stopped_ ? ServerStatus::stopped : ServerStatus::active;
  }

  ServerInfo describe() const {
    ServerInfo info{.host = host_,
                    .pid = pid_,
                    .id = id_,
                    .concurrency = static_cast<int>(config_.concurrency),
                    .queues = config_.queues,
                    .strict_priority = config_.strict_priority,
                    .status = status(),
                    .started_at = started_at_};
    const SteadyTime now = environment_->clock->steady_now();
    const Time wall = environment_->clock->now();
    for (const RunPtr& run : running()) {
      const TaskMessage& message = run->message();
      const Task& task = message.task;
      Task shown{task.type, task.payload.substr(0, most_shown_of_payload), task.headers};
      info.workers.push_back({message.id, message.queue, std::move(shown),
                              wall - std::chrono::duration_cast<Duration>(now - run->started_at()),
                              run->deadline_wall()});
    }
    return info;
  }

  // Constant after construction.
  Broker& broker_;
  const ServerConfig config_;
  const bool wants_events_ = wants_task_events(config_.hooks);
  const std::vector<std::string> queues_ = queue_names();
  const int pid_ = ::getpid();
  const std::string host_ = host_name();
  const std::string id_ = UuidSource{}.next();

  // Shared with given-up threads, which may outlive the server.
  const std::shared_ptr<ServeMux> mux_;
  const std::shared_ptr<RunEnvironment> environment_;
  const std::shared_ptr<Slots> slots_ = std::make_shared<Slots>(
      config_.concurrency, config_.max_abandoned.value_or(config_.concurrency),
      environment_->clock);

  // Starting and ending.
  Time started_at_{};
  std::atomic<bool> stopped_{false};
  Waker idle_;            ///< For shutdown(): something has ended.
  CallLimit limit_;       ///< Of the broker calls that are about runs; set by shutdown().
  CallLimit side_limit_;  ///< Of all others of the server's own.
  CallLimit hook_limit_;  ///< Of those that hooks make.
  mutable Mutex mutex_;
  std::condition_variable phase_changed_;
  Phase phase_ TASKMUX_GUARDED_BY(mutex_) = Phase::made;

  // What hooks and statistics report.
  std::atomic<std::uint64_t> unknown_types_{0};
  Notifier notifier_{config_.logger, [this] {
                       if (stopped_.load(std::memory_order_relaxed)) idle_.notify();
                     }};
  HealthMonitor health_{config_.logger, [this](const Health& health) {
                          if (config_.hooks.on_health_change)
                            post_call([this, health] { config_.hooks.on_health_change(health); });
                        }};

  // The way of a run. Each refers to some of those above it.
  RunRegistry registry_;
  Settler settler_{{config_.retry_policy, config_.is_failure, config_.max_crashes, mux_},
                   registry_,
                   config_.logger,
                   *this};
  ThreadRunner runner_{{slots_, config_.on_thread_start, mux_, environment_->clock, *this}};
  Watchdog watchdog_{
      {registry_, *slots_, runner_, settler_, health_, config_.logger, environment_->clock, *this},
      config_.abandon_after};
  LeaseKeeper lease_keeper_{
      {broker_, registry_, settler_, health_, config_.logger, environment_->clock, *this},
      config_.lease};
  Fetcher fetcher_{{broker_, settler_, registry_, *slots_, health_, environment_,
                    [this] {
                      if (watchdog_.concerns(environment_->clock->steady_now())) watching_.wake();
                    }},
                   QueuePicker{config_.queues, config_.strict_priority},
                   config_.lease,
                   config_.max_crashes};

  // What a server does for its queues beside running tasks.
  ArchiveTrimmer trimmer_{{broker_, config_.logger, environment_->clock, before_evict(),
                           [this] { return stopped_.load(std::memory_order_relaxed); }},
                          queues_,
                          config_.archive};
  UnservedQueues unserved_{broker_, queues_, config_.logger, environment_->clock};
  Upkeep upkeep_{
      {broker_, settler_, registry_, health_, environment_->clock, [this] { return describe(); }},
      queues_,
      {config_.upkeep_interval, config_.heartbeat_interval, config_.lease}};

  // Threads last: they end first.
  LoopThread notifying_{"tmx-notify", environment_->clock, config_.logger,
                        [this] { return notify_turn(); }};
  LoopThread watching_{"tmx-watchdog", environment_->clock, config_.logger,
                       [this] { return watchdog_.run_once(); }};
  LoopThread extending_{"tmx-lease", environment_->clock, config_.logger,
                        [this] { return lease_keeper_.run_once(); }};
  LoopThread upkeeping_{"tmx-upkeep", environment_->clock, config_.logger,
                        [this] { return upkeep_.run_once(); }};
  LoopThread exchanging_{"tmx-exchange", environment_->clock, config_.logger,
                         [this] { return exchange_turn(); }};
};

}  // namespace detail

}  // namespace v0
}  // namespace taskmux
