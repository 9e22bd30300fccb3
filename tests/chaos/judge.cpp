#include "judge.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "plan.hpp"
#include "taskmux/handler.hpp"
#include "work.hpp"

namespace taskmux::chaos {
namespace {

using namespace std::chrono_literals;

constexpr Moment never{std::numeric_limits<std::int64_t>::max()};
/// The clocks of the processes agree; a broker's clock may differ from them by rounding.
constexpr Moment rounding = 5ms;
constexpr Moment shortly = 50ms;

/// One run of a task, from the ledger.
struct RunRecord {
  std::string process{};
  std::int64_t number = 0;
  Moment start{};
  Moment end = never;
  EventKind outcome = EventKind::start;  ///< `start`: it has none.
  bool lost_lease = false;               ///< It was stopped for that reason.
  bool put_back = false;                 ///< It was stopped since its server shut down.
  Moment settled = never;                ///< When its worker saw its end recorded.

  bool succeeded() const { return outcome == EventKind::good; }
  /// Returns whether its handler ended such that the task has to run again.
  bool wants_another() const { return outcome != EventKind::start && !succeeded() && !lost_lease; }
};

/// What the ledger contains about one task.
struct Life {
  std::optional<Order> order{};
  Moment asked{};
  Moment answered = never;
  bool accepted = false;
  bool refused = false;
  std::vector<RunRecord> runs{};  ///< By start.
  std::string last_change{};

  bool succeeded() const { return std::ranges::any_of(runs, &RunRecord::succeeded); }
  /// Returns until when it was not done, according to the ledger.
  Moment done() const {
    for (const RunRecord& run : runs) {
      if (run.succeeded()) return run.end;
    }
    return never;
  }
};

struct FaultRecord {
  std::string target{};
  Moment from{};
  Moment to{};
  bool gentle = false;  ///< The process was asked to end.
  bool of_all = false;  ///< All processes stopped at once, which must lose no run.

  bool concerns(const std::string& process) const {
    return target == process || target == "redis" || target == "line";
  }
  bool overlaps(Moment begin, Moment end) const { return from <= end && to >= begin; }
};

class Faults {
 public:
  void add(const Event& event) {
    records_.push_back({event.id, event.at, event.at + Moment{event.number},
                        event.detail == to_string(FaultKind::end_worker),
                        event.detail == to_string(FaultKind::stop_everybody)});
  }
  void add_end(const Event& event) {
    ends_.push_back({event.id, event.at, event.at, event.detail == ended_as_asked});
  }

  const std::vector<FaultRecord>& all() const { return records_; }
  const std::vector<FaultRecord>& ends() const { return ends_; }

  /// Returns whether an event between two instants is a reason to consider a run of `process` lost.
  bool hit(const std::string& process, Moment begin, Moment end) const {
    const auto hits = [&](const FaultRecord& fault) {
      return !fault.of_all && fault.concerns(process) && fault.overlaps(begin, end);
    };
    return std::ranges::any_of(records_, hits) || std::ranges::any_of(ends_, hits);
  }

  /// Returns how often a worker was killed or stopped, or ended by itself.
  std::size_t lost_workers() const {
    const auto is_worker = [](const FaultRecord& fault) {
      return fault.target.starts_with("worker") && !fault.of_all && !fault.gentle;
    };
    std::size_t count = 0;
    for (const FaultRecord& fault : records_) count += is_worker(fault) ? 1 : 0;
    for (const FaultRecord& end : ends_) {
      const bool was_hit =
          std::ranges::find(records_, end.target, &FaultRecord::target) != records_.end();
      count += is_worker(end) && !was_hit ? 1 : 0;
    }
    return count;
  }

  /// Returns when `process` had ended; `never` if it had not.
  Moment end_of(const std::string& process) const {
    const auto end = std::ranges::find(ends_, process, &FaultRecord::target);
    return end == ends_.end() ? never : end->from;
  }

  /// Returns the fault whose end let `process` continue shortly before `at`.
  const FaultRecord* resumed(const std::string& process, Moment at) const {
    for (const FaultRecord& fault : records_) {
      if (fault.target == process && fault.to <= at && at - fault.to <= shortly) return &fault;
    }
    return nullptr;
  }

 private:
  std::vector<FaultRecord> records_;
  std::vector<FaultRecord> ends_;
};

/// Returns the name of a key of a queue: "asynq:{<queue>}:<rest>".
struct QueueKey {
  std::string queue{};
  std::string rest{};
};

std::optional<QueueKey> queue_key(const std::string& key) {
  constexpr std::string_view stem = "asynq:{";
  const auto end = key.find("}:");
  if (!key.starts_with(stem) || end == key.npos) return std::nullopt;
  return QueueKey{key.substr(stem.size(), end - stem.size()), key.substr(end + 2)};
}

/// As in ServerConfig: a task that had begun in this number of crashes in a row is archived.
constexpr std::size_t max_crashes = 3;

constexpr std::array containers{"pending", "active", "scheduled", "retry", "archived", "completed"};

bool is_container(const std::string& name) {
  return std::ranges::find(containers, name) != containers.end();
}

/// A task as stored in Redis.
struct StoredTask {
  std::string queue{};
  std::string state{};  ///< Of its hash; empty if it has none.
  std::vector<std::string> places{};
  std::map<std::string, std::string> fields{};
};

class Judge {
 public:
  Judge(const std::vector<Event>& ledger, const Snapshot& left, std::size_t concurrency)
      : left_{left}, concurrency_{concurrency} {
    for (const Event& event : ledger) record(event);
    for (const auto& [key, stored] : left_) read(key, stored);
  }

  Verdict run() {
    for (const auto& [id, life] : lives_) check(id, life);
    for (const auto& [id, task] : stored_) check(id, task);
    for (const auto& [key, stored] : left_) check_key(key, stored);
    check_counters();
    check_locks();
    check_hits();
    return std::move(verdict_);
  }

 private:
  void find(Rule rule, const std::string& text) { verdict_.findings.push_back({rule, text}); }

  void record(const Event& event) {
    switch (event.kind) {
      case EventKind::fault: faults_.add(event); return;
      case EventKind::gone: faults_.add_end(event); return;
      default: break;
    }
    Life& life = lives_[event.id];
    switch (event.kind) {
      case EventKind::ask:
        life.order = parse_order(event.detail);
        life.asked = event.at;
        break;
      case EventKind::accepted:
        life.accepted = true;
        life.answered = event.at;
        break;
      case EventKind::refused:
        life.refused = true;
        life.answered = event.at;
        break;
      case EventKind::unknown: life.answered = event.at; break;
      case EventKind::start: life.runs.push_back({event.process, event.number, event.at}); break;
      case EventKind::settled: settle(life, event); break;
      default: end(life, event); break;
    }
  }

  void end(Life& life, const Event& event) {
    for (RunRecord& run : life.runs) {
      if (run.process != event.process || run.number != event.number) continue;
      run.end = event.at;
      run.outcome = event.kind;
      run.lost_lease = event.detail == to_string(StopReason::lease_lost);
      run.put_back = event.detail == to_string(StopReason::shutdown);
      return;
    }
    find(Rule::nothing_invented, event.process + " ended a run that it did not start: " + event.id);
  }

  void settle(Life& life, const Event& event) {
    life.last_change = event.detail;
    const std::string change = event.detail.substr(0, event.detail.find(' '));
    // A run that its server gives back unstarted does not count; that may be recorded after the
    // next one has ended.
    if (life.order && change != "given_back") ++changes_[life.order->queue][change];
    for (RunRecord& run : life.runs) {
      if (run.process != event.process || run.settled != never || run.end > event.at) continue;
      if (run.succeeded() != (change == "succeeded")) continue;
      if (change == "given_back" && !run.put_back) continue;
      run.settled = event.at;
      if (life.order && change == "given_back") ++changes_[life.order->queue][change];
      return;
    }
  }

  void read(const std::string& key, const Stored& stored) {
    const auto parts = queue_key(key);
    if (!parts) return;
    if (parts->rest.starts_with("t:")) {
      StoredTask& task = stored_[parts->rest.substr(2)];
      task.queue = parts->queue;
      const auto state = stored.fields.find("state");
      if (state != stored.fields.end()) task.state = state->second;
      task.fields = stored.fields;
    } else if (is_container(parts->rest)) {
      for (const std::string& id : stored.members) {
        stored_[id].places.push_back(parts->rest);
        if (stored_[id].queue.empty()) stored_[id].queue = parts->queue;
      }
    }
  }

  bool is_of(const std::string& id, WorkKind kind) const {
    const auto life = lives_.find(id);
    return life != lives_.end() && life->second.order && life->second.order->kind == kind;
  }

  bool archived(const std::string& id) const {
    const auto task = stored_.find(id);
    return task != stored_.end() && task->second.state == "archived";
  }

  void check(const std::string& id, const Life& life) {
    const auto stored = stored_.find(id);
    const bool is_stored = stored != stored_.end();
    if (!life.order) {
      find(Rule::nothing_invented, id + " ran, and nobody asked for it");
      return;
    }
    const std::string what = std::string{to_string(life.order->kind)} + " task " + id;
    if (life.accepted) ++verdict_.accepted;
    if (life.refused && (is_stored || !life.runs.empty()))
      find(Rule::nothing_invented, what + " was refused, and yet ran or is stored");
    if (life.accepted && !is_stored && !life.succeeded())
      find(Rule::nothing_lost,
           what + " was accepted; it is not stored and never succeeded; runs: " +
               std::to_string(life.runs.size()) + ", last recorded: " + life.last_change);
    if (archived(id)) check_archived(what, life);
    check_runs(what, life);
  }

  void check_archived(const std::string& what, const Life& life) {
    ++verdict_.archived;
    if (life.runs.empty()) {
      if (life.order->kind == WorkKind::once && ++archived_unrun_ <= may_be_unbegun()) return;
      find(Rule::nothing_archived_unrun,
           what + " is archived and never started; last recorded: " + life.last_change);
      return;
    }
    switch (life.order->kind) {
      case WorkKind::doomed:
      case WorkKind::skip: return;
      case WorkKind::poison:
        if (life.runs.size() > max_crashes)
          find(Rule::no_second_run,
               what + " was started " + std::to_string(life.runs.size()) + " times");
        return;
      case WorkKind::once: {
        const RunRecord& run = life.runs.back();
        if (run.wants_another()) return;
        if (faults_.hit(run.process, run.start, never)) return;
        break;
      }
      default: break;
    }
    find(Rule::no_innocent_archived, what + " is archived; last recorded: " + life.last_change);
  }

  void check_runs(const std::string& what, const Life& life) {
    verdict_.runs += life.runs.size();
    if (life.runs.empty()) return;
    if (life.runs.front().start + rounding < life.asked + life.order->delay)
      find(Rule::not_early, what + " started before its time");
    for (std::size_t i = 1; i < life.runs.size(); ++i) check_restart(what, life, i);
  }

  void check_restart(const std::string& what, const Life& life, std::size_t index) {
    const RunRecord& run = life.runs[index];
    const RunRecord& before = life.runs[index - 1];
    if (before.wants_another() && before.end <= run.start) return;
    ++verdict_.repeated;
    const auto is_recorded = [&](const RunRecord& each) {
      return each.succeeded() && each.settled < run.start;
    };
    const bool was_done = std::any_of(
        life.runs.begin(), life.runs.begin() + static_cast<std::ptrdiff_t>(index), is_recorded);
    if (!was_done && faults_.hit(before.process, before.start, run.start)) return;
    if (excused(run)) return;
    find(Rule::no_second_run, what + " was started by " + run.process + " at " +
                                  seconds(run.start) + " after " + before.process +
                                  " had started it at " + seconds(before.start) +
                                  (was_done ? ", and after its success had been recorded"
                                            : ", and no fault was between"));
  }

  /// Returns how many runs may have been lost between their taking and their start.
  std::size_t may_be_unbegun() const { return 2 * concurrency_ * faults_.lost_workers(); }

  bool excused(const RunRecord& run) {
    const FaultRecord* pause = faults_.resumed(run.process, run.start);
    return pause != nullptr && ++excuses_[{run.process, pause->from}] <= concurrency_;
  }

  void check(const std::string& id, const StoredTask& task) {
    if (!lives_.contains(id))
      find(Rule::nothing_invented, id + " is stored, and nobody asked for it");
    if (task.fields.empty()) {
      find(Rule::one_state, id + " is in " + task.places.front() + ", and has no hash");
      return;
    }
    if (task.places != std::vector<std::string>{task.state})
      find(Rule::one_state,
           id + " has the state " + task.state + ", and is in " + text(task.places));
    if (!task.fields.contains("msg")) find(Rule::one_state, id + " has no message");
    if (task.state != "active" &&
        (task.fields.contains("tmx_run") || task.fields.contains("tmx_cancel")))
      find(Rule::nothing_left, id + " is " + task.state + ", and has the fields of a run");
    if (task.state == "completed") check_completed(id, task);
  }

  void check_completed(const std::string& id, const StoredTask& task) {
    const auto life = lives_.find(id);
    if (life != lives_.end() && !life->second.succeeded())
      find(Rule::nothing_lost, id + " is completed, and no run of it succeeded");
    const auto result = task.fields.find("result");
    if (result == task.fields.end() || result->second != result_of(id))
      find(Rule::results, id + " has another result than its handler set");
  }

  void check_key(const std::string& key, const Stored& stored) {
    if (key == "asynq:queues") return;
    const auto parts = queue_key(key);
    const auto day_of = [&](std::string_view counter) {
      return parts->rest.starts_with(std::string{counter} + ":") && stored.expires;
    };
    if (parts) {
      const std::string& rest = parts->rest;
      if (rest == "processed" || rest == "failed" || day_of("processed") || day_of("failed"))
        return;
      if (rest == "archived" || rest == "completed") return;
      if (rest == "tmx:ids" && std::ranges::all_of(stored.members, [&](const std::string& id) {
            return is_of(id, WorkKind::repeated);
          }))
        return;
      if (rest.starts_with("t:")) {
        const std::string& state = stored_[rest.substr(2)].state;
        if (stored.expires) find(Rule::nothing_left, key + " expires");
        if (state == "archived" || state == "completed") return;
        find(Rule::nothing_left, key + " is " + state);
        return;
      }
      if (rest.starts_with("unique:") && archived(stored.text)) return;
    }
    find(Rule::nothing_left,
         key + " is left: " + (stored.members.empty() ? stored.text : text(stored.members)));
  }

  std::int64_t counter(const std::string& queue, const std::string& name) const {
    const auto found = left_.find("asynq:{" + queue + "}:" + name);
    return found == left_.end() ? 0 : std::stoll(found->second.text);
  }

  std::int64_t days(const std::string& queue, const std::string& name) const {
    std::int64_t sum = 0;
    for (const auto& [key, stored] : left_) {
      if (key.starts_with("asynq:{" + queue + "}:" + name + ":")) sum += std::stoll(stored.text);
    }
    return sum;
  }

  void check_counters() {
    std::map<std::string, std::int64_t> succeeded;
    std::map<std::string, std::int64_t> runs;
    for (const auto& [id, life] : lives_) {
      if (!life.order) continue;
      runs[life.order->queue] += static_cast<std::int64_t>(life.runs.size());
      if (life.succeeded() && !archived(id)) ++succeeded[life.order->queue];
    }
    for (const auto& [queue, started] : runs) {
      const std::int64_t good = succeeded[queue];
      verdict_.succeeded += static_cast<std::size_t>(good);
      const std::int64_t processed = counter(queue, "processed");
      const std::int64_t failed = counter(queue, "failed");
      auto& changes = changes_[queue];
      const std::int64_t least = changes["retried"] + changes["archived"];
      const std::int64_t most = started - good - changes["snoozed"] - changes["given_back"] +
                                static_cast<std::int64_t>(may_be_unbegun());
      const std::string counts =
          queue + ": processed " + std::to_string(processed) + ", failed " + std::to_string(failed);
      if (processed - failed != good)
        find(Rule::counters, counts + "; " + std::to_string(good) + " tasks succeeded");
      if (failed < least || failed > most)
        find(Rule::counters, counts + "; the ledger has from " + std::to_string(least) + " to " +
                                 std::to_string(most) + " failures");
      if (days(queue, "processed") != processed || days(queue, "failed") != failed)
        find(Rule::counters, counts + "; the days sum up to others");
    }
  }

  void check_locks() {
    std::map<std::string, std::vector<std::pair<std::string, const Life*>>> holders;
    for (const auto& [id, life] : lives_) {
      if (life.order && life.order->lock != "-" && life.accepted)
        holders[life.order->queue + " " + life.order->lock].emplace_back(id, &life);
    }
    for (auto& [lock, lives] : holders) {
      std::ranges::sort(lives, {}, [](const auto& each) { return each.second->answered; });
      for (std::size_t i = 1; i < lives.size(); ++i) {
        const Life& first = *lives[i - 1].second;
        const Life& second = *lives[i].second;
        const Moment start = first.runs.empty() ? never : first.runs.front().start;
        if (second.asked > first.answered && second.answered < start)
          find(Rule::locks, lives[i].first + " was accepted while " + lives[i - 1].first +
                                " waited under the same lock, " + lock);
      }
    }
  }

  void check_hits() {
    for (const FaultRecord& fault : faults_.all()) {
      ++verdict_.faults;
      if (hits(fault)) ++verdict_.hits;
    }
    // A process that ended by itself, because of a poison task.
    for (const FaultRecord& end : faults_.ends()) {
      if (hits(end)) ++verdict_.hits;
    }
    if (verdict_.hits == 0)
      find(Rule::a_fault_hit, "no fault hit anything: the plan proves nothing");
  }

  /// Returns whether `fault` can have disturbed an operation in progress.
  bool hits(const FaultRecord& fault) const {
    for (const auto& [id, life] : lives_) {
      const std::string producer = id.substr(0, id.rfind('-'));
      const Moment answered = std::min(life.answered, faults_.end_of(producer));
      if (fault.concerns(producer) && fault.overlaps(life.asked, answered)) return true;
      for (const RunRecord& run : life.runs) {
        const Moment end = std::min(run.end, faults_.end_of(run.process));
        if (fault.concerns(run.process) && fault.overlaps(run.start, end)) return true;
      }
    }
    return false;
  }

  std::string seconds(Moment at) const {
    const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(at).count();
    return std::to_string(milliseconds) + " ms";
  }

  static std::string text(const std::vector<std::string>& words) {
    std::string all;
    for (const std::string& word : words) all += (all.empty() ? "" : " ") + word;
    return all.empty() ? "nothing" : all;
  }

  const Snapshot& left_;
  const std::size_t concurrency_;
  Faults faults_;
  std::map<std::string, Life> lives_;
  std::map<std::string, StoredTask> stored_;
  std::map<std::string, std::map<std::string, std::int64_t>> changes_;  // by queue
  std::map<std::pair<std::string, Moment>, std::size_t> excuses_;
  std::size_t archived_unrun_ = 0;
  Verdict verdict_;
};

}  // namespace

std::string_view to_string(Rule rule) noexcept {
  switch (rule) {
    case Rule::nothing_lost: return "nothing lost";
    case Rule::nothing_invented: return "nothing invented";
    case Rule::one_state: return "one state";
    case Rule::counters: return "counters";
    case Rule::no_second_run: return "no second run";
    case Rule::nothing_archived_unrun: return "nothing archived that never ran";
    case Rule::no_innocent_archived: return "no innocent archived";
    case Rule::not_early: return "not early";
    case Rule::locks: return "locks";
    case Rule::results: return "results";
    case Rule::nothing_left: return "nothing left";
    case Rule::a_fault_hit: return "a fault hit";
  }
  return "?";
}

Verdict judge(const std::vector<Event>& ledger, const Snapshot& left, std::size_t concurrency) {
  return Judge{ledger, left, concurrency}.run();
}

}  // namespace taskmux::chaos
