#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "redis/session/session.hpp"
#include "taskmux/broker.hpp"
#include "taskmux/detail/base/mutex.hpp"

// The operations of Broker, made of scripts; see Broker for the contract of each.
namespace taskmux::redis {

class WatchHub;

std::vector<EnqueueReply> enqueue(Session& session, std::vector<EnqueueRequest> batch);

ExchangeReply exchange(Session& session, const ExchangeRequest& request);

std::vector<ExtendReply> extend(Session& session, std::span<const ExtendRequest> runs, Duration lease);

OpenReply open(Session& session, std::span<const std::string> queues);

/// The steps of upkeep. A step calls the script for each queue unless the queue is known to need
/// nothing: a watch has looked at it, Redis has reported no change since, and the first time at which
/// work is due has not come. Some of those queues are checked nevertheless, in turn, in case a
/// notification was lost; their watches then get a hint. Thread-safe.
class Upkeep {
 public:
  /// `watches` must outlive this.
  explicit Upkeep(WatchHub& watches) : watches_{watches} {}

  UpkeepReply step(Session& session, const UpkeepRequest& request);

 private:
  /// What is known from the last call about a queue.
  struct Known {
    std::int64_t due_rank = 0;     ///< Where it stopped checking tmx:due,
    std::int64_t active_rank = 0;  ///< and active.
    std::uint64_t look = 0;        ///< The watch's last look before the call; 0: this is invalid.
    Time work_at = Time::max();    ///< When work is due if nothing changes.
    std::optional<Time> due{};     ///< As UpkeepReply::next_due.
    std::uint64_t step = 0;        ///< The number of the last step that called for it.
  };
  struct Queue {
    std::string name;
    std::uint64_t look = 0;   ///< See WatchHub::looks().
    std::uint64_t block = 0;  ///< Of the tokens of its runs.
    std::int64_t due_rank = 0;
    std::int64_t active_rank = 0;
  };

  std::vector<Queue> choose(const Session& session, const UpkeepRequest& request,
                            UpkeepReply& reply);
  static Call call_on(Session& session, const UpkeepRequest& request, std::span<Queue> part);
  std::size_t read(Session& session, std::span<const Queue> part, const Reply& answer,
                   UpkeepReply& reply);
  void read_queue(Session& session, const Queue& queue, ReplyView answer, UpkeepReply& reply);
  void remember(const Session& session, const Queue& queue, ReplyView answer);

  WatchHub& watches_;
  detail::Mutex mutex_;
  std::map<std::string, Known, std::less<>> known_ TASKMUX_GUARDED_BY(mutex_);
  std::uint64_t steps_ TASKMUX_GUARDED_BY(mutex_) = 0;
};

/// As stored in tmx_cancel.
std::string_view to_string(CancelMode mode) noexcept;
/// The reverse, for the first word; an unknown word means asynq's own mode.
CancelMode parse_cancel_mode(std::string_view words) noexcept;

}  // namespace taskmux::redis
