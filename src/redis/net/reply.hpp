#pragma once

#include <hiredis/hiredis.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "taskmux/error.hpp"

namespace taskmux::redis {

/// A look at a reply, or at an element of one, that something else owns. Cheap to copy; valid as
/// long as the Reply that it came from. Accessors throw Error{protocol} where the reply is not of
/// the kind asked for.
class ReplyView {
 public:
  ReplyView() noexcept = default;
  explicit ReplyView(const redisReply* reply) noexcept : reply_{reply} {}

  /// No reply at all: default made, or moved from.
  bool is_nothing() const noexcept { return reply_ == nullptr; }
  bool is_nil() const noexcept { return has_type(REDIS_REPLY_NIL); }
  bool is_error() const noexcept { return has_type(REDIS_REPLY_ERROR); }
  bool is_integer() const noexcept { return has_type(REDIS_REPLY_INTEGER); }
  bool is_array() const noexcept { return has_type(REDIS_REPLY_ARRAY); }
  /// A bulk string or a status, such as OK.
  bool is_string() const noexcept {
    return has_type(REDIS_REPLY_STRING) || has_type(REDIS_REPLY_STATUS);
  }

  std::int64_t as_integer() const;
  /// The integer, or the number that a string spells in full (as in an array from EXEC or HGETALL).
  std::int64_t as_number() const;
  /// A bulk string or a status; any bytes.
  std::string_view as_string() const;
  /// As as_string(), but nil is nullopt.
  std::optional<std::string_view> as_optional_string() const;

  /// The elements of an array.
  std::size_t size() const;
  ReplyView operator[](std::size_t index) const;
  /// Throws Error{protocol} unless this is an array of at least `count` elements.
  void expect_array(std::size_t count) const;

  /// The text of an error reply; empty for any other. Not bounded and not printable: see
  /// error_of().
  std::string_view error_text() const noexcept {
    return is_error() ? std::string_view{reply_->str, length()} : std::string_view{};
  }
  /// The code of an error reply in capitals, such as "WRONGTYPE"; that of the inner error where an
  /// old server wraps what failed inside a script. Empty if this is no error.
  std::string_view error_code() const noexcept;

  /// What this is, for an error's text: "nil", "an integer", "an array", ...
  std::string_view kind() const noexcept;

 private:
  bool has_type(int type) const noexcept { return reply_ != nullptr && reply_->type == type; }
  std::size_t length() const noexcept { return static_cast<std::size_t>(reply_->len); }

  const redisReply* reply_ = nullptr;
};

/// A reply and its memory. Movable; moved from, or default made, it is of no kind at all.
class Reply : public ReplyView {
 public:
  Reply() noexcept = default;
  /// Takes over `reply`.
  explicit Reply(redisReply* reply) noexcept : ReplyView{reply}, owned_{reply} {}
  Reply(Reply&& other) noexcept
      : ReplyView{std::exchange(static_cast<ReplyView&>(other), ReplyView{})},
        owned_{std::move(other.owned_)} {}
  Reply& operator=(Reply&& other) noexcept {
    owned_ = std::move(other.owned_);
    static_cast<ReplyView&>(*this) = std::exchange(static_cast<ReplyView&>(other), ReplyView{});
    return *this;
  }

 private:
  struct Free {
    void operator()(redisReply* reply) const noexcept { freeReplyObject(reply); }
  };
  std::unique_ptr<redisReply, Free> owned_;
};

/// An error reply that no server sent: `code` and `text` as one line.
Reply make_error_reply(std::string_view code, std::string_view text);

/// The code of the error replies that Transport makes itself for calls whose fate it can't tell, as
/// their server went away; maps to Errc::unavailable.
inline constexpr std::string_view lost_code = "TMXLOST";
/// The same, since the line was too slow for the call: bytes moved to the end of its time.
inline constexpr std::string_view slow_code = "TMXSLOW";

/// What an error reply means:
///     unavailable   TMXLOST, LOADING, READONLY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN, MOVED, ASK,
///     BUSY,
///                   MISCONF, NOREPLICAS, too many clients, a script's key that is on its way to
///                   another node ("non local key")
///     unauthorized  NOAUTH, WRONGPASS, NOPERM, DENIED (protected mode), a password where none is
///     set queue_full    OOM protocol      all others: WRONGTYPE, NOSCRIPT, ERR, a script's own
///     error, ...
Errc errc_of(ReplyView error) noexcept;
/// The same of an error's text, as a script passes one on for one of its queues.
Errc errc_of(std::string_view error_text) noexcept;

/// Whether a call met keys that are on their way to another node of a cluster, and can be repeated
/// later; of the server it says nothing.
bool met_moving_keys(ReplyView error) noexcept;

/// `error` as an Error: errc_of() and the text `<operation>: <cause>`, where `operation` says what
/// was tried and on what (`enqueue "critical"`), and the cause is the server's text, printable and
/// bounded.
Error error_of(std::string_view operation, ReplyView error);
/// The same of an error's text.
Error error_of(std::string_view operation, std::string_view error_text);

/// Throws error_of() if `reply` is an error.
void throw_if_error(std::string_view operation, ReplyView reply);

/// `text` with what is not printable ASCII replaced by '?', cut to 300 bytes.
std::string printable(std::string_view text);

}  // namespace taskmux::redis
