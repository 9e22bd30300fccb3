#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "redis_fixture.hpp"
#include "support/builders.hpp"
#include "support/test.hpp"
#include "taskmux/detail/run/transition.hpp"
#include "taskmux/memory/memory_broker.hpp"

// Random sequences of operations on MemoryBroker and RedisBroker with one clock: what can be
// observed of both must be the same after every step. A failing sequence is played again by
//     TASKMUX_MODEL_SEED=<seed> redis_model_test
// and TASKMUX_MODEL_STEPS=<number> makes it longer.
namespace taskmux::test {
namespace {

using namespace std::chrono_literals;

// Asynq's own times are whole seconds, so both clocks move by whole seconds; what may still differ
// is said where it is compared.
std::int64_t whole_seconds(std::optional<Time> time) {
  return std::chrono::floor<std::chrono::seconds>(time.value_or(Time{})).time_since_epoch() / 1s;
}

std::string describe(const TaskInfo& info) {
  std::ostringstream out;
  out << info.queue << '/' << info.id << ' ' << to_string(info.state) << ' ' << info.task.type
      << " payload=" << info.task.payload << " retry=" << info.retried << '/' << info.max_retry
      << " crashes=" << info.crashes << " timeout=" << info.timeout.count()
      << " retention=" << info.retention.count()
      << " next=" << info.next_process_at.value_or(Time{}).time_since_epoch().count()
      << " enqueued=" << info.enqueued_at.value_or(Time{}).time_since_epoch().count()
      << " started=" << info.started_at.value_or(Time{}).time_since_epoch().count()
      << " expires=" << info.expires_at.value_or(Time{}).time_since_epoch().count()
      << " completed=" << whole_seconds(info.completed_at)
      << " failed=" << whole_seconds(info.last_failed_at)
      << " archived=" << whole_seconds(info.archived_at) << " error=" << info.last_error
      << " result=" << info.result << " orphaned=" << info.orphaned;
  for (const auto& [key, value] : info.task.headers) out << ' ' << key << ':' << value;
  return out.str();
}

std::string describe(const QueueInfo& info) {
  std::ostringstream out;
  out << info.queue << " paused=" << info.paused << " pending=" << info.pending
      << " active=" << info.active << " scheduled=" << info.scheduled << " retry=" << info.retry
      << " archived=" << info.archived << " completed=" << info.completed
      << " latency=" << info.latency.count() << " today=" << info.processed_today << '/'
      << info.failed_today << " total=" << info.processed_total << '/' << info.failed_total;
  return out.str();
}

std::string describe(const Run& run) {
  const TaskMessage& message = *run.message;
  return message.queue + "/" + message.id + " retried=" + std::to_string(message.retried) +
         " crashes=" + std::to_string(run.crashes) +
         " begun=" + std::to_string(static_cast<int>(run.begun)) + " payload=" + message.task.payload +
         " error=" + message.last_error;
}

std::string describe(std::optional<Time> time) {
  return time ? std::to_string(time->time_since_epoch().count()) : "none";
}

/// The lines of `text` that are not in `other` at the same place.
std::string lines_beyond(const std::string& text, const std::string& other) {
  std::istringstream lines{text};
  std::istringstream others{other};
  std::string beyond;
  for (std::string line, against; std::getline(lines, line);) {
    std::getline(others, against);
    if (line != against) beyond += "  " + line + '\n';
  }
  return beyond;
}

/// What an operation did: a text that must be the same for both brokers.
template <typename Function>
std::string outcome(Function function) {
  try {
    return function();
  } catch (const Error& error) {
    return "Error " + std::string{to_string(error.errc())};
  }
}

class Model {
 public:
  explicit Model(std::uint64_t seed) : random_{seed} {}

  bool failed() const { return failed_; }

  void run(int steps) {
    for (int i = 0; i < steps && !failed_; ++i) {
      step();
      compare_state();
    }
  }

 private:
  // One run, as each of the brokers represents it.
  struct Pair {
    Run memory;
    Run redis;
  };

  std::size_t below(std::size_t end) {
    return std::uniform_int_distribution<std::size_t>{0, end - 1}(random_);
  }
  bool chance(int percent) { return below(100) < static_cast<std::size_t>(percent); }
  std::string any_queue() { return chance(50) ? "default" : chance(60) ? "low" : "never"; }
  std::string any_id() { return "t" + std::to_string(below(30)); }
  Duration any_delay() {
    static constexpr Duration delays[] = {0s, 1s, 2s, 5s, 30s, 1h, 1500ms, 250ms};
    const Duration delay = delays[below(std::size(delays))];
    // No two tasks are due at the same instant, since their order would depend on the broker.
    return delay == 0s ? delay : delay + Duration{++delayed_};
  }
  TaskState any_state() {
    static constexpr TaskState states[] = {TaskState::pending,   TaskState::active,
                                           TaskState::scheduled, TaskState::retry,
                                           TaskState::archived,  TaskState::completed};
    return states[below(std::size(states))];
  }
  TaskAction any_action() {
    static constexpr TaskAction actions[] = {TaskAction::run, TaskAction::archive,
                                             TaskAction::remove};
    return actions[below(std::size(actions))];
  }

  std::string end_of_trace() const {
    constexpr std::size_t shown = 3000;
    return trace_.size() > shown ? trace_.substr(trace_.size() - shown) : trace_;
  }

  void check(const std::string& operation, const std::string& memory, const std::string& redis) {
    if (operation != "state") trace_ += operation + ": " + memory + '\n';
    if (memory == redis) return;
    failed_ = true;
    UNSCOPED_INFO(end_of_trace()
                  << operation << "\nmemory alone:\n"
                  << lines_beyond(memory, redis) << "redis alone:\n"
                  << lines_beyond(redis, memory));
    CHECK((memory == redis));
  }

  template <typename Function>
  void both(const std::string& operation, Function function) {
    check(operation, outcome([&] { return function(memory_, memory_); }),
          outcome([&] { return function(fixture_.redis_broker, fixture_.redis_broker); }));
  }

  void step() {
    switch (below(16)) {
      case 0:
      case 1:
      case 2: return enqueue_some();
      case 3:
      case 4:
      case 5: return exchange();
      case 6: return extend_some();
      case 7: return advance();
      case 8:
      case 9: return upkeep_queue();
      case 10: return act_on_some();
      case 11: return act_on_all();
      case 12: return pause_or_not();
      case 13: return update();
      case 14: return cancel();
      case 15: return chance(10) ? erase_queue() : lists();
    }
  }

  void enqueue_some() {
    std::vector<EnqueueRequest> batch;
    const std::size_t count = 1 + below(4);
    for (std::size_t i = 0; i < count; ++i) {
      TaskMessage task =
          message(any_id(), chance(60) ? "default" : "low", "payload" + std::to_string(below(4)));
      task.max_retry = static_cast<int>(below(3));
      task.task.headers = {{"n", std::to_string(below(100))}};
      if (chance(30)) task.retention = std::chrono::seconds{1 + below(20)};
      EnqueueRequest request = pending(task);
      if (chance(30)) request.process_in = any_delay();
      if (chance(10)) request.process_at = fixture_.clock.now() + any_delay();
      if (request.process_in) request.process_at.reset();
      // Locks and remembered ids expire by the time of Redis, which a test can't move: they last
      // longer than the test.
      if (chance(20)) request.unique_for = std::chrono::seconds{100 + below(5000)};
      if (chance(20)) request.expires_in = any_delay();
      if (chance(20)) request.idempotent_for = std::chrono::seconds{100 + below(5000)};
      batch.push_back(std::move(request));
    }
    both("enqueue", [&](Broker& broker, QueueView&) {
      std::string text;
      for (const EnqueueReply& reply : broker.enqueue(batch)) {
        text += reply.error
                    ? std::string{to_string(*reply.error)}
                    : std::string{to_string(reply.state)} + test::describe(reply.process_at);
        if (reply.accepted_before) text += " before";
        text += ' ';
      }
      return text;
    });
  }

  void exchange() {
    std::vector<Settlement> memory_ends;
    std::vector<Settlement> redis_ends;
    const std::size_t count = runs_.empty() ? 0 : below(std::min<std::size_t>(4, runs_.size()) + 1);
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t at = below(runs_.size());
      Settlement end;
      end.action = static_cast<SettleAction>(below(6));
      end.error = "error" + std::to_string(below(9));
      end.delay = any_delay();
      if (end.action == SettleAction::snooze && end.delay == 0s) end.delay = Duration{++delayed_};
      if (chance(50)) end.attempt = static_cast<Attempt>(below(4));
      if (chance(30)) end.result = "result" + std::to_string(below(9));
      end.run = runs_[at].memory;
      memory_ends.push_back(end);
      end.run = runs_[at].redis;
      redis_ends.push_back(end);
      if (chance(80)) runs_.erase(runs_.begin() + static_cast<std::ptrdiff_t>(at));
      if (runs_.empty()) break;
    }
    std::vector<QueueQuota> quotas;
    if (chance(80)) quotas.push_back({any_queue(), below(4)});
    if (chance(50))
      quotas.push_back({quotas.empty() || quotas[0].queue != "low" ? "low" : "default", below(4)});
    ExchangeRequest request{.quotas = quotas};
    if (chance(20)) request.free_workers = below(4);
    request.lease = std::chrono::seconds{1 + below(20)};

    for (const Settlement& end : memory_ends) {
      trace_ += "  end " + end.run.message->queue + '/' + end.run.message->id + " by " +
                std::to_string(static_cast<int>(end.action)) + " after " +
                std::to_string(end.delay.count()) + '\n';
    }
    for (const QueueQuota& quota : quotas) {
      trace_ += "  take " + std::to_string(quota.count) + " of " + quota.queue + '\n';
    }
    ExchangeReply memory;
    ExchangeReply redis;
    request.settlements = memory_ends;
    const std::string first = outcome([&] {
      memory = memory_.exchange(request);
      return describe(memory);
    });
    request.settlements = redis_ends;
    const std::string second = outcome([&] {
      redis = fixture_.redis_broker.exchange(request);
      return describe(redis);
    });
    check("exchange", first, second);
    for (std::size_t i = 0; i < std::min(memory_ends.size(), memory.settled.size()); ++i) {
      if (memory.settled[i].status == SettleStatus::applied) check_transition(memory_ends[i], redis);
    }
    keep(memory.runs, redis.runs);
  }

  /// The scripts and the memory broker have agreed so far; both have followed the table of
  /// transitions, unless the same exchange has taken the task again.
  void check_transition(const Settlement& end, const ExchangeReply& reply) {
    const TaskMessage& task = *end.run.message;
    const auto is_it = [&](const Run& run) {
      return run.message->id == task.id && run.message->queue == task.queue;
    };
    if (std::any_of(reply.runs.begin(), reply.runs.end(), is_it)) return;
    const detail::Transition next = detail::transition_of(end);
    for (QueueView* view : {static_cast<QueueView*>(&memory_),
                            static_cast<QueueView*>(&fixture_.redis_broker)}) {
      const std::optional<TaskInfo> info = view->find(task.queue, task.id);
      const bool as_said =
          info ? info->state == next.to && info->crashes == next.crashes &&
                     info->retried == task.retried + (next.uses_retry ? 1 : 0) &&
                     (!next.notes_error || info->last_error == end.error)
               : !next.to;
      if (as_said) continue;
      failed_ = true;
      UNSCOPED_INFO(end_of_trace());
      FAIL_CHECK("not as the table says: " << (info ? test::describe(*info) : "gone"));
    }
  }

  static std::string describe(const ExchangeReply& reply) {
    std::string text;
    for (const SettleStatus status : test::statuses(reply.settled)) {
      text += std::to_string(static_cast<int>(status)) + ' ';
    }
    for (const Run& run : reply.runs) text += test::describe(run) + "; ";
    return text + "due=" + test::describe(reply.next_due) + " more=" + std::to_string(reply.more) +
           " now=" + test::describe(reply.now);
  }

  void keep(const std::vector<Run>& memory, const std::vector<Run>& redis) {
    for (std::size_t i = 0; i < std::min(memory.size(), redis.size()); ++i) {
      runs_.push_back({memory[i], redis[i]});
    }
  }

  void extend_some() {
    if (runs_.empty()) return;
    std::vector<ExtendRequest> memory;
    std::vector<ExtendRequest> redis;
    for (std::size_t i = 0; i <= below(4); ++i) {
      const Pair& pair = runs_[below(runs_.size())];
      const bool begun = chance(30);
      memory.push_back({pair.memory, begun});
      redis.push_back({pair.redis, begun});
    }
    const Duration lease = std::chrono::seconds{1 + below(20)};
    const auto describe_all = [](const std::vector<ExtendReply>& replies) {
      std::string text;
      for (const ExtendReply& reply : replies) {
        text += reply.status == LeaseStatus::ok     ? "ok"
                : reply.status == LeaseStatus::lost ? "lost"
                                                    : "unknown";
        if (reply.cancel) text += std::to_string(static_cast<int>(*reply.cancel));
        text += ' ';
      }
      return text;
    };
    check("extend", describe_all(memory_.extend(memory, lease)),
          describe_all(fixture_.redis_broker.extend(redis, lease)));
  }

  // In whole seconds: leases and retentions end at whole seconds on Redis.
  void advance() {
    const auto step = std::chrono::seconds{chance(90) ? below(15) : below(5000)};
    fixture_.advance(step);
    trace_ += "advance " + std::to_string(step.count()) + '\n';
  }

  void upkeep_queue() {
    const std::string queue = any_queue();
    UpkeepRequest request{.queues = std::span{&queue, 1}};
    request.recover = chance(80);
    UpkeepReply memory = memory_.upkeep(request);
    UpkeepReply redis = fixture_.redis_broker.upkeep(request);
    // The order in which lost runs are found depends on the broker.
    const auto by_id = [](const Run& a, const Run& b) { return a.message->id < b.message->id; };
    std::sort(memory.lost.begin(), memory.lost.end(), by_id);
    std::sort(redis.lost.begin(), redis.lost.end(), by_id);
    const auto describe_reply = [](const UpkeepReply& reply) {
      std::string text = "forwarded=" + std::to_string(reply.forwarded) +
                         " expired=" + std::to_string(reply.expired) +
                         " repaired=" + std::to_string(reply.repaired) +
                         " due=" + test::describe(reply.next_due) + " lost=";
      for (const Run& run : reply.lost) text += test::describe(run) + "; ";
      return text;
    };
    check("upkeep " + queue, describe_reply(memory), describe_reply(redis));
    keep(memory.lost, redis.lost);
  }

  void act_on_some() {
    std::vector<std::string> ids;
    for (std::size_t i = 0; i <= below(3); ++i) ids.push_back(any_id());
    const std::string queue = any_queue();
    const TaskAction action = any_action();
    const auto only = chance(50) ? std::optional{any_state()} : std::nullopt;
    both("act", [&](Broker&, QueueView& view) {
      std::string text;
      for (const auto& refusal : act(view, queue, action, ids, only)) {
        text += refusal ? std::string{to_string(*refusal)} : "done";
        text += ' ';
      }
      return text;
    });
  }

  void act_on_all() {
    if (chance(50)) return;
    const std::string queue = any_queue();
    const TaskAction action = any_action();
    const TaskState state = any_state();
    // Tasks of the same second are in any order; take_all() can't normalise that while the queue is
    // paused.
    if (action == TaskAction::run && is_paused(queue)) return;
    both("act_all", [&](Broker&, QueueView& view) {
      return std::to_string(view.act_all(queue, action, state, 1000));
    });
    if (action == TaskAction::run) take_all(queue);
  }

  bool is_paused(const std::string& queue) {
    const std::vector<std::string> queues = memory_.queues();
    return std::find(queues.begin(), queues.end(), queue) != queues.end() &&
           memory_.queue_info(queue).paused;
  }

  // Tasks that became due or pending together may be in another order. So all of them are taken and
  // given back one by one.
  void take_all(const std::string& queue) {
    const QueueQuota quotas[] = {{queue, 1000}};
    std::vector<Run> memory = memory_.exchange({.quotas = quotas}).runs;
    std::vector<Run> redis = fixture_.redis_broker.exchange({.quotas = quotas}).runs;
    const auto by_id = [](const Run& a, const Run& b) { return a.message->id < b.message->id; };
    std::sort(memory.begin(), memory.end(), by_id);
    std::sort(redis.begin(), redis.end(), by_id);
    check("take all", std::to_string(memory.size()), std::to_string(redis.size()));
    for (std::size_t i = 0; i < std::min(memory.size(), redis.size()); ++i) {
      check("take all", describe_run(memory[i]), describe_run(redis[i]));
      settle(memory_, given_back(memory[i]));
      settle(fixture_.redis_broker, given_back(redis[i]));
    }
  }

  static std::string describe_run(const Run& run) { return test::describe(run); }

  void pause_or_not() {
    const std::string queue = any_queue();
    const bool pause = chance(40);
    both("pause", [&](Broker&, QueueView& view) {
      pause ? view.pause(queue) : view.unpause(queue);
      return "done";
    });
  }

  void update() {
    const std::string id = any_id();
    const std::string queue = any_queue();
    const std::string payload = "updated" + std::to_string(below(9));
    both("update", [&](Broker&, QueueView& view) {
      view.update_payload(queue, id, payload);
      return "done";
    });
  }

  void cancel() {
    const std::string id = any_id();
    const std::string queue = any_queue();
    const auto mode = static_cast<CancelMode>(below(3));
    both("cancel", [&](Broker&, QueueView& view) {
      view.cancel(queue, id, mode);
      return "done";
    });
  }

  void erase_queue() {
    const std::string queue = any_queue();
    const bool force = chance(50);
    both("delete", [&](Broker&, QueueView& view) {
      view.delete_queue(queue, force);
      return "done";
    });
  }

  void lists() {
    const std::string queue = any_queue();
    const std::size_t first = below(5);
    const std::size_t second = below(5);
    for (const TaskState state : {TaskState::pending, TaskState::active}) {
      both("list", [&](Broker&, QueueView& view) {
        std::string text;
        TaskPage page = view.list({.queue = queue, .state = state, .limit = first});
        for (const TaskInfo& info : page.tasks) text += info.id + ' ';
        text += page.next.empty() ? "end" : "more";
        if (page.next.empty()) return text;
        page = view.list({.queue = queue, .state = state, .cursor = page.next, .limit = second});
        for (const TaskInfo& info : page.tasks) text += ' ' + info.id;
        return text;
      });
    }
    both("history", [&](Broker&, QueueView& view) {
      std::string text;
      for (const DailyStats& day : view.history(queue, 3)) {
        text += std::to_string(day.processed) + '/' + std::to_string(day.failed) + ' ';
      }
      return text;
    });
  }

  void compare_state() {
    both("state", [](Broker&, QueueView& view) {
      std::string text;
      for (const std::string& queue : view.queues()) {
        text += test::describe(view.queue_info(queue)) + '\n';
        for (const TaskState state :
             {TaskState::pending, TaskState::active, TaskState::scheduled, TaskState::retry,
              TaskState::archived, TaskState::completed}) {
          std::vector<TaskInfo> infos = listed(view, queue, state, 1000);
          // By time; tasks with equal times are in any order.
          if (state != TaskState::pending && state != TaskState::active) {
            std::sort(infos.begin(), infos.end(),
                      [](const TaskInfo& a, const TaskInfo& b) { return a.id < b.id; });
          }
          for (const TaskInfo& info : infos) text += test::describe(info) + '\n';
        }
      }
      return text;
    });
  }

  std::mt19937_64 random_;
  bool failed_ = false;
  std::string trace_;  // of the operations, with what the memory broker did
  int delayed_ = 0;
  RedisFixture fixture_;
  MemoryBroker memory_{{.clock = fixture_.manual_clock}};
  std::vector<Pair> runs_;
};

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text ? std::strtoull(text, nullptr, 10) : otherwise;
}

void compare_brokers(std::uint64_t first, int rounds) {
  const int steps = static_cast<int>(from_environment("TASKMUX_MODEL_STEPS", 300));
  for (int round = 0; round < rounds; ++round) {
    const std::uint64_t seed = first + static_cast<std::uint64_t>(round);
    INFO("TASKMUX_MODEL_SEED=" << seed << " TASKMUX_MODEL_STEPS=" << steps);
    Model model{seed};
    model.run(steps);
    CHECK_FALSE(model.failed());
  }
}

TEST_CASE("the Redis broker behaves as the memory broker", "[redis][model]") {
  compare_brokers(1, 5);
}

TEST_CASE("the Redis broker behaves as the memory broker, with a new seed each time",
          "[redis][model]") {
  const bool given = std::getenv("TASKMUX_MODEL_SEED") != nullptr;
  compare_brokers(from_environment("TASKMUX_MODEL_SEED", std::random_device{}()), given ? 1 : 5);
}

}  // namespace
}  // namespace taskmux::test
