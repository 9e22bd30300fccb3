#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/detail/base/cursor.hpp"
#include "taskmux/detail/memory/ids.hpp"
#include "taskmux/detail/memory/task.hpp"
#include "taskmux/detail/memory/watches.hpp"
#include "taskmux/detail/run/transition.hpp"
#include "taskmux/error.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// How long after the end of its lease a run is taken over, so that a worker that is merely late
/// can still extend it.
inline constexpr Duration memory_recovery_delay = std::chrono::seconds{1};

/// The attempts that ended in one queue.
class MemoryStatistics {
 public:
  /// Makes room for the day of `now`, so that count() can't fail. Throws std::bad_alloc.
  void begin_day(Time now) { of_day(now); }

  /// Needs begin_day() with the same time.
  void count(Time now, bool failed) {
    DailyStats& day = of_day(now);
    ++day.processed;
    ++processed_;
    if (!failed) return;
    ++day.failed;
    ++failed_;
  }

  std::uint64_t processed() const noexcept { return processed_; }
  std::uint64_t failed() const noexcept { return failed_; }

  DailyStats on(std::chrono::sys_days day) const {
    for (const DailyStats& stats : days_) {
      if (stats.day == day) return stats;
    }
    return {.day = day};
  }

 private:
  DailyStats& of_day(Time now) {
    const auto today = std::chrono::floor<std::chrono::days>(now);
    if (!days_.empty() && days_.back().day == today) return days_.back();
    for (DailyStats& stats : days_) {
      if (stats.day == today) return stats;
    }
    std::erase_if(
        days_, [&](const DailyStats& stats) { return stats.day <= today - std::chrono::days{90}; });
    days_.push_back({.day = today});
    return days_.back();
  }

  std::vector<DailyStats> days_;
  std::uint64_t processed_ = 0;
  std::uint64_t failed_ = 0;
};

class MemoryQueue;

/// What the queues of a broker share.
struct MemoryBoard {
  /// The first of the queues that have news, each of which knows the next.
  MemoryQueue* changed = nullptr;
  std::size_t tasks = 0;  ///< In all of them.
};

/// One queue of the memory broker: its tasks, and all operations on them. Uses no clock and no lock, and
/// is independent of other queues. Not thread-safe.
class MemoryQueue {
 public:
  /// The queue puts itself at the head of those that changed when something may be ready in it. Counts its
  /// tasks in `board`; not those that are in it when it is destroyed.
  MemoryQueue(std::string name, MemoryBoard& board) : name_{std::move(name)}, board_{board} {}
  MemoryQueue(const MemoryQueue&) = delete;
  MemoryQueue& operator=(const MemoryQueue&) = delete;
  ~MemoryQueue() {
    MemoryGraveyard dead;
    tasks_.for_each([&dead](MemoryTask& task) { dead.bury(task); });
  }

  const std::string& name() const noexcept { return name_; }
  std::size_t size() const noexcept { return tasks_.size(); }
  bool paused() const noexcept { return paused_; }
  bool has_active() const noexcept { return !active_.empty(); }

  MemoryIds& ids() noexcept { return ids_; }

  void pause() noexcept { paused_ = true; }
  void unpause() noexcept {
    paused_ = false;
    tell(Time::min());
  }

  /// Notifies `watcher` once when the state of `task` changes.
  void watch(MemoryTask& task, const std::shared_ptr<MemoryWatcher>& watcher) {
    task_watches_.add(task.message.id, watcher);
    task.watched = true;
  }
  void unwatch(const std::string& id, const MemoryWatcher& watcher) noexcept {
    if (!task_watches_.remove(id, watcher)) return;
    if (MemoryTask* const task = tasks_.find(id)) task->watched = false;
  }
  /// All tasks are about to be deleted.
  void note_end() noexcept { task_watches_.note_change_of_all(); }
  /// Collects hints for the watches on tasks whose states have changed.
  void tell_task_watches(MemoryHints& hints) { task_watches_.tell(hints); }

  /// When something may be ready in a queue that is among the changed ones: the earliest instant of the
  /// steady clock; Time::max() if nothing is.
  Time news() const noexcept { return *news_; }
  /// Returns the next changed queue; the caller then removes this one from the list.
  MemoryQueue* forget_news() noexcept {
    news_.reset();
    return std::exchange(next_changed_, nullptr);
  }

  /// Whether every watch is to look at this queue again anyhow, so that its next news need not be passed
  /// on. For the broker, which sets it.
  bool noted() const noexcept { return noted_; }
  void set_noted(bool noted) noexcept { noted_ = noted; }

  /// Returns the earliest due time in scheduled and retry, on the wall clock; none while paused.
  std::optional<Time> next_due(MemoryNow now) const {
    std::optional<Time> due;
    if (paused_) return due;
    if (!scheduled_.empty()) due = scheduled_.begin()->first.at;
    for (const MemoryTimeline* line : {&delayed_, &retry_}) {
      if (line->empty()) continue;
      const Time first = to_wall(line->begin()->first.at, now);
      if (!due || first < *due) due = first;
    }
    return due;
  }

  /// When a task may run: an instant of the wall clock, or of the steady clock after a delay.
  struct Due {
    Time at{};
    bool delayed = false;

    bool has_come(MemoryNow now) const noexcept { return at <= (delayed ? now.steady : now.wall); }
    Time steady(MemoryNow now) const noexcept { return delayed ? at : to_steady(at, now); }
    Time wall(MemoryNow now) const noexcept { return delayed ? to_wall(at, now) : at; }
  };

  /// Adds a task that may run at `due`, with a unique lock until `locked_until` on the steady clock
  /// if its message has a key. Returns the reason if it is refused; `task` is moved from only if it
  /// was added.
  std::optional<Errc> add(std::shared_ptr<MemoryTask>& task, MemoryNow now, Due due,
                          Time locked_until) {
    const TaskMessage& message = task->message;
    if (tasks_.find(message.id, task->id_hash)) return Errc::task_id_conflict;
    tasks_.reserve_one();
    const bool lock = !message.unique_key.empty();
    if (lock && !take_lock(message, now, locked_until)) return Errc::duplicate_task;
    try {
      put(*task, due.has_come(now) ? pending(now) : Spot{TaskState::scheduled, due.at, due.delayed},
          now);
    } catch (...) {
      if (lock) free_lock(message);
      throw;
    }
    tasks_.insert(*task);
    ++board_.tasks;
    task->self = task;
    task.reset();
    return std::nullopt;
  }

  /// Ends a run. Returns false, and changes nothing, if it is not the task's present run.
  /// `rewritten` is a copy of the run's task, for actions that change the message; made here if
  /// null.
  bool settle(const Settlement& settlement, std::shared_ptr<MemoryTask> rewritten, MemoryNow now,
              MemoryGraveyard& dead) {
    MemoryTask* task = find_run(settlement.run);
    if (!task) return false;
    const Transition next = transition_of(
        settlement.action, settlement.attempt, settlement.delay,
        {.retention = task->message.retention, .crashes = task->crashes});
    if (next.rewrites()) {
      if (!rewritten || settlement.run.message.get() != &task->message) {
        rewritten = std::make_shared<MemoryTask>(task->message);
      }
      task = &rewrite(*task, std::move(rewritten), dead);
    }
    apply(next, settlement, *task, now, dead);
    return true;
  }

  /// Moves up to `limit` due tasks to pending; returns how many.
  std::size_t forward(MemoryNow now, std::size_t limit) {
    std::size_t moved = 0;
    for (; moved < limit; ++moved) {
      MemoryTask* const next = first_scheduled(now);
      if (next == nullptr || !due_of(*next).has_come(now)) break;
      to_pending(*next, now);
    }
    for (; moved < limit && is_due(retry_, now); ++moved) {
      to_pending(*retry_.begin()->second, now);
    }
    return moved;
  }

  bool has_due(MemoryNow now) const {
    return is_due(scheduled_, now) || is_due(delayed_, now) || is_due(retry_, now);
  }

  /// Returns whether take() would take a task after due tasks were moved to pending.
  bool ready(MemoryNow now) const { return !paused_ && (!pending_.empty() || has_due(now)); }

  /// Takes up to `count` tasks as runs. A worker is free for the first `free_workers` of them; the
  /// others are prefetched. The runs are numbered from `token` on. Returns false if it ended at a
  /// task that must not be prefetched.
  bool take(std::size_t count, std::size_t free_workers, MemoryNow now, Duration lease,
            std::uint64_t& token, std::vector<Run>& runs) {
    runs.reserve(runs.size() + std::min(count, pending_.size()));
    for (; count > 0 && !pending_.empty(); --count) {
      MemoryTask& task = *pending_.front();
      if (free_workers == 0 && (task.message.max_retry == 0 || task.crashes > 0)) return false;
      pending_.remove(task);
      active_.push_back(task);
      task.state = TaskState::active;
      note_change(task);
      const Time ready_at = now.wall - (now.steady - task.at);
      task.at = now.wall;
      task.begun = task.crashes > 0    ? Begun::no
                      : free_workers == 0 ? Begun::perhaps
                                          : Begun::yes;
      if (free_workers > 0) --free_workers;
      runs.push_back(start(task, now, lease, ++token));
      runs.back().ready_at = ready_at;
      // The request was for an earlier run, which was given back.
      if (task.cancel_requested) runs.back().cancel = CancelMode{task.cancel_mode};
    }
    return true;
  }

  /// Returns runs whose tokens are in `token_block` to the front of the queue, the oldest first.
  void give_back(std::uint64_t token_block, MemoryNow now) noexcept {
    for (MemoryTask* task = active_.back(); task != nullptr;) {
      MemoryTask* const older = MemoryTaskList::before(*task);
      if (task->token >> 16 == token_block) move_to_front(*task, now);
      task = older;
    }
  }

  /// Extends the lease of a run to `lease_end` on the steady clock.
  ExtendReply extend(const ExtendRequest& request, Time lease_end) noexcept {
    MemoryTask* task = find_run(request.run);
    if (!task) return {.status = LeaseStatus::lost};
    if (request.begun) task->begun = Begun::yes;
    task->lease_end = lease_end;
    ExtendReply reply;
    if (task->cancel_requested) reply.cancel = CancelMode{task->cancel_mode};
    return reply;
  }

  /// Takes over up to `limit` runs whose workers are lost, except those in `own`. Returns whether
  /// there are more.
  bool recover(MemoryNow now, Duration lease, std::size_t limit, std::span<const Run> own,
               std::uint64_t& token, std::vector<Run>& lost) {
    for (MemoryTask* task = active_.front(); task; task = MemoryTaskList::after(*task)) {
      if (later(task->lease_end, memory_recovery_delay) > now.steady) continue;
      if (std::ranges::find(own, task->token, &Run::token) != own.end()) continue;
      if (limit-- == 0) return true;
      lost.emplace_back();
      lost.back() = start(*task, now, lease, ++token);
    }
    return false;
  }

  /// Deletes up to `limit` completed tasks whose retention has ended; returns how many.
  std::size_t expire(MemoryNow now, std::size_t limit, MemoryGraveyard& dead) {
    std::size_t deleted = 0;
    for (; deleted < limit && has_expired(now); ++deleted) {
      erase(*completed_.begin()->second, dead);
    }
    return deleted;
  }

  bool has_expired(MemoryNow now) const { return is_due(completed_, now); }

  MemoryTask* find(std::string_view id) const noexcept { return tasks_.find(id); }

  /// Returns when a scheduled task or a retry may run.
  static Due due_of(const MemoryTask& task) noexcept {
    return {task.at, task.delayed || task.state == TaskState::retry};
  }

  void act(TaskAction action, MemoryTask& task, MemoryNow now, MemoryGraveyard& dead) {
    task.cancel_requested = false;
    switch (action) {
      case TaskAction::run:
        task.crashes = 0;
        return move(task, pending(now), now);
      case TaskAction::archive: return move(task, {TaskState::archived, now.wall}, now);
      case TaskAction::remove: return erase(task, dead);
    }
  }

  /// Applies `action` to up to `limit` tasks of `state`, which must allow it; returns how many.
  std::size_t act_all(TaskAction action, TaskState state, std::size_t limit, MemoryNow now,
                      MemoryGraveyard& dead) {
    std::size_t done = 0;
    for (; done < limit; ++done) {
      MemoryTask* task = first(state, now);
      if (!task) break;
      act(action, *task, now, dead);
    }
    return done;
  }

  TrimReply trim(const TrimRequest& request, MemoryNow now, MemoryGraveyard& dead) {
    TrimReply reply;
    const Time oldest_allowed = now.wall - request.max_age;
    for (; reply.deleted < request.limit && !archived_.empty(); ++reply.deleted) {
      const auto [since, task] = *archived_.begin();
      if (archived_.size() <= request.max_tasks && since.at >= oldest_allowed) break;
      erase(*task, dead);
    }
    constexpr std::size_t most_counted = 1000;
    std::size_t too_old = 0;
    for (const auto& [since, task] : archived_) {
      if (since.at >= oldest_allowed || too_old == most_counted) break;
      ++too_old;
    }
    const std::size_t size = archived_.size();
    reply.excess = std::max(size - std::min(size, request.max_tasks), too_old);
    return reply;
  }

  /// Replaces `old` by `fresh`, a copy of its message.
  MemoryTask& rewrite(MemoryTask& old, std::shared_ptr<MemoryTask> fresh, MemoryGraveyard& dead) {
    MemoryTask& task = *fresh;
    tasks_.replace(old, task);
    if (MemoryTaskList* list = list_of(old.state)) {
      list->replace(old, task);
    } else {
      std::construct_at(&task.place.entry, old.place.entry);
      task.place.entry->second = &task;
    }
    task.result = std::move(old.result);
    task.at = old.at;
    task.lease_end = old.lease_end;
    task.token = old.token;
    task.crashes = old.crashes;
    task.begun = old.begun;
    task.state = old.state;
    task.delayed = old.delayed;
    task.watched = old.watched;
    task.cancel_mode = old.cancel_mode;
    task.cancel_requested = old.cancel_requested;
    dead.bury(old);
    task.self = std::move(fresh);
    return task;
  }

  QueueInfo info(MemoryNow now) const {
    const DailyStats today = statistics_.on(std::chrono::floor<std::chrono::days>(now.wall));
    QueueInfo info;
    info.paused = paused_;
    info.pending = pending_.size();
    info.active = active_.size();
    info.scheduled = scheduled_.size() + delayed_.size();
    info.retry = retry_.size();
    info.archived = archived_.size();
    info.completed = completed_.size();
    // The clock was read before the lock was taken, so another thread may have added a later task.
    if (!pending_.empty()) info.latency = std::max(Duration{0}, now.steady - pending_.front()->at);
    info.processed_today = today.processed;
    info.failed_today = today.failed;
    info.processed_total = statistics_.processed();
    info.failed_total = statistics_.failed();
    return info;
  }

  const MemoryStatistics& statistics() const noexcept { return statistics_; }

  /// Calls `visit` with the tasks of `state` in the order of list(), beginning where `cursor` says
  /// (at the first if it is empty), until it returns false. Of archived tasks, visits those that
  /// were archived after `after` and not after `until`, where these are given. Returns the cursor
  /// of the task that `visit` refused; empty if it refused none. Throws Error{invalid_argument} for
  /// a cursor that is none.
  template <typename Visit>
  std::string walk(TaskState state, std::string_view cursor, std::optional<Time> after,
                   std::optional<Time> until, MemoryNow now, Visit visit) const {
    if (state == TaskState::scheduled) return walk_scheduled(cursor, now, visit);
    if (const MemoryTaskList* list = list_of(state)) return walk_list(*list, state, cursor, visit);
    const MemoryTimeline* const line = timeline_of(state, false);
    if (!line) return {};
    if (state != TaskState::archived) after = until = std::nullopt;
    return walk_timeline(*line, state, cursor, after, until, visit);
  }

 private:
  struct Lock {
    std::string holder;  ///< A task id.
    Time until;          ///< On the steady clock.
  };

  /// The place where a task is to be linked; `at` and `delayed` as in MemoryTask.
  struct Spot {
    TaskState state;
    Time at;
    bool delayed = false;
  };

  static Spot pending(MemoryNow now) noexcept { return {TaskState::pending, now.steady}; }

  using Slot = std::optional<MemoryTimeline::iterator>;  // none in a list

  const MemoryTaskList* list_of(TaskState state) const noexcept {
    if (state == TaskState::pending) return &pending_;
    if (state == TaskState::active) return &active_;
    return nullptr;
  }
  MemoryTaskList* list_of(TaskState state) noexcept {
    return const_cast<MemoryTaskList*>(std::as_const(*this).list_of(state));
  }

  const MemoryTimeline* timeline_of(TaskState state, bool delayed) const noexcept {
    switch (state) {
      case TaskState::scheduled: return delayed ? &delayed_ : &scheduled_;
      case TaskState::retry: return &retry_;
      case TaskState::archived: return &archived_;
      case TaskState::completed: return &completed_;
      case TaskState::pending:
      case TaskState::active:
      case TaskState::aggregating: break;
    }
    return nullptr;
  }
  MemoryTimeline* timeline_of(TaskState state, bool delayed) noexcept {
    return const_cast<MemoryTimeline*>(std::as_const(*this).timeline_of(state, delayed));
  }

  /// Returns whether the first task of `line` is due on the clock of that timeline.
  bool is_due(const MemoryTimeline& line, MemoryNow now) const noexcept {
    return !line.empty() &&
           line.begin()->first.at <= (&line == &scheduled_ ? now.wall : now.steady);
  }

  static std::string kind_of_cursor(TaskState state) {
    return "memory " + std::string{to_string(state)};
  }

  /// A task leaves a list at any time; so a cursor names the last ones that were visited. One that is still
  /// there, which its token shows, leads to the place.
  struct Named {
    std::string id;
    std::uint64_t token;
  };

  template <typename Visit>
  std::string walk_list(const MemoryTaskList& list, TaskState state, std::string_view cursor,
                        Visit& visit) const {
    constexpr std::size_t most_named = 8;
    std::vector<Named> named;  // The last one last.
    const MemoryTask* task = list.front();
    if (!cursor.empty()) {
      CursorReader reader{kind_of_cursor(state), cursor};
      do {
        std::string id = reader.next();
        named.push_back({std::move(id), static_cast<std::uint64_t>(reader.next_number())});
      } while (!reader.at_end() && named.size() < most_named);
      reader.expect_end();
      task = next_in_list(list, state, named);
    }
    std::vector<const MemoryTask*> visited;
    for (; task && visit(*task); task = MemoryTaskList::after(*task)) visited.push_back(task);
    if (!task) return {};
    const std::size_t fresh = std::min(visited.size(), most_named);
    const std::size_t kept = std::min(named.size(), most_named - fresh);
    CursorWriter writer{kind_of_cursor(state)};
    const auto add_named = [&writer](const std::string& id, std::uint64_t token) {
      writer.add(id).add(static_cast<std::int64_t>(token));
    };
    for (std::size_t i = named.size() - kept; i < named.size(); ++i)
      add_named(named[i].id, named[i].token);
    for (std::size_t i = visited.size() - fresh; i < visited.size(); ++i)
      add_named(visited[i]->message.id, visited[i]->token);
    return writer.text();
  }

  /// The task behind the last one of `named`. If all of these have left, their ranks lead to the place in
  /// pending; in active, nothing does, and it is the first task.
  const MemoryTask* next_in_list(const MemoryTaskList& list, TaskState state,
                                 const std::vector<Named>& named) const noexcept {
    const bool ranked = state == TaskState::pending;
    const std::uint64_t last_rank = named.back().token;
    for (auto known = named.rbegin(); known != named.rend(); ++known) {
      const MemoryTask* task = tasks_.find(known->id);
      if (!task || task->state != state || task->token != known->token) continue;
      do {
        task = MemoryTaskList::after(*task);
      } while (ranked && task && task->token <= last_rank);
      return task;
    }
    return ranked ? list.first_above(last_rank) : list.front();
  }

  static void add(CursorWriter& writer, const MemoryInstant& place) {
    writer.add(place.at.time_since_epoch().count()).add(static_cast<std::int64_t>(place.number));
  }
  static MemoryInstant read_instant(CursorReader& reader) {
    const Time at{Duration{reader.next_number()}};
    return {at, static_cast<std::uint64_t>(reader.next_number())};
  }

  static constexpr MemoryInstant before_all{Time::min(), 0};

  template <typename Visit>
  std::string walk_timeline(const MemoryTimeline& line, TaskState state, std::string_view cursor,
                            std::optional<Time> after, std::optional<Time> until,
                            Visit& visit) const {
    MemoryInstant last = before_all;
    if (after) last = {*after, std::numeric_limits<std::uint64_t>::max()};
    if (!cursor.empty()) {
      CursorReader reader{kind_of_cursor(state), cursor};
      last = std::max(last, read_instant(reader));
      reader.expect_end();
    }
    for (auto entry = line.upper_bound(last); entry != line.end(); ++entry) {
      if (until && entry->first.at > *until) break;
      if (!visit(*entry->second)) {
        CursorWriter writer{kind_of_cursor(state)};
        add(writer, last);
        return writer.text();
      }
      last = entry->first;
    }
    return {};
  }

  /// Visits scheduled tasks in the order of their due times. A cursor holds the positions in both
  /// timelines, whose relative order changes if the wall clock is stepped.
  template <typename Visit>
  std::string walk_scheduled(std::string_view cursor, MemoryNow now, Visit& visit) const {
    MemoryInstant last_instant = before_all;
    MemoryInstant last_delayed = before_all;
    if (!cursor.empty()) {
      CursorReader reader{kind_of_cursor(TaskState::scheduled), cursor};
      last_instant = read_instant(reader);
      last_delayed = read_instant(reader);
      reader.expect_end();
    }
    auto instant = scheduled_.upper_bound(last_instant);
    auto delayed = delayed_.upper_bound(last_delayed);
    while (instant != scheduled_.end() || delayed != delayed_.end()) {
      const bool take_instant =
          instant != scheduled_.end() &&
          (delayed == delayed_.end() || instant->first.at <= to_wall(delayed->first.at, now));
      auto& entry = take_instant ? instant : delayed;
      if (!visit(*entry->second)) {
        CursorWriter writer{kind_of_cursor(TaskState::scheduled)};
        add(writer, last_instant);
        add(writer, last_delayed);
        return writer.text();
      }
      (take_instant ? last_instant : last_delayed) = entry->first;
      ++entry;
    }
    return {};
  }

  /// Returns the scheduled task that is due first.
  MemoryTask* first_scheduled(MemoryNow now) const noexcept {
    if (delayed_.empty()) return scheduled_.empty() ? nullptr : scheduled_.begin()->second;
    const auto delayed = delayed_.begin();
    if (scheduled_.empty()) return delayed->second;
    const auto instant = scheduled_.begin();
    return instant->first.at <= to_wall(delayed->first.at, now) ? instant->second : delayed->second;
  }

  MemoryTask* first(TaskState state, MemoryNow now) noexcept {
    if (state == TaskState::scheduled) return first_scheduled(now);
    if (MemoryTaskList* list = list_of(state)) return list->front();
    MemoryTimeline* line = timeline_of(state, false);
    return line && !line->empty() ? line->begin()->second : nullptr;
  }

  MemoryTask* find_run(const Run& run) const noexcept {
    if (!run.message) return nullptr;
    MemoryTask* task = tasks_.find(run.message->id);
    if (!task || task->state != TaskState::active || task->token != run.token) return nullptr;
    return task;
  }

  /// Makes `task` active as the run `token`.
  static Run start(MemoryTask& task, MemoryNow now, Duration lease, std::uint64_t token) {
    task.token = token;
    task.lease_end = later(now.steady, lease);
    return {.message = task.share(),
            .token = token,
            .crashes = task.crashes,
            .begun = task.begun};
  }

  /// Records that a task may be ready at `instant` on the steady clock.
  void tell(Time instant) noexcept {
    if (!paused_) note_news(instant);
  }

  void note_news(Time instant) noexcept {
    if (news_ && *news_ <= instant) return;
    if (!news_) next_changed_ = std::exchange(board_.changed, this);
    news_ = instant;
  }

  /// The state of a task has changed.
  void note_change(MemoryTask& task) noexcept {
    if (!task.watched) return;
    task.watched = false;
    task_watches_.note_change(task.message.id);
    note_news(Time::max());  // Nothing is ready.
  }

  /// Links a task that is not linked yet, last among those of its state.
  void put(MemoryTask& task, Spot spot, MemoryNow now) {
    const Slot slot = reserve(task, spot);
    link(task, slot, spot, now);
  }

  void move(MemoryTask& task, Spot to, MemoryNow now) {
    const Slot slot = reserve(task, to);
    unlink(task);
    link(task, slot, to, now);
  }

  /// The part of a move that can fail, done before anything changes.
  Slot reserve(MemoryTask& task, Spot spot) {
    MemoryTimeline* line = timeline_of(spot.state, spot.delayed);
    if (!line) return std::nullopt;
    return line->emplace(MemoryInstant{spot.at, ++number_}, &task).first;
  }

// GCC 12 assumes that pointers may be null which std::multimap, or the state of a task, guarantees
// not to be.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wnull-dereference"
  void link(MemoryTask& task, Slot slot, Spot spot, MemoryNow now) noexcept {
    if (slot) {
      std::construct_at(&task.place.entry, *slot);
    } else {
      list_of(spot.state)->push_back(task);
    }
    task.state = spot.state;
    task.at = spot.at;
    task.delayed = spot.delayed;
    note_change(task);
    if (spot.state == TaskState::pending) tell(Time::min());
    if (spot.state == TaskState::scheduled || spot.state == TaskState::retry) {
      tell(due_of(task).steady(now));
    }
  }

  void unlink(MemoryTask& task) noexcept {
    if (MemoryTaskList* list = list_of(task.state)) {
      list->remove(task);
    } else {
      timeline_of(task.state, task.delayed)->erase(task.place.entry);
    }
  }
#pragma GCC diagnostic pop

  void move_to_front(MemoryTask& task, MemoryNow now) noexcept {
    unlink(task);
    pending_.push_front(task);
    task.state = TaskState::pending;
    task.at = now.steady;
    task.delayed = false;
    note_change(task);
    tell(Time::min());
  }

  /// Moves a due task to pending: to the back, or to the front if its workers were lost. Its
  /// waiting time counts from when it was due.
  void to_pending(MemoryTask& task, MemoryNow now) {
    const Time due = due_of(task).steady(now);
    task.crashes > 0 ? move_to_front(task, now) : move(task, pending(now), now);
    task.at = due;
  }

  void erase(MemoryTask& task, MemoryGraveyard& dead) noexcept {
    free_lock(task.message);
    note_change(task);
    unlink(task);
    tasks_.erase(task);
    --board_.tasks;
    dead.bury(task);
  }

  /// If it throws std::bad_alloc, the run has not ended and nothing was counted.
  void apply(const Transition& next, const Settlement& settlement, MemoryTask& task, MemoryNow now,
             MemoryGraveyard& dead) {
    if (next.processed) statistics_.begin_day(now.wall);
    if (!next.to) {
      if (next.processed) statistics_.count(now.wall, next.failed);
      return erase(task, dead);
    }
    if (next.notes_error) task.message.last_error = settlement.error;
    std::unique_ptr<std::string> result;
    if (settlement.result) result = std::make_unique<std::string>(*settlement.result);
    const Spot spot = spot_after(next, now);
    const Slot slot = next.first_in_line ? std::nullopt : reserve(task, spot);
    // Nothing below fails.
    if (next.processed) statistics_.count(now.wall, next.failed);
    if (result) task.result = std::move(result);
    if (next.rewrites()) stamp(next, task.message, now.wall);
    if (!next.keeps_wish) task.cancel_requested = false;
    task.crashes = static_cast<std::uint16_t>(next.crashes);
    if (next.frees_lock) free_lock(task.message);
    if (next.first_in_line) return move_to_front(task, now);
    unlink(task);
    link(task, slot, spot, now);
  }

  static void stamp(const Transition& next, TaskMessage& message, Time now) noexcept {
    if (next.notes_error) message.last_failed_at = now;
    if (next.uses_retry) ++message.retried;
    if (next.to == TaskState::completed) message.completed_at = now;
  }

  static Spot spot_after(const Transition& next, MemoryNow now) noexcept {
    const TaskState to = next.to.value_or(TaskState::pending);
    if (to == TaskState::pending) return pending(now);
    if (to == TaskState::archived) return {to, now.wall};
    return {to, later(now.steady, next.due_in), to == TaskState::scheduled};
  }

  bool take_lock(const TaskMessage& message, MemoryNow now, Time until) {
    Lock& lock = locks_[message.unique_key];
    if (!lock.holder.empty() && lock.until > now.steady) return false;
    lock = {message.id, until};
    return true;
  }

  void free_lock(const TaskMessage& message) noexcept {
    if (message.unique_key.empty()) return;
    const auto lock = locks_.find(message.unique_key);
    if (lock != locks_.end() && lock->second.holder == message.id) locks_.erase(lock);
  }

  const std::string name_;
  MemoryTaskTable tasks_;
  MemoryTaskList pending_;
  MemoryTaskList active_;
  MemoryTimeline scheduled_;  // for an instant, by the wall clock
  MemoryTimeline delayed_;    // scheduled after a delay, by the steady clock
  MemoryTimeline retry_;      // by the steady clock
  MemoryTimeline archived_;   // by the wall clock
  MemoryTimeline completed_;  // by the end of retention, by the steady clock
  std::unordered_map<std::string, Lock> locks_;
  std::uint64_t number_ = 0;  // of the last task added to a timeline
  MemoryIds ids_;
  MemoryStatistics statistics_;
  MemoryTaskWatches task_watches_;
  MemoryBoard& board_;
  bool noted_ = false;
  MemoryQueue* next_changed_ = nullptr;
  std::optional<Time> news_;
  bool paused_ = false;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
