#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "taskmux/registry.hpp"
#include "taskmux/task.hpp"

// asynq's protobuf messages, as Go's library reads and writes them: what it accepts is accepted,
// what it refuses is refused, and what is written is byte for byte what it would write (maps in
// sorted order, which is one of its orders).
//
// For scripts that look into a stored TaskMessage. The fields, with the bytes of their tags:
//
//      1  0a  type       string     6  30  retried         int32    11  58  last_failed_at  Unix s
//      2  12  payload    bytes      7  3a  error_msg       string   12  60  retention       s
//      3  1a  id         string     8  40  timeout         s        13  68  completed_at    Unix s
//      4  22  queue      string     9  48  deadline        Unix s   14  72  group_key       string
//      5  28  retry      int32     10  52  unique_key      string   15  7a  headers         map
//
// Strings, bytes and map entries are a varint length and so many bytes; the others are varints,
// negative ones ten bytes long. Go's writers and ours emit them in ascending order and leave out
// what is 0 or empty, so a message without tag 28 has no retries. That order is a habit, no rule: a
// walk has to skip by wire type, which is the tag's low three bits (0 varint, 1 eight bytes, 2
// length-delimited, 5 four bytes), and the last of a repeated field counts.
namespace taskmux::redis {

/// Why bytes are not a message.
enum class WireFault {
  truncated,          ///< They end within a field.
  varint_too_long,    ///< A number has more than 64 bits.
  bad_field_number,   ///< 0, or above 2^29 - 1.
  bad_wire_type,      ///< 6 or 7.
  unbalanced_group,   ///< The end of a group (an old wire type) that was not begun.
  nested_too_deeply,  ///< Groups within groups, more than Go follows.
  invalid_utf8,       ///< In a string, or in a key or value of a map.
  misplaced_field,    ///< A field that has no place there (unpack_unknown() alone).
};

/// In words, such as "invalid UTF-8".
std::string_view to_string(WireFault fault) noexcept;

struct DecodeError {
  WireFault fault = WireFault::truncated;
  std::uint32_t field = 0;  ///< Number of the field of the outermost message; 0 if within a tag.

  /// Such as "field 7: invalid UTF-8".
  std::string text() const;

  bool operator==(const DecodeError&) const = default;
};

/// What decoding gave: a value, or why there is none.
template <class T>
class Decoded {
 public:
  Decoded(T value) : result_{std::move(value)} {}
  Decoded(DecodeError error) : result_{error} {}

  explicit operator bool() const noexcept { return result_.index() == 0; }

  // Undefined unless true:
  T& operator*() & { return *std::get_if<0>(&result_); }
  const T& operator*() const& { return *std::get_if<0>(&result_); }
  T&& operator*() && { return std::move(*std::get_if<0>(&result_)); }
  T* operator->() { return std::get_if<0>(&result_); }
  const T* operator->() const { return std::get_if<0>(&result_); }

  /// Undefined if true.
  const DecodeError& error() const { return *std::get_if<1>(&result_); }

 private:
  std::variant<T, DecodeError> result_;
};

/// What a wire message holds beyond TaskMessage, so that a rewrite loses nothing. Travels through
/// the engine as `Run::broker_data`, packed.
struct UnknownFields {
  std::string group{};  ///< Group of asynq's aggregation; empty = none.
  /// Seconds as they were written, where TaskMessage holds a clamped value. A rewrite writes them
  /// again unless TaskMessage's value has been changed since.
  std::optional<std::int64_t> timeout{};
  std::optional<std::int64_t> deadline{};
  std::optional<std::int64_t> last_failed_at{};
  std::optional<std::int64_t> retention{};
  std::optional<std::int64_t> completed_at{};
  std::string others{};  ///< Fields that asynq does not know, tags included, in their order.

  bool operator==(const UnknownFields&) const = default;
};

/// As opaque bytes; empty if there is nothing unknown. (They are fields 8, 9, 11 to 14 of a
/// TaskMessage and the unknown ones.)
std::string pack_unknown(const UnknownFields& unknown);

/// The reverse. Nothing that pack_unknown() made is refused.
Decoded<UnknownFields> unpack_unknown(std::string_view packed);

struct WireMessage {
  TaskMessage message{};
  UnknownFields unknown{};
};

/// Reads a TaskMessage. Does not ask whether its type, id and queue make sense. `enqueued_at` and
/// `expires_at` stay unset: they are fields of the hash. Instants outside the years 1 to 9999 and
/// durations above Limits::longest (or below its negative) are clamped to these, so that arithmetic
/// with them can't overflow; `unknown` keeps the originals. Memory: a small multiple of the size of
/// `bytes`.
Decoded<WireMessage> decode_message(std::string_view bytes);

/// What is written in place of a message's own values, so that it need not be copied to be changed.
struct Changes {
  std::optional<std::string_view> last_error{};
  std::optional<int> retried{};
  std::optional<Time> last_failed_at{};
  std::optional<Time> completed_at{};
};

/// Writes a TaskMessage, with `changes`. Instants are rounded down to seconds. `last_error` is repaired if it is
/// not UTF-8; it is not cut (see error_text()). Throws Error{invalid_argument} if another string is
/// not UTF-8, since a message with such a string makes Go's servers stop recovering leases.
std::string encode_message(const TaskMessage& message, const UnknownFields& unknown = {},
                           const Changes& changes = {});

/// What is to be stored of an error's text: valid UTF-8, at most Limits::error_text_bytes.
std::string error_text(std::string_view text);

/// A ServerInfo as it is on the wire, which has a count in place of `workers`.
struct WireServer {
  ServerInfo server{};  ///< `workers` is empty.
  int active_workers = 0;
};

Decoded<WireServer> decode_server(std::string_view bytes);

/// Writes a ServerInfo; the count of workers is `server.workers.size()`. Queues whose priority is
/// not positive are left out, as Go does. Strings that are not UTF-8 are repaired: a heartbeat must
/// not fail over a host's name.
std::string encode_server(const ServerInfo& server);

/// A WorkerInfo as it is on the wire, with the server that it belongs to.
struct WireWorker {
  std::string host{};
  int pid = 0;
  std::string server_id{};
  WorkerInfo worker{};  ///< Without headers: the wire has none here.
};

Decoded<WireWorker> decode_worker(std::string_view bytes);

/// How much of a payload a list of workers shows: all that Go's tools do with it.
inline constexpr std::size_t shown_payload_bytes = 4096;

/// Writes a WorkerInfo, with at most `shown_payload_bytes` of the payload. Strings that are not
/// UTF-8 are repaired.
std::string encode_worker(const ServerInfo& server, const WorkerInfo& worker);

}  // namespace taskmux::redis
