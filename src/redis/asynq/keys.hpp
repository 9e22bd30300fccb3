#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "redis/asynq/md5.hpp"
#include "taskmux/task.hpp"

// The names of all keys and fields in Redis, asynq's and our own. The comments state the units. A
// score of asynq's is always a whole number of Unix seconds, since its readers fail on fractions.
namespace taskmux::redis {

inline constexpr std::string_view default_prefix = "asynq";

/// How long the counters of a day are kept: EXPIREAT of now + this, set when the day's INCR gave 1.
inline constexpr std::chrono::seconds day_counter_lifetime = std::chrono::hours{24 * 90};

/// The fields of a task's hash, `Keys::task()`.
namespace field {
// Fields of asynq:
inline constexpr std::string_view msg = "msg";      ///< TaskMessage, see wire.hpp
inline constexpr std::string_view state = "state";  ///< to_string(TaskState); names the container
inline constexpr std::string_view pending_since = "pending_since";  ///< Unix ns; gone when taken
inline constexpr std::string_view unique_key = "unique_key";        ///< full name of the lock's key
inline constexpr std::string_view group = "group";                  ///< group name
inline constexpr std::string_view result = "result";                ///< any bytes
// Private fields. Go programs ignore and preserve them. Readers match from the front and ignore
// further words, and scripts that rewrite a field preserve those words, so that a later version can
// add some:
inline constexpr std::string_view run =
    "tmx_run";  ///< the fence: "<token> <lease score, Unix s> <taken, Unix µs>[ <mark>]"
inline constexpr std::string_view facts = "tmx_facts";    ///< see Facts in runs.hpp
inline constexpr std::string_view cancel = "tmx_cancel";  ///< requested CancelMode, by name
inline constexpr std::string_view wish =
    "tmx_wish";  ///< tmx_cancel of a run that was given back before it began. The next take by
                 ///< taskmux restores tmx_cancel; after a take by Go, a later settlement removes it.
inline constexpr std::string_view slow =
    "tmx_slow";  ///< lost takes of only this task, whose message is too long for the connection
inline constexpr std::string_view raw = "tmx_raw";  ///< the original bytes of a malformed message
}  // namespace field

/// The keys that belong to no queue. In a cluster each of them lies in a different slot, so no
/// script may use one of them together with a queue's keys.
class GlobalKeys {
 public:
  explicit GlobalKeys(std::string prefix = std::string{default_prefix})
      : prefix_{std::move(prefix) + ":"} {}

  /// SET of queue names.
  std::string queues() const { return prefix_ + "queues"; }

  /// ZSET of names of server() keys; score: expiry, Unix s. Each reader of the list removes the
  /// expired ones.
  std::string servers() const { return prefix_ + "servers"; }

  /// STRING, a ServerInfo message; expires with its entry in servers().
  std::string server(std::string_view host, int pid, std::string_view server_id) const {
    return prefix_ + "servers:" + instance(host, pid, server_id);
  }

  /// ZSET of names of worker() keys; score: expiry, Unix s.
  std::string workers() const { return prefix_ + "workers"; }

  /// HASH from task id to WorkerInfo message: what one server is running; expires as server().
  std::string worker(std::string_view host, int pid, std::string_view server_id) const {
    return prefix_ + "workers:" + instance(host, pid, server_id);
  }

  /// ZSET of names of scheduler() keys; score: expiry, Unix s.
  std::string schedulers() const { return prefix_ + "schedulers"; }

  /// LIST of SchedulerEntry messages of one scheduler.
  std::string scheduler(std::string_view host, int pid, std::string_view scheduler_id) const {
    return prefix_ + "schedulers:" + instance(host, pid, scheduler_id);
  }

  /// ZSET of SchedulerEnqueueEvent messages; score: time of enqueue, Unix s.
  std::string scheduler_history(std::string_view entry_id) const {
    return prefix_ + "scheduler_history:" + std::string{entry_id};
  }

  /// Pub/sub channel; each message is a task id. All databases of a server share it.
  std::string cancel() const { return prefix_ + "cancel"; }

  /// Private. Pub/sub channel; see BoundCancellation.
  std::string bound_cancel() const { return prefix_ + "tmx:cancel"; }

  /// ZSET of asynq's x/rate semaphore: task ids; score: the task's deadline, Unix s.
  std::string semaphore(std::string_view scope) const {
    return prefix_ + "sema:" + std::string{scope};
  }

 private:
  static std::string instance(std::string_view host, int pid, std::string_view id) {
    std::string text{"{"};
    text.append(host).append(":").append(std::to_string(pid)).append(":").append(id).append("}");
    return text;
  }

  std::string prefix_;  // with the colon
};

/// The keys of one queue. All of them have the hash tag `{queue}`, so in a cluster one script may
/// use all of them. (Braces in a queue name could distribute them: see Session::keys().) Only the
/// locks, the daily counters, ids() and due() have a TTL. A plain value.
class Keys {
 public:
  explicit Keys(std::string_view queue, std::string_view prefix = default_prefix) {
    stem_.append(prefix).append(":{").append(queue).append("}:");
  }

  /// The prefix of all names: "asynq:{queue}:".
  const std::string& stem() const noexcept { return stem_; }

  /// LIST of ids: enqueued at the head, taken from the tail; RPUSH puts a task at the front of the
  /// queue.
  std::string pending() const { return stem_ + "pending"; }
  /// LIST of ids, the most recently taken at the head.
  std::string active() const { return stem_ + "active"; }
  /// ZSET of ids; score: end of the lease, Unix s.
  std::string lease() const { return stem_ + "lease"; }
  /// ZSET of ids; score: not before, Unix s (ours rounded up, Go's rounded down).
  std::string scheduled() const { return stem_ + "scheduled"; }
  /// ZSET of ids; score: not before, Unix s (as scheduled()).
  std::string retry() const { return stem_ + "retry"; }
  /// ZSET of ids; score: when it was archived, Unix s, rounded down.
  std::string archived() const { return stem_ + "archived"; }
  /// ZSET of ids; score: end of the retention, Unix s, rounded up.
  std::string completed() const { return stem_ + "completed"; }

  /// The key that holds the ids of a state: one of the above. There is no such key for
  /// `aggregating`, whose tasks lie in group(); the returned name is then the one that asynq's own
  /// scripts build, and never exists.
  std::string container(TaskState state) const { return stem_ + std::string{to_string(state)}; }

  /// HASH, see `field`.
  std::string task(std::string_view id) const { return task_prefix() + std::string{id}; }
  /// The prefix of task(), for scripts that append an id.
  std::string task_prefix() const { return stem_ + "t:"; }

  /// STRING, the id of the holder; TTL in seconds. An unset `payload` means "none", which is a
  /// different lock than that of an empty payload.
  std::string unique(std::string_view type, std::optional<std::string_view> payload) const {
    std::string key = stem_ + "unique:";
    key.append(type).append(":");
    if (payload) key.append(md5_hex(*payload));
    return key;
  }

  /// STRING, Unix s of the pause; the queue is paused if and only if the key exists.
  std::string paused() const { return stem_ + "paused"; }

  /// STRING, counter of all attempts that ended, including failed ones.
  std::string processed() const { return stem_ + "processed"; }
  /// STRING, counter of the failed attempts.
  std::string failed() const { return stem_ + "failed"; }
  /// STRING, as processed(), of the UTC day of `at`; kept for day_counter_lifetime.
  std::string processed_on(Time at) const { return stem_ + "processed:" + day(at); }
  /// STRING, as failed(), of the UTC day of `at`; kept for day_counter_lifetime.
  std::string failed_on(Time at) const { return stem_ + "failed:" + day(at); }

  /// SET of group names.
  std::string groups() const { return stem_ + "groups"; }
  /// ZSET of ids; score: when it was added, Unix s.
  std::string group(std::string_view name) const { return group_prefix() + std::string{name}; }
  /// The prefix of group(), for scripts that append a name.
  std::string group_prefix() const { return stem_ + "g:"; }
  /// ZSET of ids, as group(): the tasks that are being aggregated. A set id contains no colon.
  std::string aggregation_set(std::string_view name, std::string_view set_id) const {
    return group(name) + ":" + std::string{set_id};
  }
  /// ZSET of full names of aggregation_set() keys; score: expiry of the set, Unix s.
  std::string aggregation_sets() const { return stem_ + "aggregation_sets"; }

  /// Private. ZSET of ids of scheduled and retry; score: due time, Unix µs. It refines the last
  /// second only: an entry is valid if and only if, rounded up to a second, it equals the public
  /// score. Its TTL of a day is renewed by upkeep.
  std::string due() const { return stem_ + "tmx:due"; }

  /// Private. STRING that exists while a script tries the rights of its user.
  std::string rights() const { return stem_ + "tmx:rights"; }

  /// Private. Never written. It is watched like the other keys, so that a notification about it
  /// shows that Redis evicts tracked keys.
  std::string canary() const { return stem_ + std::string{canary_name}; }
  static constexpr std::string_view canary_name = "tmx:canary";

  /// Private. ZSET of the ids that are remembered for EnqueueRequest::idempotent_for; score: until
  /// when, Unix µs. Expires with the last of them.
  std::string ids() const { return stem_ + "tmx:ids"; }

 private:
  // The UTC date as YYYY-MM-DD.
  static std::string day(Time at) {
    const std::chrono::year_month_day date{std::chrono::floor<std::chrono::days>(at)};
    std::string text = std::to_string(static_cast<int>(date.year()));
    text.insert(0, text.size() < 4 ? 4 - text.size() : 0, '0');
    for (const unsigned part : {unsigned{date.month()}, unsigned{date.day()}})
      text.append(part < 10 ? "-0" : "-").append(std::to_string(part));
    return text;
  }

  std::string stem_;
};

}  // namespace taskmux::redis
