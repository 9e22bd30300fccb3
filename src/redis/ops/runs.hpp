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

/// The type of the tasks that replace malformed ones.
inline constexpr std::string_view malformed_type = "taskmux:malformed";

/// A message in two parts, before and after the one number that a script fills in: its own time in
/// seconds.
struct StampedMessage {
  std::string head{};
  std::string tail{};
};

/// Encodes `message` as failed now, with `last_error` and `retried`: the script fills in
/// `last_failed_at`.
StampedMessage stamp_failure(const TaskMessage& message, const UnknownFields& unknown,
                             std::string_view last_error, int retried);
/// Encodes `message` as succeeded now: the script fills in `completed_at`.
StampedMessage stamp_success(const TaskMessage& message, const UnknownFields& unknown);

/// Returns the replacement of a message that is not valid.
TaskMessage malformed_message(std::string_view queue, std::string_view id, std::string_view reason);

/// Returns why a decoded message can't be that of `id` in `queue`; empty if it can.
std::string mismatch(const TaskMessage& message, std::string_view queue, std::string_view id);

/// What taskmux stores about a task in addition to its message: the hash field tmx_facts.
struct Facts {
  std::optional<Time> enqueued_at{};
  std::optional<Time> expires_at{};
  int crashes = 0;  ///< In a row.
};

/// Encodes facts as `<enqueued, Unix µs> <expires, Unix µs> <crashes>`, 0 for none, the first
/// number with at least 16 digits. A task that does not expire, may be retried and was enqueued by
/// taskmux has only the time of enqueue instead, until it crashes: at present 16 digits, which say
/// all this at once.
std::string to_text(const Facts& facts);
/// Decodes facts, with at most a million crashes. Invalid or missing parts count as unset.
Facts parse_facts(std::optional<std::string_view> text) noexcept;

/// Returns when a run was taken, according to the hash field tmx_run: `<token> <lease score, Unix
/// s> <taken, Unix µs> <mark>`, where the last word may be missing and more words may follow.
/// Returns nullopt unless the field belongs to the present lease: Go leaves the field of an earlier
/// run.
std::optional<Time> taken_at(std::optional<std::string_view> run,
                             std::optional<std::string_view> score) noexcept;

/// Decodes the mark of tmx_run: `a` means that the run was prefetched, `s` that it belongs to a
/// suspect and has not begun. Any other mark, or none, means that it has begun.
Begun begun_of(std::string_view mark) noexcept;

/// Makes runs from the replies of scripts, and archives malformed messages. Not thread-safe; use
/// one per call.
class RunReader {
 public:
  /// `block` is the token block that was passed to the script; see Session::token_block().
  RunReader(Session& session, std::uint64_t block) : session_{session}, block_{block} {}

  /// Appends to `runs` a list that acquire.lua returned; the first run in it has the number
  /// `first`. A worker was free for the runs with numbers below `begun_below`.
  void read_taken(std::string_view queue, std::uint64_t first, ReplyView list,
                  std::uint64_t begun_below, std::vector<Run>& runs);

  /// The same for a list of lost runs and their marks that upkeep returned.
  void read_lost(std::string_view queue, ReplyView list, ReplyView marks, std::vector<Run>& runs);

  /// Archives the malformed ones, if any, in a separate round trip; returns how many there were.
  /// Logs a failure: then their leases will expire, and upkeep will find them again.
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
