#include "redis/runs.hpp"

#include <memory>
#include <protozero/pbf_reader.hpp>
#include <utility>

namespace taskmux::redis {
namespace {

constexpr protozero::pbf_tag_type last_failed_at = 11;
constexpr protozero::pbf_tag_type completed_at = 13;
constexpr Time any_one_byte_time{std::chrono::seconds{1}};

// Cuts out the value of `field`, which is one byte long.
StampedMessage cut(const std::string& bytes, protozero::pbf_tag_type field) {
  protozero::pbf_reader reader{bytes};
  while (reader.next()) {
    if (reader.tag() == field) {
      const std::size_t tail = bytes.size() - reader.length() + 1;
      return {.head = bytes.substr(0, tail - 1), .tail = bytes.substr(tail)};
    }
    reader.skip();
  }
  throw Error{Errc::malformed, "a message without the field that was just written"};
}

}  // namespace

StampedMessage stamp_failure(TaskMessage message, const ForeignFields& foreign) {
  message.last_failed_at = any_one_byte_time;
  return cut(encode_message(message, foreign), last_failed_at);
}

StampedMessage stamp_success(TaskMessage message, const ForeignFields& foreign) {
  message.completed_at = any_one_byte_time;
  return cut(encode_message(message, foreign), completed_at);
}

TaskMessage malformed_message(std::string_view queue, std::string_view id,
                              std::string_view reason) {
  TaskMessage message;
  message.id = error_text(id);  // repaired, should it not be UTF-8
  message.queue = error_text(queue);
  message.task.type = malformed_type;
  message.max_retry = 0;
  message.last_error = error_text(reason);
  return message;
}

std::string mismatch(const TaskMessage& message, std::string_view queue, std::string_view id) {
  if (message.id != id) return "the message names another task: " + printable(message.id);
  if (message.queue != queue) return "the message names another queue: " + printable(message.queue);
  return {};
}

void RunReader::read(std::string_view queue, ReplyView reply, std::vector<Run>& runs) {
  constexpr std::size_t values = 6;
  reply.expect_array(reply.size() / values * values);
  for (std::size_t at = 0; at < reply.size(); at += values) {
    const std::string_view id = reply[at].as_string();
    const std::uint64_t token =
        make_token(block_, static_cast<std::uint64_t>(reply[at + 1].as_integer()));
    Decoded<WireMessage> decoded = decode_message(reply[at + 2].as_string());
    std::string fault = decoded ? mismatch(decoded->message, queue, id) : decoded.error().text();
    if (!fault.empty()) {
      keep_malformed(queue, id, token, fault);
      continue;
    }
    TaskMessage& message = decoded->message;
    if (const auto expiry = parse_number(reply[at + 4].as_optional_string()))
      message.expires_at = time_of(*expiry);
    if (const auto enqueued = parse_number(reply[at + 5].as_optional_string())) {
      message.enqueued_at = time_of(*enqueued);
    }
    Run run;
    run.message = std::make_shared<const TaskMessage>(std::move(message));
    run.token = token;
    run.crashes = static_cast<int>(parse_number(reply[at + 3].as_optional_string()).value_or(0));
    run.foreign = pack_foreign(decoded->foreign);
    runs.push_back(std::move(run));
  }
}

void RunReader::keep_malformed(std::string_view queue, std::string_view id, std::uint64_t token,
                               const std::string& reason) {
  store_.log()(LogLevel::warning, "queue \"" + printable(queue) + "\": archived malformed task \"" +
                                      printable(id) + "\": " + reason);
  const auto [head, tail] = stamp_failure(malformed_message(queue, id, reason), {});
  malformed_.push_back(
      store_.call(scripts().quarantine, queue, {id, hex_of_token(token), head, tail}));
}

std::size_t RunReader::set_aside() {
  if (malformed_.empty()) return 0;
  try {
    for (const Reply& reply : store_.run(malformed_))
      throw_if_error("archive malformed tasks", reply);
  } catch (const Error& error) {
    store_.log()(LogLevel::error, error.what());
  }
  return malformed_.size();
}

}  // namespace taskmux::redis
