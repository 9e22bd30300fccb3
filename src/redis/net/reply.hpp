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

/// A view of a reply, or of an element of a reply. Cheap to copy; valid as long as the Reply that
/// owns it. Accessors throw Error{protocol} if the reply has another type.
class ReplyView {
 public:
  ReplyView() noexcept = default;
  explicit ReplyView(const redisReply* reply) noexcept : reply_{reply} {}

  /// No reply: default-constructed or moved from.
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
  /// Returns the integer, or the number that a string spells (as in an array from EXEC or HGETALL).
  std::int64_t as_number() const;
  /// A bulk string or a status; any bytes.
  std::string_view as_string() const;
  /// As as_string(), but returns nullopt for nil.
  std::optional<std::string_view> as_optional_string() const;

  /// The elements of an array.
  std::size_t size() const;
  ReplyView operator[](std::size_t index) const;
  /// Throws Error{protocol} unless this is an array of at least `count` elements.
  void expect_array(std::size_t count) const;

  /// Returns the text of an error reply; empty for any other reply. Not bounded and not printable:
  /// see error_of().
  std::string_view error_text() const noexcept {
    return is_error() ? std::string_view{reply_->str, length()} : std::string_view{};
  }
  /// Returns the code of an error reply in capitals, such as "WRONGTYPE"; the code of the inner
  /// error if an old server wraps an error that occurred inside a script. Empty if this is not an
  /// error.
  std::string_view error_code() const noexcept;

  /// Returns the type of the reply for an error text: "nil", "an integer", "an array", ...
  std::string_view kind() const noexcept;

 private:
  bool has_type(int type) const noexcept { return reply_ != nullptr && reply_->type == type; }
  std::size_t length() const noexcept { return static_cast<std::size_t>(reply_->len); }

  const redisReply* reply_ = nullptr;
};

/// A reply that owns its memory. Movable; if moved from or default-constructed, it has no type.
class Reply : public ReplyView {
 public:
  Reply() noexcept = default;
  /// Takes ownership of `reply`.
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

/// Makes an error reply that no server sent: `code` and `text` as one line.
Reply make_error_reply(std::string_view code, std::string_view text);

/// The code of the error replies that Transport makes itself for calls whose outcome it does not
/// know, since their server became unreachable; maps to Errc::unavailable.
inline constexpr std::string_view lost_code = "TMXLOST";
/// The same for calls for which the connection was too slow: bytes were transferred until the
/// deadline.
inline constexpr std::string_view slow_code = "TMXSLOW";

/// Returns the meaning of an error reply:
///     unavailable   TMXLOST, LOADING, READONLY, MASTERDOWN, CLUSTERDOWN, TRYAGAIN, MOVED, ASK, BUSY,
///                   MISCONF, NOREPLICAS, too many clients, a script's key that is being migrated
///                   to another node ("non local key")
///     unauthorized  NOAUTH, WRONGPASS, NOPERM, DENIED (protected mode), a password that is not set
///     queue_full    OOM
///     protocol      all others: WRONGTYPE, NOSCRIPT, ERR, a script's own error, ...
Errc errc_of(ReplyView error) noexcept;
/// The same for the text of an error, as a script returns it for one of its queues.
Errc errc_of(std::string_view error_text) noexcept;

/// Returns whether a call met keys that are being migrated to another node of a cluster, and can be
/// repeated later. This says nothing about the server.
bool met_moving_keys(ReplyView error) noexcept;

/// Converts `error` into an Error: errc_of() and the text `<operation>: <cause>`, where `operation`
/// names the operation and its subject (`enqueue "critical"`), and the cause is the server's text,
/// printable and bounded.
Error error_of(std::string_view operation, ReplyView error);
/// The same for the text of an error.
Error error_of(std::string_view operation, std::string_view error_text);

/// Throws error_of() if `reply` is an error.
void throw_if_error(std::string_view operation, ReplyView reply);

/// Returns `text` with all characters except printable ASCII replaced by '?', truncated to 300
/// bytes.
std::string printable(std::string_view text);

}  // namespace taskmux::redis
