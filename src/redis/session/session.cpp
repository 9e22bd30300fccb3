#include "redis/session/session.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <iterator>
#include <system_error>
#include <utility>

#include "redis/route/key_slot.hpp"

namespace taskmux::redis {
namespace {

// Below 2^53, up to which Lua's numbers are exact, with room for a sum.
constexpr std::int64_t last_micros = 8'990'000'000'000'000;

std::uint64_t random_number() {
  std::uint64_t number = 0;
  if (getrandom(&number, sizeof number, 0) != sizeof number) {
    throw std::system_error{errno, std::generic_category(), "getrandom"};
  }
  return number;
}

// Returns the time in a reply to TIME.
Time time_in(const Reply& reply) {
  reply.expect_array(2);
  return time_of(reply[0].as_number() * 1'000'000 + reply[1].as_number());
}

std::string hex(std::uint64_t number, int digits) {
  std::string text(static_cast<std::size_t>(digits), '0');
  for (auto at = text.rbegin(); at != text.rend(); ++at, number >>= 4)
    *at = "0123456789abcdef"[number & 15];
  return text;
}

}  // namespace

std::string text(std::int64_t number) { return std::to_string(number); }

std::string micros(Duration duration) {
  return text(std::clamp<std::int64_t>(duration.count(), 0, last_micros / 2));
}

std::string micros(Time instant) {
  return text(std::clamp<std::int64_t>(instant.time_since_epoch().count(), 0, last_micros));
}

std::optional<std::int64_t> parse_number(std::optional<std::string_view> bytes) noexcept {
  if (!bytes) return std::nullopt;
  std::int64_t number = 0;
  const char* end = bytes->data() + bytes->size();
  const auto [stopped, fault] = std::from_chars(bytes->data(), end, number);
  if (fault != std::errc{} || stopped != end) return std::nullopt;
  return number;
}

std::string hex_of_block(std::uint64_t block) { return hex(block, 12); }
std::string hex_of_token(std::uint64_t token) { return hex(token, 16); }

Session::Session(RedisOptions options)
    : process_{::getpid()},
      global_{options.key_prefix},
      transport_{std::move(options)},
      queue_health_{log(), this->options().clock},
      contact_{!cluster()},
      next_block_{random_number()} {}

bool Session::in_own_process() const noexcept { return ::getpid() == process_; }

void Session::check_process() const {
  if (!in_own_process()) {
    throw Error{Errc::forked, "redis broker: made in another process, before fork()"};
  }
}

Keys Session::keys(std::string_view queue) const {
  if (cluster() && queue.find_first_of("{}") != std::string_view::npos) {
    throw Error{Errc::invalid_argument,
                "queue \"" + printable(queue) +
                    "\": on a Redis Cluster the name of a queue must hold no braces, since what "
                    "stands in braces in a key says which node has it"};
  }
  return Keys{queue, options().key_prefix};
}

Call Session::call_on(const Script& script, std::vector<std::string> keys) {
  constexpr std::size_t most_arguments = 9;  // of a script, records apart
  Call call{.slot_key = keys.front(), .script = &script};
  call.args.reserve(1 + keys.size() + most_arguments);
  call.args.push_back(std::to_string(keys.size()));
  std::move(keys.begin(), keys.end(), std::back_inserter(call.args));
  return call;
}

Call Session::call_on_queues(const Script& script, std::span<const std::string> queues) const {
  std::vector<std::string> pending;
  pending.reserve(queues.size());
  for (const std::string& queue : queues) pending.push_back(keys(queue).pending());
  return call_on(script, std::move(pending));
}

Call Session::command(std::string_view slot_key, std::initializer_list<std::string_view> args) {
  return {.slot_key = std::string{slot_key}, .args = {args.begin(), args.end()}};
}

void Session::add_now(std::vector<std::string>& args) const {
  if (!options().clock) {
    args.insert(args.end(), {"", ""});
    return;
  }
  const std::int64_t now = options().clock->now().time_since_epoch().count();
  args.push_back(text(now / 1'000'000));
  args.push_back(text(now % 1'000'000));
}

std::optional<Time> Session::add_now_or_never(std::vector<std::string>& args,
                                            std::string_view queue) const {
  add_now(args);
  const auto there = known_time(queue);
  if (there && !options().clock) args.back() = micros(*there + options().command_timeout);
  return there;
}

std::optional<Time> Session::known_time(std::string_view queue) const {
  if (options().clock) return options().clock->now();
  return server_clock_.at(cluster() ? queue : "", steady_now());
}

void Session::remember(std::uint64_t token_block, const LostCall& lost) {
  constexpr std::size_t most = 64;
  detail::MutexLock lock{mutex_};
  LostCall& known = lost_calls_[token_block];
  known.sent_at = std::min(known.sent_at, lost.sent_at);
  known.carried = std::max(known.carried, lost.carried);
  if (lost_calls_.size() <= most) return;
  const auto first = lost_calls_.begin();
  lost_calls_.erase(first->first == token_block ? std::next(first) : first);
}

Session::LostCall Session::lost_call(std::uint64_t token_block) {
  detail::MutexLock lock{mutex_};
  const auto found = lost_calls_.find(token_block);
  return found == lost_calls_.end() ? LostCall{} : found->second;
}

void Session::note_time(std::string_view queue, Time now, SteadyTime sent_at) {
  const SteadyTime answered_at = steady_now();
  // Leases end by its clock: after a jump, their owners must be able to extend them first.
  if (server_clock_.note(cluster() ? queue : "", now, sent_at, answered_at))
    contact_.broken(answered_at);
}

void Session::learn_time(std::span<const std::string> queues) {
  if (options().clock) return;
  std::vector<std::string_view> unknown;
  std::vector<Call> calls;
  const SteadyTime sent_at = steady_now();
  for (const std::string& queue : queues) {
    if (server_clock_.at(cluster() ? queue : "", sent_at)) continue;
    unknown.push_back(queue);
    calls.push_back(command(keys(queue).pending(), {"TIME"}));
    if (!cluster()) break;
  }
  if (calls.empty()) return;
  const std::vector<Reply> replies = run(calls);
  for (std::size_t i = 0; i < replies.size(); ++i) {
    if (!replies[i].is_error()) note_time(unknown[i], time_in(replies[i]), sent_at);
  }
}

Time Session::now() {
  if (options().clock) return options().clock->now();
  return time_in(run_one("time", command({}, {"TIME"})));
}

std::vector<Reply> Session::run(std::span<const Call> calls) {
  const SteadyTime sent_at = steady_now();
  std::vector<Reply> replies = transport_.run(calls);
  const bool refused = std::any_of(replies.begin(), replies.end(), [](const Reply& reply) {
    return reply.is_error() && errc_of(reply) == Errc::unavailable;
  });
  if (cluster()) {
    note_refusals(calls, replies);
    note_contact(sent_at);
  } else if (!refused) {
    note_contact(sent_at);
  }
  return replies;
}

Reply Session::run_one(std::string_view operation, const Call& call) {
  const SteadyTime sent_at = steady_now();
  Reply reply = transport_.run_one(operation, call);
  note_contact(sent_at);
  return reply;
}

SteadyTime Session::steady_now() const {
  return options().clock ? options().clock->steady_now() : std::chrono::steady_clock::now();
}

void Session::note_contact(SteadyTime sent_at) {
  contact_.answered(transport_.epoch(), sent_at, steady_now());
}

void Session::note_refusals(std::span<const Call> calls, std::span<const Reply> replies) {
  for (std::size_t i = 0; i < calls.size(); ++i) {
    if (!replies[i].is_error() || errc_of(replies[i]) != Errc::unavailable) continue;
    detail::MutexLock lock{mutex_};
    refused_at_[slot_of(calls[i].slot_key)] = steady_now();
  }
}

bool Session::in_contact_for(Duration length, std::string_view slot_key) {
  const SteadyTime now = steady_now();
  {
    detail::MutexLock lock{mutex_};
    if (const auto refused = refused_at_.find(slot_of(slot_key)); refused != refused_at_.end()) {
      if (now - refused->second < length) return false;
      refused_at_.erase(refused);
    }
  }
  return contact_.lasted(length, transport_.epoch(), now);
}

std::uint64_t Session::token_block() noexcept {
  return next_block_.fetch_add(1, std::memory_order_relaxed) & 0xffff'ffff'ffff;
}

void Session::note_longest_message(std::int64_t bytes) noexcept {
  if (bytes > 0) longest_message_ = std::max(bytes, longest_message_ / 2);
}

}  // namespace taskmux::redis
