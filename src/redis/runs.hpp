#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "redis/reply.hpp"
#include "redis/store.hpp"
#include "redis/wire.hpp"
#include "taskmux/broker.hpp"

namespace taskmux::redis {

/// The type of the tasks that take the place of malformed ones.
inline constexpr std::string_view malformed_type = "taskmux:malformed";

/// A message round the one number that a script fills in, its own time in seconds.
struct StampedMessage {
  std::string head{};
  std::string tail{};
};

/// `message` as a failure now: the script fills in `last_failed_at`.
StampedMessage stamp_failure(TaskMessage message, const ForeignFields& foreign);
/// `message` as a success now: the script fills in `completed_at`.
StampedMessage stamp_success(TaskMessage message, const ForeignFields& foreign);

/// What stands in the place of a message that is not valid.
TaskMessage malformed_message(std::string_view queue, std::string_view id, std::string_view reason);

/// Why a decoded message can't be that of `id` in `queue`; empty if it can.
std::string mismatch(const TaskMessage& message, std::string_view queue, std::string_view id);

/// Makes runs of what scripts hand out, and sets malformed ones aside. Not thread-safe; one a call.
class RunReader {
 public:
  /// `block`: see Store::token_block(); as was passed to the script.
  RunReader(Store& store, std::uint64_t block) : store_{store}, block_{block} {}

  /// Appends to `runs` what a script returned of them: see acquire in scripts.cpp.
  void read(std::string_view queue, ReplyView reply, std::vector<Run>& runs);

  /// Archives the malformed ones, if any, in a round trip of its own; returns how many there were.
  /// Logs a failure: their leases will end, and upkeep comes upon them again.
  std::size_t set_aside();

 private:
  void keep_malformed(std::string_view queue, std::string_view id, std::uint64_t token,
                      const std::string& reason);

  Store& store_;
  std::uint64_t block_;
  std::vector<Call> malformed_;
};

}  // namespace taskmux::redis
