#include "redis/asynq/wire.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <map>
#include <protozero/pbf_writer.hpp>
#include <vector>

#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {
namespace {

enum class WireType : std::uint8_t {
  varint = 0,
  fixed64 = 1,
  length_delimited = 2,
  begin_group = 3,
  end_group = 4,
  fixed32 = 5,
};

constexpr std::uint64_t highest_field_number = (1u << 29) - 1;
constexpr std::uint64_t highest_number_in_group = (1u << 31) - 1;  // Go allows more here
constexpr std::size_t deepest_group = 10'001;                      // Go's recursion limit

// Iterates over the fields of a message. protozero's reader is not used: it throws, does not
// support groups, and accepts numbers of more than 64 bits; Go's decoder is the reference.
//
// next() stops at the end and at the first fault. After it, one of the other functions takes the
// field's value and returns whether the field has the requested type. A field of another wire type
// counts as unknown, as in Go.
class FieldReader {
 public:
  // Unknown fields are appended to `unknown`, or dropped if it is null.
  FieldReader(std::string_view bytes, std::string* unknown) : rest_{bytes}, unknown_{unknown} {}

  bool next() {
    if (error_ || rest_.empty()) return false;
    number_ = 0;
    std::uint64_t tag = 0;
    if (!take_varint(tag)) return false;
    if (tag >> 3 == 0 || tag >> 3 > highest_field_number) return fail(WireFault::bad_field_number);
    number_ = static_cast<std::uint32_t>(tag >> 3);
    type_ = static_cast<WireType>(tag & 7);
    return true;
  }

  std::uint32_t number() const { return number_; }

  bool number_value(std::uint64_t& value) {
    if (type_ != WireType::varint) return skip_unknown();
    return take_varint(value);
  }

  bool int64_value(std::int64_t& value) {
    std::uint64_t bits = 0;
    if (!number_value(bits)) return false;
    value = static_cast<std::int64_t>(bits);
    return true;
  }

  bool int32_value(int& value) {
    std::uint64_t bits = 0;
    if (!number_value(bits)) return false;
    value = static_cast<std::int32_t>(static_cast<std::uint32_t>(bits));
    return true;
  }

  bool bool_value(bool& value) {
    std::uint64_t bits = 0;
    if (!number_value(bits)) return false;
    value = bits != 0;
    return true;
  }

  bool bytes_value(std::string_view& value) {
    if (type_ != WireType::length_delimited) return skip_unknown();
    return take_bytes(value);
  }

  bool bytes_value(std::string& value) {
    std::string_view bytes;
    if (!bytes_value(bytes)) return false;
    value = bytes;
    return true;
  }

  bool text_value(std::string& value) {
    std::string_view text;
    if (!bytes_value(text)) return false;
    if (!detail::is_valid_utf8(text)) return fail(WireFault::invalid_utf8);
    value = text;
    return true;
  }

  // Skips the field, whatever it is, and keeps it with the unknown ones. Returns false.
  bool skip_unknown() {
    const std::string_view before = rest_;
    if (!skip_value(number_, type_) || unknown_ == nullptr) return false;
    // The tag is written again, as Go does, since it may have been read in a longer form.
    protozero::add_varint_to_buffer(
        unknown_, std::uint64_t{number_} << 3 | static_cast<std::uint64_t>(type_));
    unknown_->append(before.substr(0, before.size() - rest_.size()));
    return false;
  }

  bool refuse_unless_unknown(WireType type) {
    return type_ == type ? fail(WireFault::misplaced_field) : skip_unknown();
  }

  // A fault within a field's value is a fault of this message.
  bool adopt(const FieldReader& inner) { return inner.error_ ? fail(inner.error_->fault) : true; }

  const std::optional<DecodeError>& error() const { return error_; }

 private:
  bool fail(WireFault fault) {
    error_ = DecodeError{fault, number_};
    return false;
  }

  bool take_varint(std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) return fail(WireFault::truncated);
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      if (shift == 63 && byte > 1) return fail(WireFault::varint_too_long);
      value |= std::uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return true;
    }
    return fail(WireFault::varint_too_long);
  }

  bool take_bytes(std::string_view& value) {
    std::uint64_t size = 0;
    if (!take_varint(size)) return false;
    if (size > rest_.size()) return fail(WireFault::truncated);
    value = rest_.substr(0, static_cast<std::size_t>(size));
    rest_.remove_prefix(value.size());
    return true;
  }

  bool skip_bytes(std::size_t size) {
    if (size > rest_.size()) return fail(WireFault::truncated);
    rest_.remove_prefix(size);
    return true;
  }

  bool skip_value(std::uint32_t number, WireType type) {
    std::uint64_t value = 0;
    std::string_view bytes;
    switch (type) {
      case WireType::varint: return take_varint(value);
      case WireType::fixed64: return skip_bytes(8);
      case WireType::length_delimited: return take_bytes(bytes);
      case WireType::begin_group: return skip_group(number);
      case WireType::end_group: return fail(WireFault::unbalanced_group);
      case WireType::fixed32: return skip_bytes(4);
    }
    return fail(WireFault::bad_wire_type);
  }

  bool skip_group(std::uint32_t number) {
    std::vector<std::uint32_t> open{number};
    while (!open.empty()) {
      std::uint64_t tag = 0;
      if (!take_varint(tag)) return false;
      if (tag >> 3 == 0 || tag >> 3 > highest_number_in_group)
        return fail(WireFault::bad_field_number);
      const auto inner = static_cast<std::uint32_t>(tag >> 3);
      const auto type = static_cast<WireType>(tag & 7);
      if (type == WireType::begin_group) {
        if (open.size() == deepest_group) return fail(WireFault::nested_too_deeply);
        open.push_back(inner);
      } else if (type == WireType::end_group) {
        if (inner != open.back()) return fail(WireFault::unbalanced_group);
        open.pop_back();
      } else if (!skip_value(inner, type)) {
        return false;
      }
    }
    return true;
  }

  std::string_view rest_;
  std::string* unknown_;
  std::uint32_t number_ = 0;
  WireType type_ = WireType::varint;
  std::optional<DecodeError> error_;
};

bool read_optional(FieldReader& reader, std::optional<std::int64_t>& value) {
  std::int64_t number = 0;
  if (!reader.int64_value(number)) return false;
  value = number;
  return true;
}

void read_header(FieldReader& reader, Headers& headers) {
  std::string_view entry;
  if (!reader.bytes_value(entry)) return;
  std::string key;
  std::string value;
  FieldReader fields{entry, nullptr};
  while (fields.next()) {
    switch (fields.number()) {
      case 1: fields.text_value(key); break;
      case 2: fields.text_value(value); break;
      default: fields.skip_unknown();
    }
  }
  if (reader.adopt(fields)) headers.insert_or_assign(std::move(key), std::move(value));
}

void read_priority(FieldReader& reader, std::map<std::string, int>& queues) {
  std::string_view entry;
  if (!reader.bytes_value(entry)) return;
  std::string queue;
  int priority = 0;
  FieldReader fields{entry, nullptr};
  while (fields.next()) {
    switch (fields.number()) {
      case 1: fields.text_value(queue); break;
      case 2: fields.int32_value(priority); break;
      default: fields.skip_unknown();
    }
  }
  if (reader.adopt(fields)) queues.insert_or_assign(std::move(queue), priority);
}

// The instants that protobuf's Timestamp supports: the years 1 to 9999.
constexpr std::int64_t earliest_seconds = -62'135'596'800;  // also Go's zero time
constexpr std::int64_t latest_seconds = 253'402'300'799;
constexpr std::int64_t longest_seconds =
    std::chrono::duration_cast<std::chrono::seconds>(Limits::longest).count();

std::int64_t clamped_instant(std::int64_t seconds) {
  return std::clamp(seconds, earliest_seconds, latest_seconds);
}

std::int64_t clamped_duration(std::int64_t seconds) {
  return std::clamp(seconds, -longest_seconds, longest_seconds);
}

// The seconds as they were read: unset fields are 0.
struct WireSeconds {
  std::int64_t timeout = 0;
  std::int64_t deadline = 0;
  std::int64_t last_failed_at = 0;
  std::int64_t retention = 0;
  std::int64_t completed_at = 0;
};

Time instant_from(std::int64_t seconds, std::optional<std::int64_t>& original) {
  const std::int64_t clamped = clamped_instant(seconds);
  if (clamped != seconds) original = seconds;
  return Time{std::chrono::seconds{clamped}};
}

std::chrono::seconds duration_from(std::int64_t seconds, std::optional<std::int64_t>& original) {
  const std::int64_t clamped = clamped_duration(seconds);
  if (clamped != seconds) original = seconds;
  return std::chrono::seconds{clamped};
}

std::int64_t whole_seconds(Time instant) {
  return std::chrono::floor<std::chrono::seconds>(instant).time_since_epoch().count();
}

std::int64_t wire_instant(Time instant, const std::optional<std::int64_t>& original) {
  const std::int64_t seconds = whole_seconds(instant);
  return original && clamped_instant(*original) == seconds ? *original : seconds;
}

std::int64_t wire_duration(std::chrono::seconds duration,
                           const std::optional<std::int64_t>& original) {
  const std::int64_t seconds = duration.count();
  return original && clamped_duration(*original) == seconds ? *original : seconds;
}

// protobuf's Timestamp. A repeated one is merged into the first, as in Go.
struct Timestamp {
  std::int64_t seconds = 0;
  int nanos = 0;
};

void read_timestamp(FieldReader& reader, Timestamp& timestamp) {
  std::string_view bytes;
  if (!reader.bytes_value(bytes)) return;
  FieldReader fields{bytes, nullptr};
  while (fields.next()) {
    switch (fields.number()) {
      case 1: fields.int64_value(timestamp.seconds); break;
      case 2: fields.int32_value(timestamp.nanos); break;
      default: fields.skip_unknown();
    }
  }
  reader.adopt(fields);
}

// Go's zero time, and any time before it, is unset.
Time time_from(const Timestamp& timestamp) {
  const Time instant = Time{std::chrono::seconds{clamped_instant(timestamp.seconds)}} +
                       std::chrono::floor<Duration>(std::chrono::nanoseconds{timestamp.nanos});
  return instant <= Time{std::chrono::seconds{earliest_seconds}} ? Time{} : instant;
}

// Fields of proto3: those that are 0 or empty are omitted.
class FieldWriter {
 public:
  explicit FieldWriter(std::string& bytes) : writer_{bytes} {}

  void number(std::uint32_t field, std::int64_t value) {
    if (value != 0) writer_.add_int64(field, value);
  }

  void flag(std::uint32_t field, bool value) {
    if (value) writer_.add_bool(field, value);
  }

  void bytes(std::uint32_t field, std::string_view value) {
    if (!value.empty()) writer_.add_bytes(field, value.data(), value.size());
  }

  void repaired(std::uint32_t field, std::string_view text) {
    if (detail::is_valid_utf8(text)) return bytes(field, text);
    bytes(field, detail::repaired_utf8(text));
  }

  // Always written, even if empty: older readers require it.
  void timestamp(std::uint32_t field, Time instant) {
    instant = std::clamp(instant, Time{std::chrono::seconds{earliest_seconds}},
                         Time{std::chrono::seconds{latest_seconds}});
    const auto seconds = std::chrono::floor<std::chrono::seconds>(instant);
    const std::chrono::nanoseconds nanos = instant - seconds;
    std::string encoded;
    FieldWriter fields{encoded};
    fields.number(1, seconds.time_since_epoch().count());
    fields.number(2, nanos.count());
    writer_.add_message(field, encoded);
  }

  // An entry of a map has both fields, even if they are empty.
  void header(std::uint32_t field, const std::string& key, const std::string& value) {
    protozero::pbf_writer entry{writer_, field};
    entry.add_string(1, key);
    entry.add_string(2, value);
  }

  void priority(std::uint32_t field, const std::string& queue, int priority) {
    protozero::pbf_writer entry{writer_, field};
    entry.add_string(1, queue);
    entry.add_int32(2, priority);
  }

 private:
  protozero::pbf_writer writer_;
};

const std::string& checked(const std::string& text, const char* name, const TaskMessage& message) {
  if (!detail::is_valid_utf8(text))
    throw Error{Errc::invalid_argument,
                "encode task: its " + std::string{name} + " is not valid UTF-8", message.id};
  return text;
}

// Enough for the small fields, and for the tags and lengths of the others.
std::size_t estimated_size(const TaskMessage& message, const UnknownFields& unknown) {
  std::size_t size = 128 + message.task.type.size() + message.task.payload.size() +
                     message.id.size() + message.queue.size() + message.last_error.size() +
                     message.unique_key.size() + unknown.group.size() + unknown.others.size();
  for (const auto& [key, value] : message.task.headers) size += key.size() + value.size() + 16;
  return size;
}

}  // namespace

std::string_view to_string(WireFault fault) noexcept {
  switch (fault) {
    case WireFault::truncated: return "truncated";
    case WireFault::varint_too_long: return "number of more than 64 bits";
    case WireFault::bad_field_number: return "impossible field number";
    case WireFault::bad_wire_type: return "impossible wire type";
    case WireFault::unbalanced_group: return "unbalanced group";
    case WireFault::nested_too_deeply: return "groups nested too deeply";
    case WireFault::invalid_utf8: return "invalid UTF-8";
    case WireFault::misplaced_field: return "field out of place";
  }
  return "unknown";
}

std::string DecodeError::text() const {
  const std::string reason{to_string(fault)};
  return field == 0 ? reason : "field " + std::to_string(field) + ": " + reason;
}

std::string pack_unknown(const UnknownFields& unknown) {
  std::string packed;
  protozero::pbf_writer writer{packed};
  if (unknown.timeout) writer.add_int64(8, *unknown.timeout);
  if (unknown.deadline) writer.add_int64(9, *unknown.deadline);
  if (unknown.last_failed_at) writer.add_int64(11, *unknown.last_failed_at);
  if (unknown.retention) writer.add_int64(12, *unknown.retention);
  if (unknown.completed_at) writer.add_int64(13, *unknown.completed_at);
  if (!unknown.group.empty()) writer.add_string(14, unknown.group);
  packed.append(unknown.others);
  return packed;
}

Decoded<UnknownFields> unpack_unknown(std::string_view packed) {
  UnknownFields unknown;
  FieldReader reader{packed, &unknown.others};
  while (reader.next()) {
    switch (reader.number()) {
      case 8: read_optional(reader, unknown.timeout); break;
      case 9: read_optional(reader, unknown.deadline); break;
      case 11: read_optional(reader, unknown.last_failed_at); break;
      case 12: read_optional(reader, unknown.retention); break;
      case 13: read_optional(reader, unknown.completed_at); break;
      case 14: reader.text_value(unknown.group); break;
      case 5:
      case 6: reader.refuse_unless_unknown(WireType::varint); break;
      case 1:
      case 2:
      case 3:
      case 4:
      case 7:
      case 10:
      case 15: reader.refuse_unless_unknown(WireType::length_delimited); break;
      default: reader.skip_unknown();
    }
  }
  if (reader.error()) return *reader.error();
  return unknown;
}

Decoded<WireMessage> decode_message(std::string_view bytes) {
  WireMessage decoded;
  auto& [message, unknown] = decoded;
  message.max_retry = 0;  // an absent field means 0, unlike the default of TaskMessage
  WireSeconds seconds;
  FieldReader reader{bytes, &unknown.others};
  while (reader.next()) {
    switch (reader.number()) {
      case 1: reader.text_value(message.task.type); break;
      case 2: reader.bytes_value(message.task.payload); break;
      case 3: reader.text_value(message.id); break;
      case 4: reader.text_value(message.queue); break;
      case 5: reader.int32_value(message.max_retry); break;
      case 6: reader.int32_value(message.retried); break;
      case 7: reader.text_value(message.last_error); break;
      case 8: reader.int64_value(seconds.timeout); break;
      case 9: reader.int64_value(seconds.deadline); break;
      case 10: reader.text_value(message.unique_key); break;
      case 11: reader.int64_value(seconds.last_failed_at); break;
      case 12: reader.int64_value(seconds.retention); break;
      case 13: reader.int64_value(seconds.completed_at); break;
      case 14: reader.text_value(unknown.group); break;
      case 15: read_header(reader, message.task.headers); break;
      default: reader.skip_unknown();
    }
  }
  if (reader.error()) return *reader.error();
  message.timeout = duration_from(seconds.timeout, unknown.timeout);
  message.deadline = instant_from(seconds.deadline, unknown.deadline);
  message.last_failed_at = instant_from(seconds.last_failed_at, unknown.last_failed_at);
  message.retention = duration_from(seconds.retention, unknown.retention);
  message.completed_at = instant_from(seconds.completed_at, unknown.completed_at);
  return decoded;
}

std::string encode_message(const TaskMessage& message, const UnknownFields& unknown,
                           const Changes& changes) {
  const std::string_view last_error = changes.last_error.value_or(message.last_error);
  std::string bytes;
  bytes.reserve(estimated_size(message, unknown) + last_error.size());
  FieldWriter fields{bytes};
  fields.bytes(1, checked(message.task.type, "type", message));
  fields.bytes(2, message.task.payload);
  fields.bytes(3, checked(message.id, "id", message));
  fields.bytes(4, checked(message.queue, "queue", message));
  fields.number(5, message.max_retry);
  fields.number(6, changes.retried.value_or(message.retried));
  fields.repaired(7, last_error);
  fields.number(8, wire_duration(message.timeout, unknown.timeout));
  fields.number(9, wire_instant(message.deadline, unknown.deadline));
  fields.bytes(10, checked(message.unique_key, "unique key", message));
  fields.number(11, wire_instant(changes.last_failed_at.value_or(message.last_failed_at),
                                 unknown.last_failed_at));
  fields.number(12, wire_duration(message.retention, unknown.retention));
  fields.number(
      13, wire_instant(changes.completed_at.value_or(message.completed_at), unknown.completed_at));
  fields.bytes(14, checked(unknown.group, "group", message));
  for (const auto& [key, value] : message.task.headers)
    fields.header(15, checked(key, "header key", message), checked(value, "header", message));
  bytes.append(unknown.others);
  return bytes;
}

std::string error_text(std::string_view text) {
  return detail::bounded_utf8(text, Limits::error_text_bytes);
}

namespace {

ServerStatus parse_server_status(std::string_view name) noexcept {
  for (const ServerStatus status :
       {ServerStatus::active, ServerStatus::stopped, ServerStatus::closed}) {
    if (name == to_string(status)) return status;
  }
  return ServerStatus::unknown;
}

}  // namespace

Decoded<WireServer> decode_server(std::string_view bytes) {
  WireServer decoded;
  auto& [server, active_workers] = decoded;
  std::string status;
  Timestamp started_at;
  FieldReader reader{bytes, nullptr};
  while (reader.next()) {
    switch (reader.number()) {
      case 1: reader.text_value(server.host); break;
      case 2: reader.int32_value(server.pid); break;
      case 3: reader.text_value(server.id); break;
      case 4: reader.int32_value(server.concurrency); break;
      case 5: read_priority(reader, server.queues); break;
      case 6: reader.bool_value(server.strict_priority); break;
      case 7: reader.text_value(status); break;
      case 8: read_timestamp(reader, started_at); break;
      case 9: reader.int32_value(active_workers); break;
      default: reader.skip_unknown();
    }
  }
  if (reader.error()) return *reader.error();
  server.status = parse_server_status(status);
  server.started_at = time_from(started_at);
  return decoded;
}

std::string encode_server(const ServerInfo& server) {
  std::string bytes;
  FieldWriter fields{bytes};
  fields.repaired(1, server.host);
  fields.number(2, server.pid);
  fields.repaired(3, server.id);
  fields.number(4, server.concurrency);
  for (const auto& [queue, priority] : server.queues) {
    if (priority > 0) fields.priority(5, detail::repaired_utf8(queue), priority);
  }
  fields.flag(6, server.strict_priority);
  fields.bytes(7, to_string(server.status));
  fields.timestamp(8, server.started_at);
  fields.number(9, static_cast<std::int64_t>(server.workers.size()));
  return bytes;
}

Decoded<WireWorker> decode_worker(std::string_view bytes) {
  WireWorker decoded;
  WorkerInfo& worker = decoded.worker;
  Timestamp started_at;
  Timestamp deadline;
  FieldReader reader{bytes, nullptr};
  while (reader.next()) {
    switch (reader.number()) {
      case 1: reader.text_value(decoded.host); break;
      case 2: reader.int32_value(decoded.pid); break;
      case 3: reader.text_value(decoded.server_id); break;
      case 4: reader.text_value(worker.task_id); break;
      case 5: reader.text_value(worker.task.type); break;
      case 6: reader.bytes_value(worker.task.payload); break;
      case 7: reader.text_value(worker.queue); break;
      case 8: read_timestamp(reader, started_at); break;
      case 9: read_timestamp(reader, deadline); break;
      default: reader.skip_unknown();
    }
  }
  if (reader.error()) return *reader.error();
  worker.started_at = time_from(started_at);
  worker.deadline = time_from(deadline);
  return decoded;
}

namespace {

// Text is cut at a character boundary: tools show it only if it is valid.
std::string_view shown_part(std::string_view payload) {
  constexpr std::size_t longest_character = 4;
  const std::string_view cut = detail::cut_utf8(payload, shown_payload_bytes);
  const bool may_be_text = cut.size() + longest_character > shown_payload_bytes;
  return may_be_text ? cut : payload.substr(0, shown_payload_bytes);
}

}  // namespace

std::string encode_worker(const ServerInfo& server, const WorkerInfo& worker) {
  std::string bytes;
  const std::string_view payload = shown_part(worker.task.payload);
  bytes.reserve(256 + payload.size());
  FieldWriter fields{bytes};
  fields.repaired(1, server.host);
  fields.number(2, server.pid);
  fields.repaired(3, server.id);
  fields.repaired(4, worker.task_id);
  fields.repaired(5, worker.task.type);
  fields.bytes(6, payload);
  fields.repaired(7, worker.queue);
  fields.timestamp(8, worker.started_at);
  fields.timestamp(9, worker.deadline);
  return bytes;
}

std::optional<TaskState> parse_state(std::optional<std::string_view> name) {
  for (const TaskState state :
       {TaskState::pending, TaskState::active, TaskState::scheduled, TaskState::retry,
        TaskState::archived, TaskState::completed, TaskState::aggregating}) {
    if (name == to_string(state)) return state;
  }
  return std::nullopt;
}

}  // namespace taskmux::redis
