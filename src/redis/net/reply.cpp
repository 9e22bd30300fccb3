#include "redis/net/reply.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <new>

namespace taskmux::redis {
namespace {

[[noreturn]] void throw_unexpected(std::string_view wanted, ReplyView reply) {
  std::string text = "expected " + std::string{wanted} + " from Redis, got ";
  text += reply.kind();
  if (reply.is_error()) text += ": " + printable(reply.error_text());
  throw Error{Errc::protocol, text};
}

constexpr bool is_upper(char c) noexcept { return c >= 'A' && c <= 'Z'; }

/// Returns the word in capitals that `text` begins with, if it is followed by a space or the end.
std::string_view leading_code(std::string_view text) noexcept {
  const auto end = std::find_if_not(text.begin(), text.end(), is_upper);
  const auto length = static_cast<std::size_t>(end - text.begin());
  if (length < 2 || (length < text.size() && text[length] != ' ')) return {};
  return text.substr(0, length);
}

/// Redis before 7 reports an error inside a script as "ERR Error running script (call to f_...):
/// @user_script:1: @user_script: 1: -OOM command not allowed ...".
std::string_view code_inside_script(std::string_view text) noexcept {
  for (auto colon = text.find(": "); colon != std::string_view::npos;
       colon = text.find(": ", colon + 2)) {
    auto rest = text.substr(colon + 2);
    if (rest.starts_with('-')) rest.remove_prefix(1);
    const auto code = leading_code(rest);
    if (!code.empty() && code != "ERR") return code;
  }
  return {};
}

template <std::size_t N>
bool is_one_of(std::string_view text, const std::array<std::string_view, N>& all) noexcept {
  return std::find(all.begin(), all.end(), text) != all.end();
}

constexpr std::array<std::string_view, 13> unavailable_codes{
    lost_code, slow_code, "LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN",
    "MOVED",   "ASK",     "BUSY",    "MISCONF",  "NOREPLICAS", "UNKILLABLE"};
constexpr std::array<std::string_view, 4> unauthorized_codes{"NOAUTH", "WRONGPASS", "NOPERM",
                                                             "DENIED"};

// The error of a script that requests a key which its node has already migrated.
constexpr std::string_view moved_key_text = "non local key";

std::string_view code_of(std::string_view text) noexcept {
  const auto code = leading_code(text);
  if (code != "ERR" || text.find("unning script") == std::string_view::npos) return code;
  const auto inner = code_inside_script(text);
  return inner.empty() ? code : inner;
}

/// Old errors of Redis that have no code of their own.
Errc errc_of_plain_error(std::string_view text) noexcept {
  constexpr auto npos = std::string_view::npos;
  if (text.find("max number of clients") != npos) return Errc::unavailable;
  // An argument is longer than the server's proto-max-bulk-len.
  if (text.find("invalid bulk length") != npos) return Errc::payload_too_large;
  if (text.find(moved_key_text) != npos) return Errc::unavailable;
  // The error of a script before Redis 7.2: "The user executing the script can't run this command".
  if (text.find("user executing the script can't") != npos) return Errc::unauthorized;
  if (text.find("without any password configured") != npos) return Errc::unauthorized;
  if (text.find("no password is set") != npos) return Errc::unauthorized;
  if (text.find("invalid password") != npos) return Errc::unauthorized;
  return Errc::protocol;
}

}  // namespace

std::int64_t ReplyView::as_integer() const {
  if (!is_integer()) throw_unexpected("an integer", *this);
  return reply_->integer;
}

std::int64_t ReplyView::as_number() const {
  if (is_integer()) return reply_->integer;
  const auto text = as_string();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty())
    throw_unexpected("a number", *this);
  return number;
}

std::string_view ReplyView::as_string() const {
  if (!is_string()) throw_unexpected("a string", *this);
  return {reply_->str, length()};
}

std::optional<std::string_view> ReplyView::as_optional_string() const {
  if (is_nil()) return std::nullopt;
  return as_string();
}

std::size_t ReplyView::size() const {
  if (!is_array()) throw_unexpected("an array", *this);
  return reply_->elements;
}

ReplyView ReplyView::operator[](std::size_t index) const {
  expect_array(index + 1);
  return ReplyView{reply_->element[index]};
}

void ReplyView::expect_array(std::size_t count) const {
  if (size() < count)
    throw Error{Errc::protocol, "expected an array of at least " + std::to_string(count) +
                                    " elements from Redis, got " + std::to_string(size())};
}

std::string_view ReplyView::error_code() const noexcept { return code_of(error_text()); }

std::string_view ReplyView::kind() const noexcept {
  if (reply_ == nullptr) return "nothing";
  switch (reply_->type) {
    case REDIS_REPLY_STRING: return "a string";
    case REDIS_REPLY_ARRAY: return "an array";
    case REDIS_REPLY_INTEGER: return "an integer";
    case REDIS_REPLY_NIL: return "nil";
    case REDIS_REPLY_STATUS: return "a status";
    case REDIS_REPLY_ERROR: return "an error";
    default: return "a reply of an unknown kind";
  }
}

Reply make_error_reply(std::string_view code, std::string_view text) {
  const std::string line =
      fmt::format("-{}{}{}\r\n", code, text.empty() ? "" : " ", printable(text));
  const std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader{redisReaderCreate(),
                                                                        &redisReaderFree};
  void* reply = nullptr;
  if (!reader || redisReaderFeed(reader.get(), line.data(), line.size()) != REDIS_OK ||
      redisReaderGetReply(reader.get(), &reply) != REDIS_OK)
    throw std::bad_alloc{};
  return Reply{static_cast<redisReply*>(reply)};
}

Errc errc_of(ReplyView error) noexcept { return errc_of(error.error_text()); }

Errc errc_of(std::string_view error_text) noexcept {
  const auto code = code_of(error_text);
  if (is_one_of(code, unavailable_codes)) return Errc::unavailable;
  if (is_one_of(code, unauthorized_codes)) return Errc::unauthorized;
  if (code == "OOM") return Errc::queue_full;
  return errc_of_plain_error(error_text);
}

bool met_moving_keys(ReplyView error) noexcept {
  return error.error_code() == "TRYAGAIN" ||
         error.error_text().find(moved_key_text) != std::string_view::npos;
}

Error error_of(std::string_view operation, ReplyView error) {
  return error_of(operation, error.error_text());
}

Error error_of(std::string_view operation, std::string_view error_text) {
  const Errc errc = errc_of(error_text);
  if (const std::string_view code = code_of(error_text); code == lost_code || code == slow_code)
    error_text.remove_prefix(std::min(code.size() + 1, error_text.size()));
  return Error{errc, std::string{operation} + ": " + printable(error_text)};
}

void throw_if_error(std::string_view operation, ReplyView reply) {
  if (reply.is_error()) throw error_of(operation, reply);
}

std::string printable(std::string_view text) {
  constexpr std::size_t longest = 300;
  std::string result{text.substr(0, longest)};
  for (auto& c : result)
    if (c < ' ' || c > '~') c = '?';
  return result;
}

}  // namespace taskmux::redis
