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

/// A listening post at one server (at one node of a cluster): two connections and the thread
/// "tmx-listen", which ends when this is destroyed or told to stop.
///
/// One connection listens: it is subscribed to both channels of cancellations (see GlobalKeys) and to
/// the notices of invalidation. The
/// other tracks: what it reads, Redis remembers, and tells the listener once when it changes. So
/// look(), which reads how queues stand through that one, both learns the state and asks for the
/// notice. Both are given up when calls go to another server (a failover), or one of them does, and
/// are made anew for as long as this lives.
class NodeSubscriber {
 public:
  /// Whom a post tells what it hears, always on the post's thread.
  class Owner {
   public:
    /// It listens now. What was looked at before may have changed without a notice.
    virtual void connected(const NodeSubscriber& post) = 0;
    /// What was looked at may have changed without a notice.
    virtual void missed(const NodeSubscriber& post) = 0;
    /// No notice comes until connected(). Again after each attempt; with the reason, unless the
    /// connections were merely out of date.
    virtual void disconnected(const NodeSubscriber& post, const std::optional<Error>& reason) = 0;
    /// Keys that were looked at have changed; all of them if `keys` is no array.
    virtual void changed(const NodeSubscriber& post, ReplyView keys) = 0;
    /// `queue` is empty for a cancellation that names none.
    virtual void cancelled(const NodeSubscriber& post, std::string queue, std::string task_id) = 0;
    /// For what is to be done from time to time: called when the time that it returned last has
    /// come, or sooner; later while the post connects. Must not throw.
    virtual SteadyTime turn() = 0;

   protected:
    ~Owner() = default;
  };

  /// At the server that Transport::node_of() names `node`. `session` and `owner` must outlive it.
  NodeSubscriber(Session& session, std::string node, Owner& owner);
  ~NodeSubscriber();
  NodeSubscriber(const NodeSubscriber&) = delete;
  NodeSubscriber& operator=(const NodeSubscriber&) = delete;

  const std::string& node() const noexcept { return node_; }

  /// Lets the thread end soon. Any thread; does not wait.
  void stop();
  /// Whether the thread has nothing more to do: to destroy it takes no time.
  bool ended() const noexcept { return ended_; }

  /// Runs `looks` so that the owner is told once when a key of theirs changes. Nullopt where that is
  /// not possible, at the moment or at all (see Tracking); nothing has been read then. Throws Error when the server
  /// can't be reached. Any thread.
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
  std::atomic<bool> tracker_lost_{false};  // and the owner has not been told

  detail::Mutex mutex_;
  std::condition_variable stopped_;
  std::shared_ptr<Connection> listener_ TASKMUX_GUARDED_BY(mutex_);  // null = not connected
  std::shared_ptr<Connection> notified_ TASKMUX_GUARDED_BY(mutex_);  // null = no notices come
  Tracking tracking_ TASKMUX_GUARDED_BY(mutex_);

  // Of the thread alone:
  SteadyTime heard_at_{};
  SteadyTime checked_at_{};
  bool asked_ = false;  // a PING is out
  std::optional<std::string> repeated_{};  // the task of the last message, if asynq's follows
  std::array<bool, 3> reported_{};         // channels whose refusal was logged

  std::mutex tracker_mutex_;  // guards what follows; held over a round trip
  std::unique_ptr<Connection> tracker_;
  std::weak_ptr<Connection> tracked_for_;  // the listener to which the tracker's notices go

  std::thread thread_;  // last: it uses the members above
};

}  // namespace taskmux::redis
