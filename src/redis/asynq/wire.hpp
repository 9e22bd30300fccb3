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

// asynq's protobuf messages, as Go's library reads and writes them: the reader accepts and refuses
// the same input, and the writer produces the same bytes (maps in sorted order, which is one of
// Go's possible orders).
//
// For scripts that inspect a stored TaskMessage: the fields, with the bytes of their tags:
//
//      1  0a  type       string     6  30  retried         int32    11  58  last_failed_at  Unix s
//      2  12  payload    bytes      7  3a  error_msg       string   12  60  retention       s
//      3  1a  id         string     8  40  timeout         s        13  68  completed_at    Unix s
//      4  22  queue      string     9  48  deadline        Unix s   14  72  group_key       string
//      5  28  retry      int32     10  52  unique_key      string   15  7a  headers         map
//
// Strings, bytes and map entries consist of a varint length and that many bytes; the others are
// varints, of ten bytes if negative. Go's writers and ours emit the fields in ascending order and
// omit those that are 0 or empty, so a message without tag 28 has no retries. This order is not
// guaranteed: a reader has to skip fields by wire type, which is the tag's low three bits (0
// varint, 1 eight bytes, 2 length-delimited, 5 four bytes), and the last value of a repeated field
// counts.
namespace taskmux::redis {

/// Why bytes are not a valid message.
enum class WireFault {
  truncated,          ///< The bytes end within a field.
  varint_too_long,    ///< A number has more than 64 bits.
  bad_field_number,   ///< 0, or above 2^29 - 1.
  bad_wire_type,      ///< 6 or 7.
  unbalanced_group,   ///< The end of a group (an old wire type) that was not begun.
  nested_too_deeply,  ///< Groups within groups, more than Go follows.
  invalid_utf8,       ///< In a string, or in a key or value of a map.
  misplaced_field,    ///< A field that is not allowed there (only in unpack_unknown()).
};

/// Returns the fault in words, such as "invalid UTF-8".
std::string_view to_string(WireFault fault) noexcept;

struct DecodeError {
  WireFault fault = WireFault::truncated;
  std::uint32_t field = 0;  ///< Field number in the outermost message; 0 if within a tag.

  /// Returns a text such as "field 7: invalid UTF-8".
  std::string text() const;

  bool operator==(const DecodeError&) const = default;
};

/// The result of decoding: a value or an error.
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

/// The data of a wire message beyond TaskMessage, so that rewriting a message loses nothing. The
/// engine carries it in packed form, as `Run::broker_data`.
struct UnknownFields {
  std::string group{};  ///< The group in asynq's aggregation; empty: none.
  /// Seconds as they were read, where TaskMessage holds a clamped value. A rewrite writes them
  /// again unless TaskMessage's value has changed since.
  std::optional<std::int64_t> timeout{};
  std::optional<std::int64_t> deadline{};
  std::optional<std::int64_t> last_failed_at{};
  std::optional<std::int64_t> retention{};
  std::optional<std::int64_t> completed_at{};
  std::string others{};  ///< Fields that asynq does not know, including their tags, in order.

  bool operator==(const UnknownFields&) const = default;
};

/// Packs `unknown` into opaque bytes; empty if there is nothing unknown. (They are fields 8, 9, 11
/// to 14 of a TaskMessage and the unknown fields.)
std::string pack_unknown(const UnknownFields& unknown);

/// Reverses pack_unknown(), whose output it always accepts.
Decoded<UnknownFields> unpack_unknown(std::string_view packed);

struct WireMessage {
  TaskMessage message{};
  UnknownFields unknown{};
};

/// Reads a TaskMessage. Does not check whether its type, id and queue are valid. `enqueued_at` and
/// `expires_at` stay unset: they are fields of the hash. Instants outside the years 1 to 9999 and
/// durations above Limits::longest (or below its negative) are clamped, so that arithmetic with
/// them can't overflow; `unknown` keeps the originals. Needs memory of a small multiple of the size
/// of `bytes`.
Decoded<WireMessage> decode_message(std::string_view bytes);

/// Values that replace a message's own values when it is written, so that the message need not be
/// copied.
struct Changes {
  std::optional<std::string_view> last_error{};
  std::optional<int> retried{};
  std::optional<Time> last_failed_at{};
  std::optional<Time> completed_at{};
};

/// Writes a TaskMessage, with `changes`. Instants are rounded down to seconds. `last_error` is
/// repaired if it is not UTF-8, but not truncated (see error_text()). Throws
/// Error{invalid_argument} if another string is not UTF-8, since a message with such a string makes
/// Go's servers stop recovering leases.
std::string encode_message(const TaskMessage& message, const UnknownFields& unknown = {},
                           const Changes& changes = {});

/// Returns an error text in the form in which it is stored: valid UTF-8, at most
/// Limits::error_text_bytes.
std::string error_text(std::string_view text);

/// A ServerInfo in wire format, which has a count in place of `workers`.
struct WireServer {
  ServerInfo server{};  ///< `workers` is empty.
  int active_workers = 0;
};

Decoded<WireServer> decode_server(std::string_view bytes);

/// Writes a ServerInfo; the count of workers is `server.workers.size()`. Queues whose priority is
/// not positive are left out, as in Go. Strings that are not UTF-8 are repaired: a heartbeat must
/// not fail because of a host name.
std::string encode_server(const ServerInfo& server);

/// A WorkerInfo in wire format, with the server that it belongs to.
struct WireWorker {
  std::string host{};
  int pid = 0;
  std::string server_id{};
  WorkerInfo worker{};  ///< Without headers: the wire format has none here.
};

Decoded<WireWorker> decode_worker(std::string_view bytes);

/// How much of a payload is shown in a list of workers. Go's tools do nothing else with it.
inline constexpr std::size_t shown_payload_bytes = 4096;

/// Writes a WorkerInfo, with at most `shown_payload_bytes` of the payload. Strings that are not
/// UTF-8 are repaired.
std::string encode_worker(const ServerInfo& server, const WorkerInfo& worker);

/// The state that the field `state` of a task names; nullopt for no name, and for one that is not known.
std::optional<TaskState> parse_state(std::optional<std::string_view> name);

}  // namespace taskmux::redis
