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

/// Returns a number as an argument of a script.
std::string text(std::int64_t number);

/// Returns microseconds as an argument of a script, clamped to what a script can count exactly.
std::string micros(Duration duration);
std::string micros(Time instant);

/// Returns an instant that Redis stores in microseconds.
inline Time time_of(std::int64_t micros) noexcept { return Time{Duration{micros}}; }

/// Returns nullopt for the epoch, which stands for an unset instant.
inline std::optional<Time> if_set(Time time) noexcept {
  return time == Time{} ? std::nullopt : std::optional{time};
}

/// Returns the number that `bytes` spell; nullopt if they are anything else.
std::optional<std::int64_t> parse_number(std::optional<std::string_view> bytes) noexcept;

/// What all parts of the broker share: the transport, the names of keys, the time, the tokens.
/// Thread-safe.
class Session {
 public:
  explicit Session(RedisOptions options);

  /// Throws Error{forked} unless called in the process that made this.
  void check_process() const;
  bool in_own_process() const noexcept;

  Transport& transport() noexcept { return transport_; }
  const RedisOptions& options() const noexcept { return transport_.options(); }
  const Logger& log() const noexcept { return options().logger; }
  QueueHealth& queue_health() noexcept { return queue_health_; }
  bool cluster() const noexcept { return options().mode == RedisMode::cluster; }

  /// Returns the keys of a queue. Throws Error{invalid_argument} for a name that is not allowed in
  /// a cluster: one with braces, whose keys might lie on different nodes. A single server accepts
  /// any name.
  Keys keys(std::string_view queue) const;
  const GlobalKeys& global() const noexcept { return global_; }

  /// Makes a call of the script that takes `args`, a struct of lua_arguments.hpp, on `queue`; its
  /// arguments are the present time and `args`, and more may be appended.
  template <typename Args>
  Call call(std::string_view queue, Args args) const {
    return with_now(call_on(scripts().*Args::script, {keys(queue).pending()}), std::move(args));
  }
  /// The same for a script that names its keys.
  template <typename Args>
  Call call_on(typename Args::Keys keys, Args args) const {
    std::vector<std::string> list;
    std::move(keys).append_to(list);
    return with_now(call_on(scripts().*Args::script, std::move(list)), std::move(args));
  }
  /// Makes a call of `script` on `keys`, without arguments yet.
  static Call call_on(const Script& script, std::vector<std::string> keys);
  /// Makes a call of `script` on several queues, without arguments yet.
  Call call_on_queues(const Script& script, std::span<const std::string> queues) const;
  /// Makes a call of a plain command, such as `{"GET", key}`, for the server of `slot_key`.
  static Call command(std::string_view slot_key, std::initializer_list<std::string_view> args);

  /// Appends the present time in the form that scripts expect: two arguments, empty for Redis's own
  /// time.
  void add_now(std::vector<std::string>& args) const;
  /// As add_now(), for a call that must take nothing once its sender has given up (see
  /// ServerClock): which tasks to take, or whether a run is lost, is decided when the call is made.
  /// The call is about `queue` and, unless in a cluster, perhaps about others, too. Returns the
  /// time of its server, if known.
  std::optional<Time> add_now_or_never(std::vector<std::string>& args,
                                       std::string_view queue) const;
  /// Records that a call about `queue`, which was sent at `sent_at`, returned the time `now`.
  void note_time(std::string_view queue, Time now, SteadyTime sent_at);

  /// Asks the servers of `queues` for their time if it is not known yet, unless a clock was given.
  /// Throws Error as run() does; the time of a server that does not answer stays unknown.
  void learn_time(std::span<const std::string> queues);

  /// Returns the time at the server of `queue`, if it is known without asking.
  std::optional<Time> known_time(std::string_view queue) const;

  /// Returns the time of the broker's clock; asks Redis unless a clock was given.
  Time now();

  /// As Transport::run(), and records contact with the server.
  std::vector<Reply> run(std::span<const Call> calls);
  /// As Transport::run_one().
  Reply run_one(std::string_view operation, const Call& call);

  /// Returns whether contact with the same server has lasted for `length` (see ServerContact).
  /// During that time its clock must not have jumped against the steady clock. In a cluster, it
  /// must also not have refused a call for the slot of `slot_key` temporarily: leases in a slot
  /// that is being migrated can't be extended.
  bool in_contact_for(Duration length, std::string_view slot_key);

  /// Returns the steady time of the given clock, or of the machine's clock.
  SteadyTime steady_now() const;

  /// Returns the number of a call that takes runs: the upper 48 bits of their tokens. The numbers
  /// are never repeated and begin at random, so they are unique across processes.
  std::uint64_t token_block() noexcept;

  /// What is remembered about a call that took tasks and whose reply was lost, for when its tasks
  /// are given back.
  struct LostCall {
    Time sent_at = Time::max();  ///< By the server's clock, as estimated at that time.
    std::size_t carried = 0;     ///< Bytes, if the connection was too slow for its reply; else 0.
  };
  /// Remembers a lost call by the `token_block` of its runs; merges it with what is known about it.
  /// If there are too many, the first are forgotten.
  void remember(std::uint64_t token_block, const LostCall& lost);
  LostCall lost_call(std::uint64_t token_block);

  /// Returns the size of the longest message that was recently read for a take. If messages are
  /// large, the next take reads fewer of them at once.
  std::int64_t longest_message() const noexcept { return longest_message_; }
  /// Records the size of the longest message that a take has read; 0 if it read none.
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
  std::map<std::uint16_t, SteadyTime> refused_at_ TASKMUX_GUARDED_BY(mutex_);  // by slot
};

/// Returns the token of run number `index` of a call; see Session::token_block().
constexpr std::uint64_t make_token(std::uint64_t block, std::uint64_t index) noexcept {
  return block << 16 | index;
}
/// Returns the first 12 of the 16 hex digits of a block's tokens.
std::string hex_of_block(std::uint64_t block);
/// Returns all 16 hex digits of a token.
std::string hex_of_token(std::uint64_t token);

}  // namespace taskmux::redis
