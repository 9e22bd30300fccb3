#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "redis/asynq/cancellations.hpp"
#include "redis/session/session.hpp"
#include "redis/watch/node_subscriber.hpp"
#include "taskmux/broker.hpp"
#include "taskmux/detail/base/mutex.hpp"
#include "taskmux/queue_view.hpp"

namespace taskmux::redis {

/// All watches of a broker. They share one NodeSubscriber at each server that has a watched queue,
/// from the first watch on: at one server, or, in a cluster, where each node reports only its own
/// keys, at each node that has such a queue.
///
/// An armed watch gets a hint when a key of its queues changes, and when that may have happened
/// unnoticed: a subscriber has connected again, or a queue has moved to another node, where a
/// subscriber is then added. In case a notification is lost, upkeep checks some of the queues in
/// turn, and check() gives a hint if one is not in the recorded state; without upkeep, a watch gets a
/// hint at random every 2.5 to 7.5 s. While one of its queues is on a server that sends no
/// notifications, because tracking is refused or the server is unavailable, it gets one every 0.5 to
/// 1.5 s, as asynq polls (later if it takes time to find out that the only server does not answer).
/// Notifications from other servers are not delayed by this.
class WatchHub final : private NodeSubscriber::Owner {
 public:
  explicit WatchHub(Session& session);
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  /// Implements Broker::watch(). Throws Error{unavailable} if none of the queues' servers can be
  /// reached, and std::system_error if no thread can be started.
  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback);

  /// Returns for each queue the number of the last look at it, if a watch has looked and Redis has
  /// reported no change since; else 0. As long as this number stays the same, nothing has become
  /// pending, due or active in the queue. Upkeep uses it, and hands what it learns to check().
  std::vector<std::uint64_t> looks(std::span<const std::string> queues);

  /// The caller got `look` from looks(), has then asked Redis about `queue`, and reports whether a
  /// task is `ready` in it, and when the next is `due`. If that differs from what the look found, the
  /// watch gets a hint: a notice was lost, or is on its way.
  void check(const std::string& queue, std::uint64_t look, bool ready, std::optional<Time> due);

  /// See QueueView::watch_tasks(). Throws as watch() does. The key of each task is read by the
  /// tracking connection, so one connection serves the tasks of all watches.
  std::unique_ptr<TaskWatch> watch_tasks(std::string_view queue, std::vector<std::string> ids,
                                         std::function<void()> callback);

 private:
  struct Watcher;
  class Handle;
  class TaskHandle;
  using WatcherPtr = std::shared_ptr<Watcher>;
  using Watchers = std::vector<WatcherPtr>;
  using Nodes = std::vector<std::string>;

  /// A subscriber and its state.
  struct Station {
    std::shared_ptr<NodeSubscriber> post{};
    bool connected = false;
    std::optional<Error> failure{};  // the last failed attempt to connect
  };
  /// Queues of a watch, by their index in it.
  using Numbers = std::vector<std::size_t>;

  /// The queues of a watch at one node, and the subscriber there, if any.
  struct Look {
    std::shared_ptr<NodeSubscriber> post{};
    Numbers queues{};
  };
  /// One call of the script `look`, and the queues that it is about, at most `most`.
  struct Question {
    Call call{};
    Numbers queues{};
  };
  struct Answer {
    Reply reply;
    Numbers queues{};
    bool tracked = false;  ///< Whether the node will notify us when the queues change.
  };

  Watch::State arm(const WatcherPtr& watcher, bool all);
  std::vector<Answer> look(const WatcherPtr& watcher, std::span<const std::size_t> queues);
  std::vector<Look> looks_at(const WatcherPtr& watcher, std::span<const std::size_t> queues) const;
  std::vector<Question> questions_about(const Watcher& watcher, std::span<const std::size_t> queues,
                                        std::size_t most) const;
  Watch::State state_of(Watcher& watcher, std::span<const Answer> answers) const;
  void begin(const WatcherPtr& watcher, Nodes nodes);
  void end(const WatcherPtr& watcher);
  TaskWatch::State arm_tasks(const WatcherPtr& watcher);
  std::vector<Reply> look_at_tasks(const WatcherPtr& watcher);

  Nodes find_nodes(const Watcher& watcher);
  void open_posts(const Nodes& nodes) TASKMUX_REQUIRES(mutex_);
  void await_post(const WatcherPtr& watcher);
  void follow_queues();
  void close_posts();
  Station* station_of(const NodeSubscriber& post) TASKMUX_REQUIRES(mutex_);

  void connected(const NodeSubscriber& post) override;
  void missed(const NodeSubscriber& post) override;
  void disconnected(const NodeSubscriber& post, const std::optional<Error>& reason) override;
  void changed(const NodeSubscriber& post, ReplyView keys) override;
  void cancelled(const NodeSubscriber& post, std::string queue, std::string task_id) override;
  SteadyTime turn() override;

  bool is_new(const NodeSubscriber& post, const std::string& task);
  void give(Watcher& watcher, const Hint& hint) const;
  void give_ready(const Watchers& all) const;
  void forget_and_give(const Watchers& all) const;
  void give_due_polls() const;
  Watchers watchers() const;
  Watchers watchers_at(const std::string& node) const;

  Session& session_;

  mutable detail::Mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ TASKMUX_GUARDED_BY(mutex_) = false;
  std::map<WatcherPtr, Nodes> watchers_ TASKMUX_GUARDED_BY(mutex_);  // "": node not known
  Cancellations cancellations_ TASKMUX_GUARDED_BY(mutex_);
  SteadyTime follow_at_ TASKMUX_GUARDED_BY(mutex_){};
  mutable std::atomic<std::uint64_t> look_{0};  // the last

  // Last: their threads use the members above.
  std::map<std::string, Station> stations_ TASKMUX_GUARDED_BY(mutex_);     // by node
  std::vector<std::shared_ptr<NodeSubscriber>> closing_ TASKMUX_GUARDED_BY(mutex_);  // not ended yet
};

}  // namespace taskmux::redis
