#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "redis/session/session.hpp"
#include "redis/watch/tracking.hpp"
#include "taskmux/detail/base/mutex.hpp"

namespace taskmux::redis {

/// Listens for changes at one server, or at one node of a cluster. It has two connections and the
/// thread "tmx-listen", which ends when this is destroyed or asked to stop.
///
/// The listening connection subscribes to both cancellation channels (see GlobalKeys) and to
/// invalidation messages. The tracking connection reads: Redis remembers the keys that it reads,
/// and notifies the listener once when one of them changes. So look(), which reads the state of
/// queues through the tracking connection, both returns the state and requests the notification.
/// Both connections are dropped when calls go to another server (after a failover), or when one of
/// them fails, and are made again as long as this lives.
class NodeSubscriber {
 public:
  /// Receives the notifications of a subscriber, always on the subscriber's thread.
  class Owner {
   public:
    /// The subscriber listens now. Keys that were read before may have changed without a
    /// notification.
    virtual void connected(const NodeSubscriber& post) = 0;
    /// Keys that were read may have changed without a notification.
    virtual void missed(const NodeSubscriber& post) = 0;
    /// No notifications arrive until connected(). Called again after each failed attempt, with the
    /// reason, unless the connections were merely out of date.
    virtual void disconnected(const NodeSubscriber& post, const std::optional<Error>& reason) = 0;
    /// Keys that were read have changed; all of them if `keys` is not an array.
    virtual void changed(const NodeSubscriber& post, ReplyView keys) = 0;
    /// A run is cancelled. `queue` is empty if the cancellation names none.
    virtual void cancelled(const NodeSubscriber& post, std::string queue, std::string task_id) = 0;
    /// For periodic work: called when the time that it last returned has come, or sooner; later
    /// while the subscriber connects. Must not throw.
    virtual SteadyTime turn() = 0;

   protected:
    ~Owner() = default;
  };

  /// Listens at the server that Transport::node_of() names `node`. `session` and `owner` must
  /// outlive it.
  NodeSubscriber(Session& session, std::string node, Owner& owner);
  ~NodeSubscriber();
  NodeSubscriber(const NodeSubscriber&) = delete;
  NodeSubscriber& operator=(const NodeSubscriber&) = delete;

  const std::string& node() const noexcept { return node_; }

  /// Makes the thread end soon. May be called on any thread; does not wait.
  void stop();
  /// Returns whether the thread has finished, so that destroying this takes no time.
  bool ended() const noexcept { return ended_; }

  /// Runs `looks` such that the owner is notified once when a key that they read changes. Returns
  /// nullopt if that is not possible, at the moment or at all (see Tracking); then nothing was
  /// read. Throws Error if the server can't be reached. May be called on any thread.
  std::optional<std::vector<Reply>> look(std::span<const Call> looks);

 private:
  enum Channel : std::size_t { any_cancel, queue_cancel, invalidation };

  void run();
  void connect();
  void report_refused(std::size_t channel, std::string_view reason);
  void disconnect(const std::optional<Error>& reason);
  void read_notices();
  void keep_alive(Connection& listener);
  void handle(ReplyView notice);
  void handle_cancellation(std::string_view task_id);
  void handle_bound_cancellation(std::string_view message);
  void handle_invalidation(ReplyView keys);
  bool prepare_tracker(const std::shared_ptr<Connection>& listener);
  void note_look();
  void report_polling(std::string_view reason) const;
  std::string where() const;
  void lose_tracker(Connection& listener);
  void drop_closed_tracker(Connection& listener);

  Session& session_;
  const std::string node_;
  Owner& owner_;
  const std::array<std::string, 3> channels_;  // by Channel
  std::atomic<bool> stopping_{false};
  std::atomic<bool> ended_{false};
  std::atomic<bool> tracker_lost_{false};  // and the owner was not notified yet

  detail::Mutex mutex_;
  std::condition_variable stopped_;
  std::shared_ptr<Connection> listener_ TASKMUX_GUARDED_BY(mutex_);  // null: not connected
  std::shared_ptr<Connection> notified_ TASKMUX_GUARDED_BY(mutex_);  // null: no notifications
  Tracking tracking_ TASKMUX_GUARDED_BY(mutex_);

  // Used only by the thread:
  SteadyTime heard_at_{};
  SteadyTime checked_at_{};
  bool asked_ = false;  // a PING was sent
  std::optional<std::string> repeated_{};  // the last message's task, if asynq's message follows
  std::array<bool, 3> reported_{};         // channels whose refusal was logged

  std::mutex tracker_mutex_;  // guards what follows; held over a round trip
  std::unique_ptr<Connection> tracker_;
  std::weak_ptr<Connection> tracked_for_;  // the listener to which the tracker's notices go

  std::thread thread_;  // last: it uses the members above
};

}  // namespace taskmux::redis
