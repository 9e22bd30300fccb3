#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

struct MemoryTask;

/// The present time on two clocks. `steady` agrees with the wall clock when the broker is made, and
/// is not affected by steps of the wall clock: leases and delays use it, so that they last as long
/// as intended. Instants that an application passes use `wall`.
struct MemoryNow {
  Time wall{};
  Time steady{};
};

/// Returns `instant` + `length`, or Time::max() on overflow.
inline Time later(Time instant, Duration length) noexcept {
  if (length > Duration{0} && instant > Time::max() - length) return Time::max();
  return instant + length;
}

/// Convert an instant of the wall clock to one of the steady clock, and the reverse, assuming that
/// the wall clock is not stepped in between.
inline Time to_steady(Time instant, MemoryNow now) noexcept {
  return later(now.steady, instant - now.wall);
}
inline Time to_wall(Time instant, MemoryNow now) noexcept {
  return later(now.wall, instant - now.steady);
}

/// A key of MemoryTimeline: an instant, and a number that keeps tasks with the same instant in
/// order of insertion.
struct MemoryInstant {
  Time at{};
  std::uint64_t number = 0;

  friend bool operator<(const MemoryInstant& a, const MemoryInstant& b) noexcept {
    return a.at != b.at ? a.at < b.at : a.number < b.number;
  }
};

/// Tasks ordered by an instant.
using MemoryTimeline = std::map<MemoryInstant, MemoryTask*>;

/// A task as the memory broker stores it: one allocation, whose message is shared with the runs of
/// the task. Each byte here costs memory for each pending task.
struct MemoryTask {
  /// The links of a task: in a MemoryTaskList (pending, active) or a MemoryTimeline (the other
  /// states).
  union Place {
    struct Links {
      MemoryTask* previous;
      MemoryTask* next;
    } links{nullptr, nullptr};
    MemoryTimeline::iterator entry;
  };

  explicit MemoryTask(TaskMessage&& task_message)
      : message{std::move(task_message)},
        id_hash{static_cast<std::uint32_t>(std::hash<std::string_view>{}(message.id))} {}
  explicit MemoryTask(const TaskMessage& task_message) : MemoryTask{TaskMessage{task_message}} {}
  MemoryTask(const MemoryTask&) = delete;
  MemoryTask& operator=(const MemoryTask&) = delete;

  std::shared_ptr<const TaskMessage> share() const {
    return std::shared_ptr<const TaskMessage>{self, &message};
  }

  /// Constant once the task is stored, since runs share it: a change makes a new task that replaces
  /// this one.
  TaskMessage message;
  std::shared_ptr<MemoryTask> self{};     ///< The broker's reference, while the task is stored.
  std::unique_ptr<std::string> result{};  ///< Null: none.
  MemoryTask* next_in_bucket = nullptr;
  Place place{};
  /// On the wall clock: active, archived: since when; scheduled for an instant: due. On the steady
  /// clock: pending: since when; scheduled after a delay, retry: due; completed: end of retention.
  Time at{};
  Time lease_end{};         ///< Active. By the steady clock.
  /// Active: of the present run. Pending: a rank instead, which grows from the front to the back.
  std::uint64_t token = 0;
  std::uint32_t id_hash;
  std::uint16_t crashes = 0;
  TaskState state : 6 = TaskState::pending;
  bool watched : 1 = false;                        ///< Known to the MemoryTaskWatches of its queue.
  bool delayed : 1 = false;                        ///< Scheduled: after a delay.
  Begun begun : 3 = Begun::yes;                   ///< Active.
  CancelMode cancel_mode : 4 = CancelMode::retry;  ///< Valid if `cancel_requested`.
  bool cancel_requested : 1 = false;               ///< Active.
};

/// Prefetches the memory of the task that holds `message`: settled tasks were last used by another
/// core. Harmless for a message that is not in a task, and for null.
inline void prefetch_task(const TaskMessage* message) noexcept {
#if defined(__GNUC__)
  constexpr std::size_t cache_line = 64;
  const char* const begin = reinterpret_cast<const char*>(message);
  for (std::size_t at = 0; at < sizeof(MemoryTask); at += cache_line) {
    __builtin_prefetch(begin + at, 1);
  }
#endif
}

/// Tasks in a line, with ranks for tokens until they get others. Owns nothing. Not thread-safe.
class MemoryTaskList {
 public:
  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  MemoryTask* front() const noexcept { return front_; }
  MemoryTask* back() const noexcept { return back_; }
  static MemoryTask* after(const MemoryTask& task) noexcept { return task.place.links.next; }
  static MemoryTask* before(const MemoryTask& task) noexcept { return task.place.links.previous; }

  void push_back(MemoryTask& task) noexcept {
    task.token = next_rank_++;
    link(task, back_, nullptr);
  }
  void push_front(MemoryTask& task) noexcept {
    task.token = --first_rank_;
    link(task, nullptr, front_);
  }

  /// The first task of pending whose rank is above `rank`; null if there is none. Looks from the end that is
  /// nearer by rank.
  MemoryTask* first_above(std::uint64_t rank) const noexcept {
    if (empty() || back_->token <= rank) return nullptr;
    MemoryTask* task = front_;
    if (rank < task->token) return task;
    if (rank - task->token < back_->token - rank) {
      while (task->token <= rank) task = after(*task);
      return task;
    }
    task = back_;
    while (MemoryTask* previous = before(*task)) {
      if (previous->token <= rank) break;
      task = previous;
    }
    return task;
  }

  void remove(MemoryTask& task) noexcept {
    const auto [previous, next] = task.place.links;
    (previous ? previous->place.links.next : front_) = next;
    (next ? next->place.links.previous : back_) = previous;
    --size_;
  }

  /// Replaces `old` by `fresh`.
  void replace(MemoryTask& old, MemoryTask& fresh) noexcept {
    const auto [previous, next] = old.place.links;
    remove(old);
    fresh.token = old.token;
    link(fresh, previous, next);
  }

 private:
  void link(MemoryTask& task, MemoryTask* previous, MemoryTask* next) noexcept {
    std::construct_at(&task.place.links, MemoryTask::Place::Links{previous, next});
    (previous ? previous->place.links.next : front_) = &task;
    (next ? next->place.links.previous : back_) = &task;
    ++size_;
  }

  MemoryTask* front_ = nullptr;
  MemoryTask* back_ = nullptr;
  std::size_t size_ = 0;
  std::uint64_t first_rank_ = std::uint64_t{1} << 63;
  std::uint64_t next_rank_ = first_rank_;
};

/// A hash table of tasks by id. Owns nothing. Not thread-safe.
class MemoryTaskTable {
 public:
  std::size_t size() const noexcept { return size_; }

  MemoryTask* find(std::string_view id) const noexcept {
    if (size_ == 0) return nullptr;
    return find(id, static_cast<std::uint32_t>(std::hash<std::string_view>{}(id)));
  }

  MemoryTask* find(std::string_view id, std::uint32_t id_hash) const noexcept {
    if (size_ == 0) return nullptr;
    for (MemoryTask* task = buckets_[slot(id_hash)]; task; task = task->next_in_bucket) {
      if (task->id_hash == id_hash && task->message.id == id) return task;
    }
    return nullptr;
  }

  /// Makes room, so that the next insert() can't fail.
  void reserve_one() {
    if (size_ == buckets_.size()) grow();
  }

  void insert(MemoryTask& task) noexcept {
    MemoryTask*& bucket = buckets_[slot(task.id_hash)];
    task.next_in_bucket = bucket;
    bucket = &task;
    ++size_;
  }

  void erase(MemoryTask& task) noexcept {
    *link_to(task) = task.next_in_bucket;
    --size_;
  }

  /// Replaces `old` by `fresh`, which has the same id.
  void replace(MemoryTask& old, MemoryTask& fresh) noexcept {
    fresh.next_in_bucket = old.next_in_bucket;
    *link_to(old) = &fresh;
  }

  template <typename Function>
  void for_each(Function function) {
    for (MemoryTask* task : buckets_) {
      while (task) {
        MemoryTask* next = task->next_in_bucket;
        function(*task);
        task = next;
      }
    }
  }

 private:
  std::size_t slot(std::uint32_t id_hash) const noexcept { return id_hash & (buckets_.size() - 1); }

  MemoryTask** link_to(MemoryTask& task) noexcept {
    MemoryTask** link = &buckets_[slot(task.id_hash)];
    while (*link != &task) link = &(*link)->next_in_bucket;
    return link;
  }

  void grow() {
    std::vector<MemoryTask*> old(buckets_.empty() ? 64 : buckets_.size() * 2);
    old.swap(buckets_);
    for (MemoryTask* task : old) {
      while (task) {
        MemoryTask* next = task->next_in_bucket;
        MemoryTask*& bucket = buckets_[slot(task->id_hash)];
        task->next_in_bucket = bucket;
        bucket = task;
        task = next;
      }
    }
  }

  std::vector<MemoryTask*> buckets_;  // a power of two
  std::size_t size_ = 0;
};

/// Tasks that were removed. The destructor frees them, so that a caller can free them after it has
/// released the lock. Not thread-safe.
class MemoryGraveyard {
 public:
  MemoryGraveyard() = default;
  MemoryGraveyard(const MemoryGraveyard&) = delete;
  MemoryGraveyard& operator=(const MemoryGraveyard&) = delete;
  ~MemoryGraveyard() {
    while (top_) {
      MemoryTask* task = top_;
      top_ = task->next_in_bucket;
      const std::shared_ptr<MemoryTask> last = std::move(task->self);
    }
  }

  void bury(MemoryTask& task) noexcept {
    task.next_in_bucket = top_;
    top_ = &task;
  }

 private:
  MemoryTask* top_ = nullptr;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
