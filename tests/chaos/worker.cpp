#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <set>
#include <string>

#include "roles.hpp"
#include "taskmux/redis/redis_broker.hpp"
#include "taskmux/signals.hpp"
#include "taskmux/taskmux.hpp"

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

Logger logger() {
  return {LogLevel::info, [](LogLevel level, std::string_view text) {
            std::fprintf(stderr, "%.6f %s: %.*s\n", static_cast<double>(now().count()) / 1e6,
                         to_string(level).data(), static_cast<int>(text.size()), text.data());
          }};
}

/// One attempt at a task, from its start to its end in the ledger.
class Attempt {
 public:
  Attempt(LedgerWriter& ledger, std::int64_t number, const Context& context)
      : ledger_{ledger}, number_{number}, id_{context.task_id()} {
    ledger_.write(EventKind::start, id_, number_, std::to_string(context.retry_count()));
  }

  Outcome succeed() {
    ledger_.write(EventKind::good, id_, number_);
    return Outcome::success();
  }
  Outcome fail() {
    ledger_.write(EventKind::bad, id_, number_);
    return Outcome::fail("failed on purpose");
  }
  Outcome skip() {
    ledger_.write(EventKind::bad, id_, number_);
    return Outcome::skip_retry("skipped on purpose");
  }
  Outcome snooze(Duration delay) {
    ledger_.write(EventKind::later, id_, number_);
    return Outcome::snooze(delay);
  }
  Outcome stop(StopReason reason) {
    ledger_.write(EventKind::stopped, id_, number_, to_string(reason));
    return Outcome::fail("stopped: " + std::string{to_string(reason)});
  }

 private:
  LedgerWriter& ledger_;
  const std::int64_t number_;
  const std::string id_;
};

Duration length_of(WorkKind kind, std::string_view id) {
  const auto varied = static_cast<std::int64_t>(std::hash<std::string_view>{}(id) % 1000);
  switch (kind) {
    case WorkKind::medium:
    case WorkKind::unique:
    case WorkKind::once: return std::chrono::milliseconds{10 + varied % 20};
    case WorkKind::slow: return std::chrono::milliseconds{1000 + varied};
    default: return 0ms;
  }
}

/// Works for `length`, in steps, so that a pause of the process makes it end later. Returns false
/// if it was asked to stop.
bool work(const Context& context, Duration length) {
  constexpr Duration step = 20ms;
  for (; length > step; length -= step) {
    if (!context.wait_for(step)) return false;
  }
  return context.wait_for(length);
}

class Handlers {
 public:
  explicit Handlers(LedgerWriter& ledger) : ledger_{ledger} {}

  Outcome handle(Context& context, const Task& task) {
    Attempt attempt{ledger_, ++runs_, context};
    const WorkKind kind = work_kind(task.type);
    if (kind == WorkKind::poison) std::abort();
    const Duration length = length_of(kind, context.task_id());
    if (length > 0ms && !work(context, length)) return attempt.stop(context.stop_reason());
    switch (kind) {
      case WorkKind::flaky:
        return context.retry_count() < flaky_failures ? attempt.fail() : attempt.succeed();
      case WorkKind::doomed: return attempt.fail();
      case WorkKind::skip: return attempt.skip();
      case WorkKind::snooze:
        return first_sight_of(context.task_id()) ? attempt.snooze(300ms) : attempt.succeed();
      case WorkKind::result: context.set_result(result_of(context.task_id())); [[fallthrough]];
      default: return attempt.succeed();
    }
  }

 private:
  /// Returns whether this process has not snoozed the task yet.
  bool first_sight_of(std::string_view id) {
    const std::lock_guard lock{mutex_};
    return snoozed_.emplace(id).second;
  }

  LedgerWriter& ledger_;
  std::atomic<std::int64_t> runs_{0};
  std::mutex mutex_;
  std::set<std::string> snoozed_;
};

ServerConfig config_of(const WorkerSettings& settings, LedgerWriter& ledger) {
  ServerConfig config;
  config.concurrency = settings.concurrency;
  config.queues = {{"default", 3}, {"low", 1}};
  config.retry_policy = FixedDelay{200ms};
  config.shutdown_timeout = 1s;
  config.abandon_after = 2s;
  config.lease = lease;
  config.max_crashes = settings.max_crashes;
  config.heartbeat_interval = 1s;  // A killed server's record remains for twice as long.
  config.upkeep_interval = 1s;
  config.logger = logger();
  config.hooks.on_state_change = [&ledger](const TaskEvent& event) {
    if (event.change == TaskEvent::Change::started) return;
    std::string change{to_string(event.change)};
    if (!event.error.empty()) change += " " + event.error;
    ledger.write(EventKind::settled, event.task->id, event.attempt, change);
  };
  return config;
}

/// Starts `server`, however long Redis is unavailable; returns false if a signal arrived first.
bool start(Server& server, const SignalWaiter& signals) {
  for (;;) {
    try {
      server.start();
      return true;
    } catch (const Error& error) {
      if (error.errc() != Errc::unavailable) throw;
    }
    if (signals.wait_for(50ms)) return false;
  }
}

}  // namespace

std::vector<std::string> WorkerSettings::arguments() const {
  return {worker_role,
          url,
          ledger.string(),
          name,
          std::to_string(concurrency),
          std::to_string(max_crashes)};
}

int run_worker(const std::vector<std::string>& arguments) {
  const WorkerSettings settings{.url = arguments.at(1),
                                .ledger = arguments.at(2),
                                .name = arguments.at(3),
                                .concurrency = std::stoul(arguments.at(4)),
                                .max_crashes = std::stoi(arguments.at(5))};
  const rlimit no_core{0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  const SignalWaiter signals{SIGTERM};

  LedgerWriter ledger{settings.ledger, settings.name};
  RedisOptions options = parse_redis_url(settings.url);
  options.command_timeout = command_timeout;
  options.connect_timeout = command_timeout;
  options.logger = logger();
  RedisBroker broker{options};
  Handlers handlers{ledger};
  ServeMux mux;
  mux.not_found([&](Context& context, const Task& task) { return handlers.handle(context, task); });
  Server server{broker, std::move(mux), config_of(settings, ledger)};
  if (!start(server, signals)) return 0;
  signals.wait();
  server.shutdown();
  return 0;
}

}  // namespace taskmux::chaos
