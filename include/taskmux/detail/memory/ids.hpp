#pragma once

#include <algorithm>
#include <cstddef>
#include <unordered_map>
#include <vector>

#include "taskmux/detail/memory/unique_key.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The ids that one queue remembers for EnqueueOptions::idempotent_for. Stores a digest of each, so
/// that a long id needs no more memory than a short one. All times are of the steady clock, and are
/// passed in. Not thread-safe.
class MemoryIds {
 public:
  using Digest = SipHash128::Digest;

 private:
  struct Hash {
    std::size_t operator()(const Digest& id) const noexcept {
      return static_cast<std::size_t>(id[0]);
    }
  };
  using Ends = std::unordered_map<Digest, Time, Hash>;

 public:
  /// An id that is to be remembered. The constructor does everything that can fail; the destructor
  /// removes the id again unless it was kept.
  class Entry {
   public:
    /// `id` must not be remembered already.
    Entry(MemoryIds& ids, const Digest& id) : ids_{ids} {
      auto& queue = ids.queue_;
      if (queue.size() == queue.capacity()) {
        queue.reserve(std::max<std::size_t>(16, queue.size() + queue.size() / 2));
      }
      place_ = ids.ends_.try_emplace(id).first;
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;
    ~Entry() {
      if (!kept_) ids_.ends_.erase(place_);
    }

    void keep_until(Time end) noexcept {
      place_->second = end;
      ids_.queue_.push_back({end, place_->first});
      std::push_heap(ids_.queue_.begin(), ids_.queue_.end(), is_later);
      kept_ = true;
    }

   private:
    MemoryIds& ids_;
    Ends::iterator place_{};
    bool kept_ = false;
  };

  bool holds(const Digest& id, Time now) const noexcept {
    const auto found = ends_.find(id);
    return found != ends_.end() && found->second > now;
  }

  bool has_expired(Time now) const noexcept { return !queue_.empty() && queue_.front().at <= now; }

  /// Removes up to `limit` ids whose time has ended.
  void expire(Time now, std::size_t limit) noexcept {
    if (!has_expired(now)) return;
    for (; limit > 0 && has_expired(now); --limit) {
      const End end = queue_.front();
      std::pop_heap(queue_.begin(), queue_.end(), is_later);
      queue_.pop_back();
      // An id that was remembered again has another end.
      const auto found = ends_.find(end.id);
      if (found != ends_.end() && found->second == end.at) ends_.erase(found);
    }
    if (queue_.empty()) {
      std::vector<End>{}.swap(queue_);
      Ends{}.swap(ends_);
    }
  }

 private:
  struct End {
    Time at;
    Digest id;
  };

  static bool is_later(const End& one, const End& other) noexcept { return one.at > other.at; }

  Ends ends_;
  std::vector<End> queue_;  // A heap, the earliest end first.
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
