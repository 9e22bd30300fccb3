/// Indexes directories: hashes every text file and counts its words, with one task per file. Shows
/// taskmux with real input and real failures: in addition to the given directories, it indexes one
/// that it fills with files that can't be read, or not yet.
///
/// `indexer --help` prints the usage.
///
/// It demonstrates:
/// - a task that enqueues tasks with ids of its own, so that running it twice does no harm;
/// - handlers that distinguish permanent failures (skip_retry) from temporary ones (fail,
///   retry_after);
/// - results that are stored with the tasks: a task may run twice, but only one run is recorded, so
///   nothing is counted twice, whichever process ran it, and handlers share no state;
/// - how an application shows the state of its queue by Inspector, statistics and hooks, and
///   directs the log lines of its server to its own output;
/// - how an application that handles signals itself shuts a server down.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <taskmux/signals.hpp>
#include <taskmux/taskmux.hpp>
#include <utility>
#include <vector>
#ifdef INDEXER_WITH_REDIS
#include <taskmux/redis/redis_broker.hpp>
#endif

#include "indexer/display.hpp"
#include "indexer/files.hpp"
#include "indexer/serial_count.hpp"
#include "indexer/text_index.hpp"
#include "indexer/trouble.hpp"

namespace indexer {
namespace {

using namespace std::chrono_literals;
using namespace taskmux;

struct Options {
  std::string broker = "memory";
  std::size_t concurrency = hardware_concurrency();
  std::size_t limit = 1500;  ///< The maximum number of files per directory.
  std::vector<std::string> directories{};
};

/// Enqueues a task for each file of the directory that the payload names.
class ScanHandler : public TaskHandler {
 public:
  ScanHandler(Client& client, std::size_t limit) : client_{client}, limit_{limit} {}

  Outcome handle(Context& context, const Task& task) override {
    std::vector<NewTask> batch;
    for (const std::string& path : list_files(task.payload, limit_)) {
      // The id is derived from the path. So if this scan fails halfway and is retried, or if two
      // directories overlap, the broker refuses the tasks that it already has, and each file is
      // indexed once.
      batch.push_back({{.type = "index:file", .payload = path},
                       {.queue = std::string{context.queue()},
                        .task_id = std::to_string(fnv1a(path)),
                        .max_retry = 3,
                        .timeout = 1min,
                        .retention = 1h}});  // Kept with its result until the result has been read.
      if (batch.size() == 250) enqueue(std::exchange(batch, {}));
      if (context.stop_requested()) return Outcome::fail("stopped half-way");
    }
    enqueue(std::move(batch));
    return Outcome::success();
  }

 private:
  void enqueue(std::vector<NewTask> batch) {
    for (const EnqueueResult& result : client_.enqueue_all(std::move(batch))) {
      if (result.error && result.error->errc() != Errc::task_id_conflict) throw *result.error;
    }
  }

  Client& client_;
  const std::size_t limit_;
};

/// A file that was modified less than this ago may still be being written.
constexpr auto quiet_time = 500ms;

/// Indexes the file whose path is the payload; the result is the text that index_text() returns.
Outcome index_file(Context& context, const Task& task) try {
  InputFile file{task.payload};
  const Look before = file.look();
  if (!before.regular) return Outcome::skip_retry("not a regular file");
  if (before.size > largest_file) {
    return Outcome::skip_retry(std::to_string(before.size) + " bytes are too large");
  }
  std::string text = file.read(largest_file);
  const std::chrono::nanoseconds age =
      std::chrono::system_clock::now().time_since_epoch() - before.modified;
  if (file.look() != before || (age >= 0s && age < quiet_time)) {
    return Outcome::retry_after(quiet_time + 100ms, "still growing");
  }
  if (!is_utf8(text)) return Outcome::skip_retry("not UTF-8");
  context.set_result(index_text(std::move(text)));
  return Outcome::success();
} catch (const std::system_error& error) {
  // No retry fixes an endless symlink. An I/O error may be temporary, so it is retried by the
  // server's policy, and becomes a dead letter if it persists. Other exceptions are failures, too.
  const std::error_code code = error.code();
  const bool hopeless = code == std::errc::too_many_symbolic_link_levels ||
                        code == std::errc::no_such_file_or_directory ||
                        code == std::errc::permission_denied;
  return hopeless ? Outcome::skip_retry(error.what()) : Outcome::fail(error.what());
}

/// How long tasks waited and ran, according to the server's events. Used by one thread at a time:
/// the thread of the hooks, and the main thread once the server has ended.
class Times {
 public:
  void add(const TaskEvent& event) {
    if (event.change == TaskEvent::Change::started) {
      waited_.push_back(event.waited);
    } else {
      ran_.push_back(event.ran);
    }
  }

  void print() {
    print("waited in line", waited_);
    print("in its handler", ran_);
  }

 private:
  static void print(const char* what, std::vector<Duration>& times) {
    if (times.empty()) return;
    std::sort(times.begin(), times.end());
    const auto at = [&](std::size_t percent) {
      return std::chrono::duration<double, std::milli>{times[(times.size() - 1) * percent / 100]}
          .count();
    };
    std::printf("%-14s%12.1f ms (half of the attempts: no longer), %.1f ms (99 of 100)\n", what,
                at(50), at(99));
  }

  std::vector<Duration> waited_;
  std::vector<Duration> ran_;
};

/// What the broker reports once all is done.
struct Report {
  Totals totals{};
  std::uint64_t retries = 0;
  std::vector<TaskInfo> late{};  ///< Succeeded, but not at the first attempt.
  std::vector<TaskInfo> dead_letters{};
};

/// Adds up the results of the tasks for which `counts` returns true.
Report collect(Broker& broker, const std::string& queue,
               const std::function<bool(const TaskInfo&)>& counts) {
  Report report;
  Inspector inspector{broker};
  taskmux::ListRequest request{.queue = queue, .state = TaskState::completed, .limit = 500};
  do {
    taskmux::TaskPage page = inspector.list(request);
    for (const TaskInfo& task : page.tasks) {
      if (counts(task)) report.totals.add(task.result);
      report.retries += static_cast<std::uint64_t>(task.retried);
      if (task.retried > 0) report.late.push_back(task);
    }
    request.cursor = std::move(page.next);
  } while (!request.cursor.empty());
  DeadLetterQueue dead_letters{broker, queue};
  report.dead_letters = dead_letters.list({}, dead_letters.count());
  for (const TaskInfo& task : report.dead_letters) {
    report.retries += static_cast<std::uint64_t>(task.retried);
  }
  return report;
}

unsigned long long number(std::uint64_t value) { return value; }

/// Prints the figures of the run.
void print(const QueueInfo& info, const ServerStats& stats, Times& times,
           std::chrono::duration<double> took) {
  const std::uint64_t ended = info.processed_total - stats.retried;
  std::printf("tasks         %12llu in %.2f s: %.0f a second\n", number(ended), took.count(),
              static_cast<double>(ended) / took.count());
  std::printf("attempts      %12llu, of which %llu failed: %llu tried again, %llu given up\n",
              number(info.processed_total), number(info.failed_total), number(stats.retried),
              number(stats.archived));
  times.print();
}

void print(const Report& report) {
  const Totals& totals = report.totals;
  std::printf(
      "\nfiles         %12llu\nbytes         %12llu\nwords         %12llu\ndistinct words%12zu\n",
      number(totals.files), number(totals.bytes), number(totals.words), totals.counts.size());
  std::printf("\ntop words\n");
  for (const auto& [word, count] : totals.top_words(10)) {
    std::printf("%14llu  %s\n", number(count), word.c_str());
  }
  const auto print_tasks = [](const char* title, const std::vector<TaskInfo>& tasks) {
    std::printf("\n%s: %zu\n", title, tasks.size());
    for (const TaskInfo& task : tasks) {
      std::printf("  %s: %s (attempt %d)\n", task.task.payload.c_str(), task.last_error.c_str(),
                  task.retried + 1);
    }
  };
  print_tasks("indexed at a later attempt", report.late);
  print_tasks("dead letters", report.dead_letters);
}

/// Returns the state of the files that are to be indexed.
Snapshot look_at_files(const Options& options) {
  Snapshot snapshot;
  for (const std::string& directory : options.directories) {
    for (const std::string& path : list_files(directory, options.limit)) {
      snapshot.emplace(path, look_at(path));
    }
  }
  return snapshot;
}

/// Returns whether the queue produced the same result as a plain loop over the same files; prints
/// the differences.
bool check(const Report& report, const SerialCount& serial, std::size_t dead_letters) {
  if (!serial.changed.empty()) {
    std::printf("\n%zu files changed meanwhile, and are left out of both counts\n",
                serial.changed.size());
  }
  const auto compare = [](const char* what, std::uint64_t queue, std::uint64_t plain) {
    if (queue == plain) return;
    std::printf("  %s: %llu by the queue, %llu by a plain serial count\n", what, number(queue),
                number(plain));
  };
  if (report.totals == serial.totals && dead_letters == serial.rejected) {
    std::printf("\nequal to a plain serial count\n");
    return true;
  }
  std::printf("\nDIFFERENT from a plain serial count\n");
  compare("files", report.totals.files, serial.totals.files);
  compare("bytes", report.totals.bytes, serial.totals.bytes);
  compare("words", report.totals.words, serial.totals.words);
  compare("hashes", report.totals.hashes, serial.totals.hashes);
  compare("distinct words", report.totals.counts.size(), serial.totals.counts.size());
  compare("dead letters", dead_letters, serial.rejected);
  return false;
}

/// Returns the state of the queue as one line.
std::string describe(const QueueInfo& info) {
  constexpr std::size_t width = 12;
  const std::size_t all = info.size();
  const std::size_t done = info.completed + info.archived;
  const std::size_t full = all == 0 ? 0 : done * width / all;
  const auto part = [](const char* name, std::uint64_t count) {
    return ' ' + std::string{name} + ' ' + std::to_string(count);
  };
  return '[' + std::string(full, '#') + std::string(width - full, '.') + "] " +
         std::to_string(done) + '/' + std::to_string(all) + part("pending", info.pending) +
         part("active", info.active) + part("retry", info.retry + info.scheduled) +
         part("failed", info.failed_total) + part("dead", info.archived);
}

/// Waits until no task is left that will still run; returns false if a signal arrived first.
bool wait_until_done(Broker& broker, const std::string& queue, const SignalWaiter& signals,
                     Display& display) {
  using Clock = std::chrono::steady_clock;
  auto interval = display.live() ? 50ms : 1000ms;
  Inspector inspector{broker};
  Clock::time_point next_line = Clock::now() + interval;
  for (;;) {
    // A scan counts as unfinished until it has enqueued its files, so 0 means that all is done.
    const QueueInfo info = inspector.queue_info(queue);
    const std::size_t unfinished = info.pending + info.active + info.scheduled + info.retry;
    if (Clock::now() >= next_line || unfinished == 0) {
      display.show(describe(info));
      next_line = Clock::now() + interval;
      // Plain lines become less frequent over time.
      if (!display.live()) interval = std::min<std::chrono::milliseconds>(2 * interval, 10s);
    }
    const bool interrupted = unfinished > 0 && signals.wait_for(50ms).has_value();
    if (!interrupted && unfinished > 0) continue;
    display.clear();
    return !interrupted;
  }
}

std::unique_ptr<Broker> make_broker(const std::string& name) {
  if (name == "memory") return std::make_unique<MemoryBroker>();
#ifdef INDEXER_WITH_REDIS
  return std::make_unique<RedisBroker>(name);
#else
  throw std::invalid_argument{"--broker " + name +
                              ": this program was built without taskmux::redis"};
#endif
}

int run(Options options) {
  const SignalWaiter signals;  // Before there are threads.
  TroubleDirectory trouble;
  options.directories.insert(options.directories.begin(), trouble.path());

  // On Redis, other instances of this program may be running: each has its own queue.
  const std::string queue = "indexer-" + std::to_string(std::random_device{}());
  const std::unique_ptr<Broker> broker = make_broker(options.broker);
  Client client{*broker};
  Display display;
  Times times;

  ServeMux mux;
  mux.handle("index:scan", std::make_unique<ScanHandler>(client, options.limit));
  mux.handle("index:file", index_file);
  Server server{*broker,
                std::move(mux),
                {.concurrency = options.concurrency,
                 .queues = {{queue, 1}},
                 .retry_policy = ExponentialBackoff{.initial = 50ms, .max = 1s},
                 .hooks = {.on_failure =
                               [&](const TaskEvent& event) {
                                 if (event.task->task.payload == trouble.growing_file())
                                   trouble.stop_growing();
                               },
                           .on_state_change = [&](const TaskEvent& event) { times.add(event); }},
                 .logger = {LogLevel::warning, [&](LogLevel level, std::string_view text) {
                              display.log(std::string{to_string(level)} + ": " + std::string{text});
                            }}}};

  const Snapshot snapshot = look_at_files(options);
  display.log("indexing " + std::to_string(snapshot.size()) + " files, with " +
              std::to_string(options.concurrency) + " handlers at once");
  const auto began = std::chrono::steady_clock::now();
  for (const std::string& directory : options.directories) {
    client.enqueue({.type = "index:scan", .payload = directory}, {.queue = queue, .max_retry = 3});
  }
  server.start();
  const bool done = wait_until_done(*broker, queue, signals, display);
  server.shutdown();  // After a signal: waits for handlers, gives unfinished tasks back.
  const auto took = std::chrono::steady_clock::now() - began;

  // Files that other programs change in the meantime say nothing about the queue. Those in the
  // directory of problem files change on purpose, and no longer once all is done.
  const std::vector<std::string> troubled = list_files(trouble.path(), options.limit);
  SerialCount serial{snapshot, look_at_files(options), {troubled.begin(), troubled.end()}};
  const auto counts = [&](const TaskInfo& task) {
    return snapshot.contains(task.task.payload) && !serial.changed.contains(task.task.payload);
  };
  const Report report = collect(*broker, queue, counts);
  print(Inspector{*broker}.queue_info(queue), server.stats(), times, took);
  print(report);
  const auto dead_letters = static_cast<std::size_t>(
      std::count_if(report.dead_letters.begin(), report.dead_letters.end(), counts));
  if (!done) std::printf("\nstopped by a signal, with tasks left to do\n");
  const bool good = done && check(report, serial, dead_letters);
  Inspector{*broker}.delete_queue(queue, true);
  return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

std::size_t parse_number(std::string_view option, std::string_view text) {
  std::size_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || number == 0) {
    throw std::invalid_argument{std::string{option} + " needs a number above 0"};
  }
  return number;
}

constexpr const char* usage =
    "usage: indexer [--broker memory|redis://...] [--concurrency N] [--limit FILES] [DIRECTORY "
    "...]\n"
    "Indexes the text files of directories, and one of its own that is full of trouble.\n"
    "examples/run builds it without Redis: for --broker redis://..., take the one in\n"
    "build/dev/examples, which tests/run builds.\n";

Options parse(const std::vector<std::string>& arguments) {
  Options options;
  for (auto at = arguments.begin(); at != arguments.end(); ++at) {
    const auto value = [&]() -> const std::string& {
      if (at + 1 == arguments.end()) throw std::invalid_argument{*at + " needs a value"};
      return *++at;
    };
    if (*at == "--broker") {
      options.broker = value();
    } else if (*at == "--concurrency") {
      options.concurrency = parse_number("--concurrency", value());
    } else if (*at == "--limit") {
      options.limit = parse_number("--limit", value());
    } else if (at->starts_with("-")) {
      throw std::invalid_argument{"unknown option " + *at};
    } else {
      options.directories.push_back(std::filesystem::canonical(*at).string());
    }
  }
  if (options.directories.empty()) {
    // Present on every Debian machine, at least on those with a compiler.
    for (const char* directory :
         {"/usr/share/common-licenses", "/usr/share/doc", "/usr/share/perl", "/usr/include"}) {
      if (std::filesystem::is_directory(directory)) options.directories.push_back(directory);
    }
  }
  return options;
}

}  // namespace
}  // namespace indexer

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments{argv + 1, argv + argc};
  if (arguments == std::vector<std::string>{"--help"}) {
    std::fputs(indexer::usage, stdout);
    return EXIT_SUCCESS;
  }
  return indexer::run(indexer::parse(arguments));
} catch (const std::exception& error) {
  std::fprintf(stderr, "indexer: %s\n", error.what());
  return EXIT_FAILURE;
}
