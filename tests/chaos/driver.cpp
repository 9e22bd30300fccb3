#include "driver.hpp"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "proxy.hpp"
#include "roles.hpp"
#include "snapshot.hpp"
#include "support/redis_server.hpp"
#include "taskmux/inspector.hpp"
#include "taskmux/redis/redis_broker.hpp"

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

/// How long the last tasks may take after the last fault: a lease, a whole lease of contact before
/// the first sweep, retries, and the same again for a busy machine.
constexpr auto longest_drain = 90s;
/// How long a server's shutdown may take, with a margin for a busy machine.
constexpr auto longest_shutdown = 30s;
constexpr auto step = 10ms;

/// The slot of a worker or a producer: a process that dies is replaced.
class Place {
 public:
  /// `arguments_of` returns the arguments of the program for a process with the given name.
  Place(std::string role, std::function<std::vector<std::string>(const std::string&)> arguments_of,
        std::filesystem::path directory, LedgerWriter& ledger)
      : role_{std::move(role)},
        arguments_of_{std::move(arguments_of)},
        directory_{std::move(directory)},
        ledger_{ledger} {}

  void start() {
    name_ = role_ + "." + std::to_string(++incarnations_);
    stops_ = 0;
    asked_ = false;
    std::vector<std::string> arguments = arguments_of_(name_);
    arguments.insert(arguments.begin(), "/proc/self/exe");
    process_ = std::make_unique<test::ChildProcess>(arguments, directory_ / (name_ + ".log"));
  }

  bool running() {
    if (!process_) return false;
    if (process_->running()) return true;
    ledger_.write(EventKind::gone, name_, 0, asked_ ? ended_as_asked : "by itself");
    process_.reset();
    return false;
  }

  /// Returns the name of the process; empty if none is running.
  std::string name() { return running() ? name_ : std::string{}; }
  void signal(int number) {
    asked_ = asked_ || number == SIGTERM;
    process_->signal(number);
  }

  /// Stops may overlap: the process continues when the last of them ends.
  void stop() {
    if (++stops_ == 1) signal(SIGSTOP);
  }
  void resume() {
    if (--stops_ == 0) signal(SIGCONT);
  }

 private:
  const std::string role_;
  const std::function<std::vector<std::string>(const std::string&)> arguments_of_;
  const std::filesystem::path directory_;
  LedgerWriter& ledger_;
  int incarnations_ = 0;
  int stops_ = 0;
  bool asked_ = false;
  std::string name_;
  std::unique_ptr<test::ChildProcess> process_;
};

class Trial {
 public:
  Trial(const Scenario& scenario, std::uint64_t seed, const std::filesystem::path& directory)
      : scenario_{scenario},
        seed_{seed},
        directory_{directory},
        ledger_{directory, "driver"},
        redis_{{.arguments = {"--appendonly", "yes", "--appendfsync", "always"}}} {
    if (scenario.proxy)
      proxy_ = std::make_unique<Proxy>(directory / "proxy.sock", redis_.socket_path());
  }

  Verdict run() {
    begin_ = now();
    make_places();
    for (const Fault& fault : make_plan(scenario_, seed_)) {
      std::printf("  %s\n", to_text(fault).c_str());
      later(begin_ + fault.at, [this, fault] { begin(fault); });
    }
    std::fflush(stdout);
    play();
    drain();
    end_workers();
    wait_for_servers_to_expire();
    return judge(read_ledger(directory_), take_snapshot(redis_), concurrency);
  }

 private:
  static constexpr std::size_t concurrency = 4;

  struct Action {
    Moment at{};
    std::function<void()> act{};
  };

  std::string url() const { return proxy_ ? "redis-socket://" + proxy_->path() : redis_.url(); }

  void make_places() {
    for (std::size_t i = 0; i < scenario_.workers; ++i) {
      const auto arguments = [this](const std::string& name) {
        return WorkerSettings{.url = url(),
                              .ledger = directory_,
                              .name = name,
                              .concurrency = concurrency,
                              .max_crashes = scenario_.max_crashes}
            .arguments();
      };
      workers_.emplace_back("worker-" + std::to_string(i), arguments, directory_, ledger_);
    }
    for (std::size_t i = 0; i < scenario_.producers; ++i) {
      const auto arguments = [this](const std::string& name) {
        return ProducerSettings{.url = url(),
                                .ledger = directory_,
                                .name = name,
                                .seed = seed_ + std::hash<std::string>{}(name),
                                .mix = scenario_.mix,
                                .until = begin_ + scenario_.length + 1s,
                                .per_second = scenario_.per_second}
            .arguments();
      };
      producers_.emplace_back("producer-" + std::to_string(i), arguments, directory_, ledger_);
    }
  }

  void later(Moment at, std::function<void()> act) { actions_.push_back({at, std::move(act)}); }

  /// Executes the plan to its end, and until no producer is running.
  void play() {
    bool producing = true;
    while (!actions_.empty() || producing) {
      replace_dead(workers_);
      if (now() < begin_ + scenario_.length) {
        replace_dead(producers_);
      } else {
        producing = std::ranges::any_of(producers_, &Place::running);
      }
      act();
      std::this_thread::sleep_for(step);
    }
  }

  static void replace_dead(std::vector<Place>& places) {
    for (Place& place : places) {
      if (!place.running()) place.start();
    }
  }

  void act() {
    for (;;) {
      const auto next = std::ranges::min_element(actions_, {}, &Action::at);
      if (next == actions_.end() || next->at > now()) return;
      const auto act = std::move(next->act);
      actions_.erase(next);
      act();
    }
  }

  void begin(const Fault& fault) {
    switch (fault.kind) {
      case FaultKind::kill_worker: hit(workers_.at(fault.target), SIGKILL, fault); break;
      case FaultKind::kill_producer: hit(producers_.at(fault.target), SIGKILL, fault); break;
      case FaultKind::end_worker: hit(workers_.at(fault.target), SIGTERM, fault); break;
      case FaultKind::stop_worker: stop({&workers_.at(fault.target)}, fault); break;
      case FaultKind::stop_everybody: {
        std::vector<Place*> all;
        for (Place& place : workers_) all.push_back(&place);
        for (Place& place : producers_) all.push_back(&place);
        stop(all, fault);
        break;
      }
      case FaultKind::kill_redis:
        with_redis(
            fault, [this] { redis_.kill(); }, [this] { redis_.start(); });
        break;
      case FaultKind::stop_redis:
        with_redis(
            fault, [this] { redis_.pause(); }, [this] { redis_.resume(); });
        break;
      case FaultKind::kill_clients: kill_clients(now(), now() + fault.length); break;
      case FaultKind::flush_scripts:
        if (redis_away_) break;
        ledger_.write(EventKind::fault, "redis", 0, to_string(fault.kind));
        redis_.command({"SCRIPT", "FLUSH"});
        break;
      case FaultKind::cut_replies:
      case FaultKind::delay_line:
      case FaultKind::slow_line: disturb_line(fault); break;
    }
  }

  void hit(Place& place, int signal, const Fault& fault) {
    const std::string name = place.name();
    if (name.empty()) return;
    ledger_.write(EventKind::fault, name, 0, to_string(fault.kind));
    place.signal(signal);
  }

  void stop(const std::vector<Place*>& places, const Fault& fault) {
    const Moment began = now();
    std::vector<std::pair<Place*, std::string>> stopped;
    for (Place* place : places) {
      const std::string name = place->name();
      if (name.empty()) continue;
      place->stop();
      stopped.emplace_back(place, name);
    }
    later(began + fault.length, [this, stopped, began, fault] {
      const Moment ended = now();
      for (const auto& [place, name] : stopped) {
        ledger_.write_at(began, EventKind::fault, name, (ended - began).count(),
                         to_string(fault.kind));
        if (place->name() == name) place->resume();
      }
    });
  }

  /// Faults of Redis don't overlap: those that would occur while Redis is down are skipped.
  void with_redis(const Fault& fault, const std::function<void()>& off, std::function<void()> on) {
    if (redis_away_) return;
    redis_away_ = true;
    const Moment began = now();
    off();
    later(began + fault.length, [this, began, fault, on = std::move(on)] {
      on();
      redis_away_ = false;
      ledger_.write_at(began, EventKind::fault, "redis", (now() - began).count(),
                       to_string(fault.kind));
    });
  }

  void kill_clients(Moment began, Moment until) {
    if (!redis_away_) {
      redis_.command({"CLIENT", "KILL", "TYPE", "normal"});
      redis_.command({"CLIENT", "KILL", "TYPE", "pubsub"});
    }
    if (now() + 200ms < until) {
      later(now() + 200ms, [this, began, until] { kill_clients(began, until); });
      return;
    }
    ledger_.write_at(began, EventKind::fault, "line", (now() - began).count(),
                     to_string(FaultKind::kill_clients));
  }

  void disturb_line(const Fault& fault) {
    const Moment began = now();
    switch (fault.kind) {
      case FaultKind::cut_replies: proxy_->cut_replies(seed_); break;
      case FaultKind::delay_line: proxy_->delay(50ms); break;
      default: proxy_->limit(1'000'000); break;
    }
    later(began + fault.length, [this, began, fault] {
      proxy_->calm();
      ledger_.write_at(began, EventKind::fault, "line", (now() - began).count(),
                       to_string(fault.kind));
    });
  }

  /// Returns how many tasks wait or run, at one instant: between two reads, a task could move
  /// unseen.
  std::int64_t waiting() {
    constexpr std::string_view count = R"lua(
local sum = 0
for _, queue in ipairs({'asynq:{default}:', 'asynq:{low}:'}) do
  for _, list in ipairs({'pending', 'active'}) do sum = sum + redis.call('LLEN', queue .. list) end
  for _, set in ipairs({'scheduled', 'retry'}) do sum = sum + redis.call('ZCARD', queue .. set) end
end
return sum
)lua";
    return redis_.command({"EVAL", count, "0"}).as_integer();
  }

  void drain() {
    const auto give_up = now() + longest_drain;
    while (waiting() > 0) {
      if (now() > give_up)
        throw std::runtime_error{std::to_string(waiting()) + " tasks still wait"};
      replace_dead(workers_);
      std::this_thread::sleep_for(20ms);
    }
    drained_ = now();
  }

  void end_workers() {
    for (Place& worker : workers_) {
      if (worker.running()) worker.signal(SIGTERM);
    }
    const auto give_up = now() + longest_shutdown;
    while (std::ranges::any_of(workers_, &Place::running)) {
      if (now() > give_up) throw std::runtime_error{"a worker did not end as it was asked to"};
      std::this_thread::sleep_for(step);
    }
  }

  /// Waits for the records of killed servers; listing them removes expired ones.
  void wait_for_servers_to_expire() {
    RedisBroker broker{redis_.url()};
    Inspector inspector{broker};
    test::eventually([&] { return inspector.servers().empty(); }, 10s);
  }

  const Scenario& scenario_;
  const std::uint64_t seed_;
  const std::filesystem::path directory_;
  LedgerWriter ledger_;
  test::RedisServer redis_;
  std::unique_ptr<Proxy> proxy_;
  Moment begin_{};
  Moment drained_{};
  std::vector<Action> actions_;
  bool redis_away_ = false;
  std::vector<Place> workers_;
  std::vector<Place> producers_;
};

}  // namespace

Verdict run_trial(const Scenario& scenario, std::uint64_t seed,
                  const std::filesystem::path& directory) {
  return Trial{scenario, seed, directory}.run();
}

}  // namespace taskmux::chaos
