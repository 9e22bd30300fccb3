#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/clock.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// The calls that may have taken tasks and whose replies were lost. Each is named to the broker
/// again (recalled) until the broker has answered that it is over: at first by the next call, and
/// then at intervals, since a server that was stuck may still carry it out. Not thread-safe.
class LostTakes {
 public:
  /// Token blocks are counted from `start`, which must be random; see ExchangeRequest::token_block.
  explicit LostTakes(std::uint64_t start) noexcept : block_{start} {}

  /// Returns the token block of the next call.
  std::uint64_t next_block() noexcept {
    do {
      block_ = (block_ + 1) & 0xffff'ffff'ffff;
    } while (block_ == 0);
    return block_;
  }

  bool empty() const noexcept { return lost_.empty(); }

  /// Whether `queue` may still hold tasks of a lost call: these come before others of that queue.
  bool owed_by(const std::string& queue) const noexcept {
    return std::any_of(lost_.begin(), lost_.end(), [&](const Lost& lost) {
      const std::vector<std::string>& queues = lost.take.queues;
      return !lost.take.answered && std::find(queues.begin(), queues.end(), queue) != queues.end();
    });
  }

  /// When a call must recall them next; never if there is none.
  std::optional<SteadyTime> recall_at() const noexcept { return recall_at_; }

  /// Returns what a call that is sent at `now` must name as lost; nothing before recall_at().
  std::vector<LostTake> to_recall(SteadyTime now) const {
    std::vector<LostTake> takes;
    if (!recall_at_ || now < *recall_at_) return takes;
    for (const Lost& lost : lost_) {
      takes.push_back(lost.take);
      takes.back().age = std::chrono::duration_cast<Duration>(now - lost.sent_at);
    }
    return takes;
  }

  /// Makes room for the next add(), so that it needs no memory, if the call asks at most `queues`.
  void reserve(std::size_t queues) {
    lost_.reserve(lost_.size() + 1);
    queues_.reserve(queues);
  }

  /// The reply of the call `block`, which was sent at `sent_at`, did not come or could not be kept.
  /// reserve() must have been called before the call was sent.
  void add(std::uint64_t block, std::vector<QueueQuota>&& quotas, SteadyTime sent_at) noexcept {
    if (quotas.empty()) return;
    for (QueueQuota& quota : quotas) queues_.push_back(std::move(quota.queue));
    lost_.push_back({{.token_block = block, .queues = std::exchange(queues_, {})}, sent_at});
    recall_at_ = sent_at;
  }

  /// The reply of the call `block`, which was sent at `sent_at`, said `takes` of lost calls: of the
  /// call itself and, if it has `recalled` them, of the earlier ones.
  void note_reply(std::span<const LostTake> takes, std::uint64_t block, SteadyTime sent_at,
                  bool recalled) {
    if (takes.empty() && !recalled) return;
    std::vector<Lost> open;
    if (!recalled) open = lost_;
    bool own = false;
    for (const LostTake& take : takes) {
      if (take.token_block == block) {
        open.push_back({take, sent_at});
        own = true;
        continue;
      }
      const auto known = std::find_if(lost_.begin(), lost_.end(), [&](const Lost& lost) {
        return lost.take.token_block == take.token_block;
      });
      if (recalled && known != lost_.end()) open.push_back({take, known->sent_at});
    }
    lost_ = std::move(open);
    if (lost_.empty()) {
      recall_at_.reset();
    } else if (own) {
      recall_at_ = sent_at;
    } else if (recalled) {
      recall_at_ = sent_at + interval;
    }
  }

 private:
  static constexpr Duration interval = std::chrono::milliseconds{500};

  struct Lost {
    LostTake take;
    SteadyTime sent_at;
  };

  std::vector<Lost> lost_;
  std::vector<std::string> queues_;  ///< Room for the names of the next lost call; empty.
  std::optional<SteadyTime> recall_at_;
  std::uint64_t block_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
