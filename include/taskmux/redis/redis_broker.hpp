#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/broker.hpp"
#include "taskmux/queue_view.hpp"
#include "taskmux/redis/redis_options.hpp"
#include "taskmux/registry.hpp"
#include "taskmux/version.hpp"

namespace taskmux {
inline namespace v0 {

namespace detail {

/// Part of the symbols that this header needs from the compiled library, so that linking fails with
/// a library of another version.
template <int major, int minor, int patch>
struct RedisLibrary {};
using ThisRedisLibrary =
    RedisLibrary<TASKMUX_VERSION_MAJOR, TASKMUX_VERSION_MINOR, TASKMUX_VERSION_PATCH>;

}  // namespace detail

/// A broker on Redis 6.2 or newer (standalone, Sentinel or Cluster) that uses the keys and messages
/// of Go's asynq: Go clients, servers and inspectors may share its queues. In addition to the
/// contract of Broker, QueueView and Registry:
///
/// *Time* is the time of the Redis server unless `RedisOptions::clock` is set. Leases end at whole
/// seconds, rounded up; `last_failed_at`, `completed_at` and `archived_at` are whole seconds,
/// rounded down. An instant after the year 2254 is treated as the end of 2254.
///
/// *Bounds*: one exchange takes at most 2000 tasks and 4 MiB of messages (but always at least one
/// task), and reports `more`. act_all() is atomic for 1000 tasks at a time. On a slow connection,
/// an exchange takes and settles less, so that it needs only a fraction of
/// RedisOptions::command_timeout. A settlement that can't be transferred within the longest time of
/// a call (see there) is `too_large`: a server then settles the run without its result, and
/// archives the task with that reason if its handler had succeeded. enqueue() sends a batch in
/// parts, each with its own deadline; once a part fails, the remaining items for its queues are
/// `unavailable`, with "not sent" in their detail.
///
/// *Malformed messages*: a message that can't be decoded, or that names another task or queue than
/// its key, is archived under its id as a task of type `taskmux:malformed` when a worker finds it.
///
/// *Watches*: all watches together use two connections and a thread; in a cluster, the same for
/// each node that serves a watched queue. A watch is polled about once a second if Redis refuses to
/// send invalidation messages, or if its table of tracked keys is too small for the six keys of
/// each watched queue (`tracking-table-max-keys`, a million by default). Watches on tasks, such as
/// those of an Inspector that waits for results, share these connections and use one key per task.
///
/// *Look-ups* of host names run on separate threads, since the system's resolver has no timeout:
/// one thread per host, at most eight. A look-up that hangs may outlive its call and the broker; it
/// uses neither, and ends when the resolver answers.
///
/// *Queue names*: on a Cluster, calls about a queue whose name contains braces throw
/// Error{invalid_argument}, and an enqueue to it is refused with that error: braces in a key decide
/// which node stores it, and an empty pair would distribute the keys of one queue over many nodes.
/// A single server accepts any queue name.
///
/// *Memory limit*: a Redis server that has reached its maxmemory, with the policy noeviction,
/// refuses only enqueue(), with queue_full.
///
/// Connects on first use. Thread-safe.
class TASKMUX_API RedisBroker final : public Broker, public QueueView, public Registry {
 public:
  /// Throws std::invalid_argument for invalid options.
  explicit RedisBroker(RedisOptions options = {}, detail::ThisRedisLibrary library = {});
  /// Takes a URL; see parse_redis_url().
  explicit RedisBroker(std::string_view url, detail::ThisRedisLibrary library = {});
  explicit RedisBroker(const char* url, detail::ThisRedisLibrary library = {})
      : RedisBroker{std::string_view{url}, library} {}
  ~RedisBroker() override;

  std::vector<EnqueueReply> enqueue(std::vector<EnqueueRequest> batch) override;
  ExchangeReply exchange(const ExchangeRequest& request) override;
  std::vector<ExtendReply> extend(std::span<const ExtendRequest> runs, Duration lease) override;
  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback) override;
  UpkeepReply upkeep(const UpkeepRequest& request) override;
  void ping() override;
  /// Tries every command that is needed to serve a queue, on a separate key,
  /// asynq:{queue}:tmx:rights, which is deleted afterwards. The README lists the necessary rights.
  OpenReply open(std::span<const std::string> queues) override;
  void limit_calls_of_this_thread(const CallLimit* limit) noexcept override;
  /// Returns 5 s, or three times RedisOptions::command_timeout if that is longer: an outage that is
  /// too short to fail a call must not outlast a lease.
  Duration shortest_lease() const override;
  std::string why_shortest_lease() const override;
  std::string describe() const override;
  Logger logger() const override;
  Registry& registry() override { return *this; }
  QueueView& queue_view() override { return *this; }

  Time now() override;
  std::vector<std::string> queues() override;
  std::vector<QueueInfoReply> queue_infos(std::span<const std::string> queues) override;
  std::vector<DailyStats> history(std::string_view queue, int days) override;
  std::vector<GroupInfo> groups(std::string_view queue) override;
  TaskPage list(const ListRequest& request) override;
  std::optional<TaskInfo> find(std::string_view queue, std::string_view id) override;
  std::vector<TaskStatus> states(std::string_view queue, std::span<const std::string> ids) override;
  std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue, std::vector<std::string> ids,
                                         std::function<void()> callback) override;
  std::vector<ActReply> act(const ActRequest& request) override;
  std::size_t act_all(std::string_view queue, TaskAction action, TaskState state,
                      std::size_t limit) override;
  std::vector<TrimReply> trim_archives(std::span<const std::string> queues,
                                       const TrimRequest& request) override;
  void update_payload(std::string_view queue, std::string_view id, std::string payload) override;
  void pause(std::string_view queue) override;
  void unpause(std::string_view queue) override;
  void cancel(std::string_view queue, std::string_view id, CancelMode mode) override;
  void delete_queue(std::string_view queue, bool force) override;

  void announce(const ServerInfo& server, Duration lifetime) override;
  void retire(const ServerInfo& server) override;
  std::vector<ServerInfo> servers() override;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace v0
}  // namespace taskmux
