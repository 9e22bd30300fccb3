#pragma once

#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redis/asynq/keys.hpp"
#include "redis/net/reply.hpp"
#include "redis/route/transport.hpp"
#include "redis/scripts/scripts.hpp"
#include "redis/session/queue_health.hpp"
#include "redis/session/server_clock.hpp"
#include "redis/session/server_contact.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/redis/redis_options.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// A number as a script's argument.
std::string text(std::int64_t number);

/// Microseconds as a script's argument, within what a script can count exactly.
std::string micros(Duration duration);
std::string micros(Time instant);

/// An instant that Redis holds in microseconds.
inline Time time_of(std::int64_t micros) noexcept { return Time{Duration{micros}}; }

/// Nullopt for an instant that stands for none.
inline std::optional<Time> if_set(Time time) noexcept {
  return time == Time{} ? std::nullopt : std::optional{time};
}

/// The number that `bytes` spell, if they are one and nothing else.
std::optional<std::int64_t> parse_number(std::optional<std::string_view> bytes) noexcept;

/// What the parts of the broker share: the way to Redis, the names of keys, the time, the tokens.
/// Thread-safe.
class Session {
 public:
  explicit Session(RedisOptions options);

  /// Throws Error{forked} unless in the process that made this.
  void check_process() const;
  bool in_own_process() const noexcept;

  Transport& transport() noexcept { return transport_; }
  const RedisOptions& options() const noexcept { return transport_.options(); }
  const Logger& log() const noexcept { return options().logger; }
  QueueHealth& queue_health() noexcept { return queue_health_; }
  bool cluster() const noexcept { return options().mode == RedisMode::cluster; }

  /// Throws Error{invalid_argument} for a name that no queue of a cluster may have: with braces, so
  /// that its keys might not lie together. A single server keeps queues of any name.
  Keys keys(std::string_view queue) const;
  const GlobalKeys& global() const noexcept { return global_; }

  /// A run of the script that takes `args`, a struct of lua_arguments.hpp, on `queue`; its arguments so
  /// far are now and `args`.
  template <typename Args>
  Call call(std::string_view queue, Args args) const {
    return with_now(call_on(scripts().*Args::script, {keys(queue).pending()}), std::move(args));
  }
  /// The same on the keys that the script names.
  template <typename Args>
  Call call_on(typename Args::Keys keys, Args args) const {
    std::vector<std::string> list;
    std::move(keys).append_to(list);
    return with_now(call_on(scripts().*Args::script, std::move(list)), std::move(args));
  }
  /// A run of `script` on `keys`, without arguments so far.
  static Call call_on(const Script& script, std::vector<std::string> keys);
  /// A run of `script` on several queues, without arguments so far.
  Call call_on_queues(const Script& script, std::span<const std::string> queues) const;
  /// A plain command, `{"GET", key}`, for the server of `slot_key`.
  static Call command(std::string_view slot_key, std::initializer_list<std::string_view> args);

  /// Appends now as scripts take it: two arguments, empty for Redis's own time.
  void add_now(std::vector<std::string>& args) const;
  /// As add_now(), for a call that must not do its work once it has been given up (see ServerClock):
  /// which tasks to take is decided now, as is whether a run may be lost. It is about `queue`, and,
  /// unless in a cluster, perhaps about others as well.
  /// Returns the time of its server, as far as that is known.
  std::optional<Time> add_now_or_never(std::vector<std::string>& args,
                                       std::string_view queue) const;
  /// A call about `queue` that was sent at `sent_at` said that it was `now`.
  void note_time(std::string_view queue, Time now, SteadyTime sent_at);

  /// Asks the servers of `queues` what time it is where that is not known yet. Unless a clock was
  /// given. Throws Error as run() does; a server that does not answer stays unknown.
  void learn_time(std::span<const std::string> queues);

  /// What time it is at the server of `queue`, as far as that is known without asking.
  std::optional<Time> known_time(std::string_view queue) const;

  /// The broker's clock; asks Redis unless a clock was given.
  Time now();

  /// As Transport::run(), and notes when contact with the server was made.
  std::vector<Reply> run(std::span<const Call> calls);
  /// As Transport::run_one().
  Reply run_one(std::string_view operation, const Call& call);

  /// Whether contact with the same server has lasted for `length` (see ServerContact). During that
  /// time its clock must not have jumped against the steady clock and, in a cluster, it must not
  /// have refused a call for the slot of `slot_key` as one that it may accept later: leases in a
  /// slot that is being moved can't be extended.
  bool in_contact_for(Duration length, std::string_view slot_key);

  /// By the clock that was given, or the machine's.
  SteadyTime steady_now() const;

  /// Numbers a call that hands out runs: the upper 48 bits of their tokens. Never the same twice,
  /// and begins at random, so that not in another process either.
  std::uint64_t token_block() noexcept;

  /// What is remembered of a call to take whose reply was lost, for when its tasks are given back.
  struct LostCall {
    Time sent_at = Time::max();  ///< By the server's clock, as that was thought to go then.
    std::size_t carried = 0;     ///< Bytes, if the line was too slow for its reply; else 0.
  };
  /// Of the call whose runs `token_block` names; merged with what is known of it. Of many such calls the
  /// first are forgotten.
  void remember(std::uint64_t token_block, const LostCall& lost);
  LostCall lost_call(std::uint64_t token_block);

  /// Bytes of the longest message that was recently read to be taken. Where messages are large, the
  /// next call to take reads few of them at once.
  std::int64_t longest_message() const noexcept { return longest_message_; }
  /// Of a call; 0 if it read none.
  void note_longest_message(std::int64_t bytes) noexcept;

 private:
  template <typename Args>
  Call with_now(Call call, Args args) const {
    add_now(call.args);
    std::move(args).append_to(call.args);
    return call;
  }
  void note_contact(SteadyTime sent_at);
  void note_refusals(std::span<const Call> calls, std::span<const Reply> replies);

  const int process_;
  GlobalKeys global_;
  Transport transport_;
  QueueHealth queue_health_;
  ServerClock server_clock_;
  ServerContact contact_;
  std::atomic<std::uint64_t> next_block_;
  std::atomic<std::int64_t> longest_message_{0};
  detail::Mutex mutex_;
  std::map<std::uint64_t, LostCall> lost_calls_ TASKMUX_GUARDED_BY(mutex_);
  std::map<std::uint16_t, SteadyTime> refused_at_ TASKMUX_GUARDED_BY(mutex_);  // by slot, the last
};

/// The token of run number `index` of a call, see Session::token_block().
constexpr std::uint64_t make_token(std::uint64_t block, std::uint64_t index) noexcept {
  return block << 16 | index;
}
/// The first 12 of the 16 hex digits of a block's tokens.
std::string hex_of_block(std::uint64_t block);
/// All 16 digits.
std::string hex_of_token(std::uint64_t token);

}  // namespace taskmux::redis
