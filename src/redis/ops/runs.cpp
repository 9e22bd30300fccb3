#include "redis/ops/runs.hpp"

#include <algorithm>
#include <memory>
#include <protozero/pbf_reader.hpp>
#include <utility>

#include "lua_arguments.hpp"

namespace taskmux::redis {
namespace {

constexpr protozero::pbf_tag_type last_failed_at = 11;
constexpr protozero::pbf_tag_type completed_at = 13;
constexpr int most_crashes = 1'000'000;
constexpr Time any_one_byte_time{std::chrono::seconds{1}};

// Splits the message at the value of `field`, which is one byte long, and removes the value.
StampedMessage cut(std::string bytes, protozero::pbf_tag_type field) {
  protozero::pbf_reader reader{bytes};
  while (reader.next()) {
    if (reader.tag() == field) {
      const std::size_t tail = bytes.size() - reader.length() + 1;
      // The payload precedes these fields, so little is copied, unless there are large headers.
      StampedMessage stamped{.tail = bytes.substr(tail)};
      bytes.resize(tail - 1);
      stamped.head = std::move(bytes);
      return stamped;
    }
    reader.skip();
  }
  throw Error{Errc::malformed, "a message without the field that was just written"};
}

}  // namespace

StampedMessage stamp_failure(const TaskMessage& message, const UnknownFields& unknown,
                             std::string_view last_error, int retried) {
  return cut(
      encode_message(
          message, unknown,
          {.last_error = last_error, .retried = retried, .last_failed_at = any_one_byte_time}),
      last_failed_at);
}

StampedMessage stamp_success(const TaskMessage& message, const UnknownFields& unknown) {
  return cut(encode_message(message, unknown, {.completed_at = any_one_byte_time}), completed_at);
}

TaskMessage malformed_message(std::string_view queue, std::string_view id,
                              std::string_view reason) {
  TaskMessage message;
  message.id = error_text(id);  // repaired if it is not UTF-8
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

namespace {

// Removes and returns the part before the next space, and removes the space.
std::string_view next_word(std::string_view& text) noexcept {
  const std::string_view word = text.substr(0, text.find(' '));
  text.remove_prefix(std::min(text.size(), word.size() + 1));
  return word;
}

std::optional<Time> instant(std::string_view word) noexcept {
  const auto micros = parse_number(word);
  return micros && *micros > 0 ? std::optional{time_of(*micros)} : std::nullopt;
}

}  // namespace

std::string to_text(const Facts& facts) {
  constexpr std::size_t digits = 16;
  std::string enqueued = micros(facts.enqueued_at.value_or(Time{}));
  enqueued.insert(0, digits - std::min(digits, enqueued.size()), '0');
  return enqueued + ' ' + micros(facts.expires_at.value_or(Time{})) + ' ' + text(facts.crashes);
}

Facts parse_facts(std::optional<std::string_view> text) noexcept {
  std::string_view left = text.value_or("");
  Facts facts;
  facts.enqueued_at = instant(next_word(left));
  facts.expires_at = instant(next_word(left));
  const std::int64_t crashes = parse_number(next_word(left)).value_or(0);
  facts.crashes = static_cast<int>(std::clamp<std::int64_t>(crashes, 0, most_crashes));
  return facts;
}

std::optional<Time> taken_at(std::optional<std::string_view> run,
                             std::optional<std::string_view> score) noexcept {
  std::string_view left = run.value_or("");
  next_word(left);
  return next_word(left) == score ? instant(next_word(left)) : std::nullopt;
}

Begun begun_of(std::string_view mark) noexcept {
  if (mark == "s") return Begun::no;
  if (mark == "a") return Begun::perhaps;
  return Begun::yes;
}

void RunReader::read_taken(std::string_view queue, std::uint64_t first, ReplyView list,
                           std::uint64_t begun_below, std::vector<Run>& runs) {
  read(queue, first, list, 4, runs, [&](std::uint64_t number, int crashes) {
    if (crashes > 0) return Begun::no;
    return number < begun_below ? Begun::yes : Begun::perhaps;
  });
}

void RunReader::read_lost(std::string_view queue, ReplyView list, ReplyView marks,
                          std::vector<Run>& runs) {
  read(queue, 0, list, 3, runs, [&](std::uint64_t number, int) {
    return begun_of(marks[static_cast<std::size_t>(number)].as_string());
  });
}

template <typename BegunOf>
void RunReader::read(std::string_view queue, std::uint64_t first, ReplyView list,
                     std::size_t values, std::vector<Run>& runs, BegunOf begun) {
  for (std::size_t at = 0; at < list.size(); at += values) {
    const std::string_view id = list[at].as_string();
    const std::uint64_t number = first + at / values;
    const std::uint64_t token = make_token(block_, number);
    Decoded<WireMessage> decoded = decode_message(list[at + 1].as_string());
    std::string fault = decoded ? mismatch(decoded->message, queue, id) : decoded.error().text();
    if (!fault.empty()) {
      keep_malformed(queue, id, token, fault);
      continue;
    }
    TaskMessage& message = decoded->message;
    const Facts facts = parse_facts(list[at + 2].as_optional_string());
    message.expires_at = facts.expires_at.value_or(Time{});
    message.enqueued_at = facts.enqueued_at.value_or(Time{});
    Run run;
    run.message = std::make_shared<const TaskMessage>(std::move(message));
    run.token = token;
    run.crashes = facts.crashes;
    run.begun = begun(number, facts.crashes);
    run.broker_data = pack_unknown(decoded->unknown);
    if (values > 3) {
      const auto since_ns = parse_number(list[at + 3].as_optional_string());
      if (since_ns && *since_ns > 0) run.ready_at = time_of(*since_ns / 1000);
    }
    runs.push_back(std::move(run));
  }
}

void RunReader::keep_malformed(std::string_view queue, std::string_view id, std::uint64_t token,
                               const std::string& reason) {
  session_.log()({.level = LogLevel::warning,
                .text = "archived, since it is malformed: " + reason,
                .task_id = id,
                .queue = queue});
  const TaskMessage message = malformed_message(queue, id, reason);
  auto [head, tail] = stamp_failure(message, {}, message.last_error, message.retried);
  malformed_.push_back(session_.call(queue, lua::Quarantine{}));
  lua::Quarantine::Run{
      .id = id, .token = hex_of_token(token), .head = std::move(head), .tail = std::move(tail)}
      .append_to(malformed_.back().args);
}

std::size_t RunReader::set_aside() {
  if (malformed_.empty()) return 0;
  try {
    for (const Reply& reply : session_.run(malformed_))
      throw_if_error("archive malformed tasks", reply);
  } catch (const Error& error) {
    session_.log()(LogLevel::error, error.what());
  }
  return malformed_.size();
}

}  // namespace taskmux::redis
