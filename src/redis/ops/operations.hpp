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

// The operations of Broker, in terms of scripts; each as its contract there says.
namespace taskmux::redis {

class WatchHub;

std::vector<EnqueueReply> enqueue(Session& session, std::vector<EnqueueRequest> batch);

ExchangeReply exchange(Session& session, const ExchangeRequest& request);

std::vector<ExtendReply> extend(Session& session, std::span<const ExtendRequest> runs, Duration lease);

OpenReply open(Session& session, std::span<const std::string> queues);

/// The steps of upkeep. A step asks each queue unless it is known to have nothing to do: a watch has
/// looked at it, Redis has not told of a change since, and the first instant at which there is something
/// to do has not come. Some of those are asked all the same, in turn, in case a notice was lost; who
/// watches is then told. Thread-safe.
class Upkeep {
 public:
  /// `watches` must outlive this.
  explicit Upkeep(WatchHub& watches) : watches_{watches} {}

  UpkeepReply step(Session& session, const UpkeepRequest& request);

 private:
  /// What the last call about a queue left.
  struct Known {
    std::int64_t due_rank = 0;     ///< Where it stopped checking tmx:due,
    std::int64_t active_rank = 0;  ///< and active.
    std::uint64_t look = 0;  ///< The watch's last look before the call; 0: what follows is void.
    Time work_at = Time::max();  ///< When there is something to do unless something changes.
    std::optional<Time> due{};   ///< As UpkeepReply::next_due.
    std::uint64_t step = 0;      ///< The number of the last step that asked it.
  };
  struct Queue {
    std::string name;
    std::uint64_t look = 0;   ///< See WatchHub::looks().
    std::uint64_t block = 0;  ///< Of its runs' tokens.
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

/// As tmx_cancel holds it.
std::string_view to_string(CancelMode mode) noexcept;
/// The reverse, of the first word; what it does not know is asynq's own way.
CancelMode parse_cancel_mode(std::string_view words) noexcept;

/// The state of this name; nullopt for no name, and for one that is not known.
std::optional<TaskState> parse_state(std::optional<std::string_view> name);

}  // namespace taskmux::redis
