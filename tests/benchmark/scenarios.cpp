#include "scenarios.hpp"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "taskmux/taskmux.hpp"

#if defined(TASKMUX_BENCH_REDIS)
#include "redis_requests.hpp"
#include "taskmux/redis/redis_broker.hpp"
#endif

namespace taskmux::bench {
namespace {

using namespace std::chrono_literals;
using SteadyClock = std::chrono::steady_clock;

constexpr const char* task_type = "bench:count";
constexpr auto patience = 30s;  ///< A scenario without progress for this time fails.

double seconds_of(SteadyClock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

double milliseconds_of(Duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

/// The CPU time of this process so far, in seconds.
double cpu_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

/// What has run how often, and when it began last. A task is known by the number at the head of its
/// payload.
class Tally {
 public:
  explicit Tally(std::size_t tasks) : tasks_(tasks) {}

  std::string payload(std::size_t number, std::size_t bytes) const {
    std::string text(bytes, 'x');
    const std::uint64_t head = number;
    std::memcpy(text.data(), &head, sizeof head);
    return text;
  }

  void count(const Task& task) {
    std::uint64_t number = tasks_.size();
    if (task.payload.size() >= sizeof number)
      std::memcpy(&number, task.payload.data(), sizeof number);
    if (number >= tasks_.size()) {
      ++strangers_;
    } else {
      tasks_[number].runs.fetch_add(1, std::memory_order_relaxed);
    }
  }

  /// Counts it with the time of its start.
  void count_start(const Task& task) {
    const auto now = std::chrono::system_clock::now();
    std::uint64_t number = 0;
    std::memcpy(&number, task.payload.data(), sizeof number);
    if (number < tasks_.size()) tasks_[number].started = std::chrono::floor<Duration>(now);
    count(task);
    last_started_ = static_cast<std::int64_t>(number);
    last_started_.notify_all();
  }

  /// Waits until the run of task `number` has begun, if tasks come one by one.
  void wait_for(std::size_t number) const {
    for (;;) {
      const std::int64_t last = last_started_;
      if (last == static_cast<std::int64_t>(number)) return;
      last_started_.wait(last);
    }
  }

  Time started(std::size_t number) const { return tasks_[number].started; }

  /// Throws unless every task ran exactly once.
  void check() const {
    std::size_t missed = 0;
    std::size_t repeated = 0;
    for (const Entry& entry : tasks_) {
      const std::uint32_t runs = entry.runs.load(std::memory_order_relaxed);
      if (runs == 0) ++missed;
      if (runs > 1) ++repeated;
    }
    if (missed + repeated + strangers_ == 0) return;
    throw std::runtime_error{"of " + std::to_string(tasks_.size()) + " tasks " +
                             std::to_string(missed) + " did not run, " + std::to_string(repeated) +
                             " ran more than once, " + std::to_string(strangers_) +
                             " were not ours"};
  }

 private:
  struct Entry {
    std::atomic<std::uint32_t> runs{0};
    Time started{};
  };

  std::vector<Entry> tasks_;
  std::atomic<std::size_t> strangers_{0};
  std::atomic<std::int64_t> last_started_{-1};
};

/// A broker with a queue to itself, which is deleted at the end.
class Stage {
 public:
  explicit Stage(const Options& options) : broker_{make(options)} {
    static std::atomic<int> count{0};
    if (!options.memory_broker())
      queue_ = "bench-" + std::to_string(::getpid()) + '-' + std::to_string(++count);
  }
  Stage(const Stage&) = delete;
  Stage& operator=(const Stage&) = delete;
  ~Stage() {
    try {
      broker_->queue_view().delete_queue(queue_, true);
    } catch (const Error&) {
      // Nothing was enqueued, or the broker is unavailable: then the scenario has failed already.
    }
  }

  Broker& broker() noexcept { return *broker_; }
  /// The equivalent of another process: the same queues through separate connections.
  std::unique_ptr<Broker> another_broker(const Options& options) const {
    return options.memory_broker() ? nullptr : make(options);
  }

  ClientConfig client_config() const {
    return {.defaults = {{task_type, TypeDefaults{.queue = queue_}}}};
  }

  ServerConfig server_config(const Options& options) const {
    return {.concurrency = options.concurrency, .queues = {{queue_, 1}}};
  }

 private:
  static std::unique_ptr<Broker> make(const Options& options) {
    if (options.memory_broker()) return std::make_unique<MemoryBroker>();
#if defined(TASKMUX_BENCH_REDIS)
    return std::make_unique<RedisBroker>(options.broker);
#else
    throw UsageError{"this program was built without Redis"};
#endif
  }

  const std::unique_ptr<Broker> broker_;
  std::string queue_ = "default";
};

ServeMux counting(Tally& tally) {
  ServeMux mux;
  mux.handle(task_type, [&tally](Context&, const Task& task) { tally.count(task); });
  return mux;
}

ServeMux timing(Tally& tally) {
  ServeMux mux;
  mux.handle(task_type, [&tally](Context&, const Task& task) { tally.count_start(task); });
  return mux;
}

void enqueue_one(Client& client, const Tally& tally, std::size_t number, std::size_t payload) {
  client.enqueue({.type = task_type, .payload = tally.payload(number, payload)});
}

void enqueue_range(Client& client, const Tally& tally, std::size_t from, std::size_t to,
                   const Options& options) {
  if (options.batch == 1) {
    for (; from < to; ++from) enqueue_one(client, tally, from, options.payload);
    return;
  }
  while (from < to) {
    std::vector<NewTask> batch(std::min(options.batch, to - from));
    for (NewTask& item : batch)
      item.task = {.type = task_type, .payload = tally.payload(from++, options.payload)};
    for (EnqueueResult& result : client.enqueue_all(std::move(batch))) {
      if (!result.accepted()) throw *std::move(result.error);
    }
  }
}

/// All tasks, shared out among the producers. Throws what one of them threw.
void enqueue_all(Client& client, const Tally& tally, const Options& options) {
  std::vector<std::exception_ptr> failures(options.producers);
  {
    std::vector<std::jthread> producers;
    for (std::size_t p = 0; p < options.producers; ++p) {
      producers.emplace_back([&, p] {
        const std::size_t from = options.tasks * p / options.producers;
        const std::size_t to = options.tasks * (p + 1) / options.producers;
        try {
          enqueue_range(client, tally, from, to, options);
        } catch (...) {
          failures[p] = std::current_exception();
        }
      });
    }
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

/// Waits until `tasks` tasks are settled; `count` returns how many are.
template <typename Count>
void wait_until_counted(Count count, std::size_t tasks) {
  std::uint64_t settled = 0;
  auto since = SteadyClock::now();
  for (;;) {
    const std::uint64_t now_settled = count();
    if (now_settled >= tasks) return;
    const auto now = SteadyClock::now();
    if (now_settled != settled) since = now;
    if (now - since > patience) {
      throw std::runtime_error{"nothing goes on: " + std::to_string(now_settled) + " of " +
                               std::to_string(tasks) + " tasks are settled"};
    }
    settled = now_settled;
    std::this_thread::sleep_for(500us);
  }
}

void wait_until_settled(const Server& server, std::size_t tasks) {
  wait_until_counted([&] { return server.stats().succeeded; }, tasks);
}

/// Wall and CPU time from its making until add_to().
class Stopwatch {
 public:
  void add_to(Report& report, std::size_t tasks) const {
    const double wall = seconds_of(SteadyClock::now() - started_at_);
    const double cpu = cpu_seconds() - cpu_before_;
    const auto count = static_cast<double>(tasks);
    report.tasks_per_s.push_back(count / wall);
    report.add("cpu_us_per_task", cpu * 1e6 / count);
  }

 private:
  const double cpu_before_ = cpu_seconds();
  const SteadyClock::time_point started_at_ = SteadyClock::now();
};

void add_stats(const Server& server, Report& report) {
  const ServerStats stats = server.stats();
  if (stats.exchanges > 0) {
    report.add("tasks_per_exchange",
               static_cast<double>(stats.taken) / static_cast<double>(stats.exchanges));
  }
  report.add("given_back", static_cast<double>(stats.given_back));
}

void enqueue(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  {
    Client client{stage.broker(), stage.client_config()};
    const Stopwatch stopwatch;
    enqueue_all(client, tally, options);
    stopwatch.add_to(report, options.tasks);
  }
  Server server{stage.broker(), counting(tally), stage.server_config(options)};
  server.start();
  wait_until_settled(server, options.tasks);
  server.shutdown();
  tally.check();
}

void process(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  {
    Client client{stage.broker(), stage.client_config()};
    enqueue_all(client, tally, options);
  }
  Server server{stage.broker(), counting(tally), stage.server_config(options)};
  const Stopwatch stopwatch;
  server.start();
  wait_until_settled(server, options.tasks);
  stopwatch.add_to(report, options.tasks);
  add_stats(server, report);
  server.shutdown();
  tally.check();
}

void throughput(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  Client client{stage.broker(), stage.client_config()};
  Server server{stage.broker(), counting(tally), stage.server_config(options)};
  server.start();
  const Stopwatch stopwatch;
  enqueue_all(client, tally, options);
  wait_until_settled(server, options.tasks);
  stopwatch.add_to(report, options.tasks);
  add_stats(server, report);
  server.shutdown();
  tally.check();
}

/// From before the enqueue to the start of the handler, of tasks that come after a pause.
void latency(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  Client client{stage.broker(), stage.client_config()};
  Server server{stage.broker(), timing(tally), stage.server_config(options)};
  server.start();
  for (std::size_t number = 0; number < options.tasks; ++number) {
    std::this_thread::sleep_for(2ms);
    const auto before = std::chrono::floor<Duration>(std::chrono::system_clock::now());
    enqueue_one(client, tally, number, options.payload);
    tally.wait_for(number);
    report.samples_ms.push_back(milliseconds_of(tally.started(number) - before));
  }
  wait_until_settled(server, options.tasks);
  server.shutdown();
  tally.check();
}

/// As latency, but many servers wait, and the next task comes whether or not the last has started.
void fleet(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  Client client{stage.broker(), stage.client_config()};
  std::vector<std::unique_ptr<Broker>> brokers;
  std::vector<std::unique_ptr<Server>> servers;
  for (std::size_t i = 0; i < options.servers; ++i) {
    brokers.push_back(stage.another_broker(options));
    Broker& broker = brokers.back() ? *brokers.back() : stage.broker();
    servers.push_back(
        std::make_unique<Server>(broker, timing(tally), stage.server_config(options)));
    servers.back()->start();
  }
  const auto sum_of = [&](auto count) {
    std::uint64_t sum = 0;
    for (const auto& server : servers) sum += count(server->stats());
    return sum;
  };
  const auto exchanges = [](const ServerStats& stats) { return stats.exchanges; };
  std::this_thread::sleep_for(500ms);  // Lets them become idle.
  const std::uint64_t exchanges_before = sum_of(exchanges);

  std::vector<Time> enqueued;
  const auto begin = SteadyClock::now();
  for (std::size_t number = 0; number < options.tasks; ++number) {
    std::this_thread::sleep_until(begin + std::chrono::nanoseconds{1s} * number / options.rate);
    enqueued.push_back(std::chrono::floor<Duration>(std::chrono::system_clock::now()));
    enqueue_one(client, tally, number, options.payload);
  }
  wait_until_counted(
      [&] { return sum_of([](const ServerStats& stats) { return stats.succeeded; }); },
      options.tasks);
  report.add("exchanges_per_task", static_cast<double>(sum_of(exchanges) - exchanges_before) /
                                       static_cast<double>(options.tasks));
  for (const auto& server : servers) server->shutdown();
  tally.check();
  for (std::size_t number = 0; number < options.tasks; ++number)
    report.samples_ms.push_back(milliseconds_of(tally.started(number) - enqueued[number]));
}

/// Spread over a second. The broker's clock and ours must be the same machine's.
void schedule(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  Client client{stage.broker(), stage.client_config()};
  Server server{stage.broker(), timing(tally), stage.server_config(options)};
  server.start();
  std::vector<Time> due;
  for (std::size_t number = 0; number < options.tasks; ++number) {
    const Duration spread = Duration{1s} * number / options.tasks;
    const EnqueueResult result =
        client.enqueue({.type = task_type, .payload = tally.payload(number, options.payload)},
                       {.process_in = Duration{300ms} + spread});
    due.push_back(result.process_at.value());
  }
  wait_until_settled(server, options.tasks);
  server.shutdown();
  tally.check();
  for (std::size_t number = 0; number < options.tasks; ++number)
    report.samples_ms.push_back(milliseconds_of(tally.started(number) - due[number]));
}

void idle(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{1};
  Server server{stage.broker(), counting(tally), stage.server_config(options)};
  server.start();
  std::this_thread::sleep_for(200ms);  // Lets it become idle.
#if defined(TASKMUX_BENCH_REDIS)
  const auto requests = [&]() -> std::optional<std::uint64_t> {
    return options.memory_broker() ? std::nullopt : redis_requests(options.broker);
  };
  const auto requests_before = requests();
#endif
  const double cpu_before = cpu_seconds();
  const auto begin = SteadyClock::now();
  std::this_thread::sleep_for(options.duration);
  const double cpu = cpu_seconds() - cpu_before;
  const double wall = seconds_of(SteadyClock::now() - begin);
#if defined(TASKMUX_BENCH_REDIS)
  if (const auto now = requests(); now && requests_before)
    report.add("requests_per_s", static_cast<double>(*now - *requests_before - 1) / wall);
#endif
  report.add("cpu_percent", cpu / wall * 100);
  server.shutdown();
}

/// What malloc has given out, in bytes.
std::size_t allocated() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

void memory(const Options& options, Report& report) {
  Stage stage{options};
  Tally tally{options.tasks};
  const std::size_t before = allocated();
  {
    Client client{stage.broker(), stage.client_config()};
    enqueue_range(client, tally, 0, options.tasks, options);
  }
  const std::size_t after = allocated();
  const auto each = static_cast<double>(after - before) / static_cast<double>(options.tasks);
  report.add("bytes_per_task_beside_payload", each - static_cast<double>(options.payload));
}

}  // namespace

Report run(const Options& options) {
  Report report;
  for (std::size_t i = 0; i < options.repeat; ++i) {
    switch (options.scenario) {
      case Scenario::enqueue: enqueue(options, report); break;
      case Scenario::process: process(options, report); break;
      case Scenario::throughput: throughput(options, report); break;
      case Scenario::latency: latency(options, report); break;
      case Scenario::fleet: fleet(options, report); break;
      case Scenario::schedule: schedule(options, report); break;
      case Scenario::idle: idle(options, report); break;
      case Scenario::memory: memory(options, report); break;
    }
  }
  report.checked = options.scenario != Scenario::idle && options.scenario != Scenario::memory;
  return report;
}

}  // namespace taskmux::bench
