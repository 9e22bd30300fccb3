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

std::vector<EnqueueReply> enqueue(Session& session, std::vector<EnqueueRequest> batch);

ExchangeReply exchange(Session& session, const ExchangeRequest& request);

std::vector<ExtendReply> extend(Session& session, std::span<const ExtendRequest> runs, Duration lease);

OpenReply open(Session& session, std::span<const std::string> queues);

/// Upkeep remembers where it stopped checking a queue. Thread-safe.
class Upkeep {
 public:
  UpkeepReply step(Session& session, const UpkeepRequest& request);

 private:
  struct Ranks {
    std::int64_t due = 0;
    std::int64_t active = 0;
  };
  /// Queues of one call, and the blocks of their tokens.
  struct Part {
    std::span<const std::string> queues{};
    std::vector<std::uint64_t> blocks{};
  };
  Call call_on(Session& session, const UpkeepRequest& request, Part& part);
  std::size_t read(Session& session, const Part& part, const Reply& answer, UpkeepReply& reply);
  Ranks ranks_of(const std::string& queue);
  void set_ranks(const std::string& queue, Ranks ranks);

  detail::Mutex mutex_;
  std::map<std::string, Ranks> ranks_ TASKMUX_GUARDED_BY(mutex_);
};

/// As tmx_cancel holds it.
std::string_view to_string(CancelMode mode) noexcept;
/// The reverse, of the first word; what it does not know is asynq's own way.
CancelMode parse_cancel_mode(std::string_view words) noexcept;

}  // namespace taskmux::redis
