#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "redis/asynq/wire.hpp"
#include "redis/net/reply.hpp"
#include "redis/session/session.hpp"
#include "taskmux/broker.hpp"

namespace taskmux::redis {

/// The type of the tasks that take the place of malformed ones.
inline constexpr std::string_view malformed_type = "taskmux:malformed";

/// A message round the one number that a script fills in, its own time in seconds.
struct StampedMessage {
  std::string head{};
  std::string tail{};
};

/// `message` as a failure now, with its `last_error` and `retried`: the script fills in `last_failed_at`.
StampedMessage stamp_failure(const TaskMessage& message, const UnknownFields& unknown,
                             std::string_view last_error, int retried);
/// `message` as a success now: the script fills in `completed_at`.
StampedMessage stamp_success(const TaskMessage& message, const UnknownFields& unknown);

/// What stands in the place of a message that is not valid.
TaskMessage malformed_message(std::string_view queue, std::string_view id, std::string_view reason);

/// Why a decoded message can't be that of `id` in `queue`; empty if it can.
std::string mismatch(const TaskMessage& message, std::string_view queue, std::string_view id);

/// What taskmux keeps of a task in addition to its message: the hash field tmx_facts.
struct Facts {
  std::optional<Time> enqueued_at{};
  std::optional<Time> expires_at{};
  int crashes = 0;  ///< In a row until now.
};

/// `<enqueued, Unix µs> <expires, Unix µs> <crashes>`, 0 for none, the first of at least 16 digits. In
/// place of that, a task that does not expire, may be retried and was enqueued by taskmux has the
/// time of enqueue alone until it crashes: today, 16 digits that say all this at once.
std::string to_text(const Facts& facts);
/// The reverse, with a million crashes at most. What makes no sense, or is not there, counts as not
/// known.
Facts parse_facts(std::optional<std::string_view> text) noexcept;

/// When a run was taken, of the hash field tmx_run: `<token> <lease score, Unix s> <taken, Unix µs>
/// <mark>`, of which the last may be missing and more words may follow. Nullopt unless that is of the
/// present lease: Go leaves the field of an earlier run there.
std::optional<Time> taken_at(std::optional<std::string_view> run,
                             std::optional<std::string_view> score) noexcept;

/// What the mark of tmx_run says: `a` that the run was taken ahead of the free workers, `s` that it is
/// a suspect's and has not begun. No mark, and any other, says that it has begun.
Begun begun_of(std::string_view mark) noexcept;

/// Makes runs of what scripts hand out, and sets malformed ones aside. Not thread-safe; one a call.
class RunReader {
 public:
  /// `block`: see Session::token_block(); as was passed to the script.
  RunReader(Session& session, std::uint64_t block) : session_{session}, block_{block} {}

  /// Appends to `runs` a list of them that acquire.lua returned, of which the first has
  /// the number `first`. A worker was free for those of numbers below `begun_below`.
  void read_taken(std::string_view queue, std::uint64_t first, ReplyView list,
                  std::uint64_t begun_below, std::vector<Run>& runs);

  /// The same of a list of lost runs, and their marks, that upkeep returned.
  void read_lost(std::string_view queue, ReplyView list, ReplyView marks, std::vector<Run>& runs);

  /// Archives the malformed ones, if any, in a round trip of its own; returns how many there were.
  /// Logs a failure: their leases will end, and upkeep comes upon them again.
  std::size_t set_aside();

 private:
  template <typename BegunOf>
  void read(std::string_view queue, std::uint64_t first, ReplyView list, std::size_t values,
            std::vector<Run>& runs, BegunOf begun);
  void keep_malformed(std::string_view queue, std::string_view id, std::uint64_t token,
                      const std::string& reason);

  Session& session_;
  std::uint64_t block_;
  std::vector<Call> malformed_;
};

}  // namespace taskmux::redis
