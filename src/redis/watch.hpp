#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "redis/store.hpp"
#include "taskmux/broker.hpp"
#include "taskmux/detail/mutex.hpp"

namespace taskmux::redis {

/// All watches of a broker: two connections and one thread ("tmx-listen"), however many watches and
/// queues there are, from the first watch on.
///
/// One connection listens: it is subscribed to asynq:cancel and to the notices of invalidation. The
/// other tracks: what it reads, Redis remembers, and tells the listener once when it changes. So
/// arm(), which reads how the queues stand through that one, both learns the state and asks for the
/// notice. Each time the listener is connected anew, it gives a hint to all, since notices may have
/// been lost. Both are given up when calls go to another server (a failover), or one of them does.
///
/// Where tracking is refused, and in a cluster (whose nodes each tell of their own keys alone), an
/// armed watch gets a hint at random every 0.5 to 1.5 s, as asynq polls; else every 5 s, in case a
/// notice is lost.
class Listener {
 public:
  explicit Listener(Store& store);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  /// See Broker::watch(). Throws Error{unavailable} if the server can't be reached.
  std::unique_ptr<Watch> watch(std::vector<std::string> queues,
                               std::function<void(const Hint&)> callback);

 private:
  /// One watch. Its callback runs under its mutex, so that its end can wait for that.
  struct Watcher {
    Watcher(std::vector<std::string> watched, std::function<void(const Hint&)> to_call)
        : queues{std::move(watched)}, callback{std::move(to_call)} {}

    const std::vector<std::string> queues;
    std::vector<std::string> stems{};  // of the queues' keys
    const std::function<void(const Hint&)> callback;
    std::atomic<bool> armed{false};
    std::atomic<SteadyTime> poll_at{SteadyTime{}};
    detail::Mutex mutex{};
    bool ended TASKMUX_GUARDED_BY(mutex) = false;
  };
  class Handle;
  using Watchers = std::vector<std::shared_ptr<Watcher>>;

  Watch::State arm(Watcher& watcher);
  std::vector<Call> looks_at(std::span<const std::string> all) const;
  Watch::State state_of(std::span<const Reply> replies) const;
  std::optional<std::vector<Reply>> look_tracked(std::span<const Call> calls);
  bool prepare_tracker(const std::shared_ptr<Connection>& listener);
  void drop_closed_tracker();
  void end(const std::shared_ptr<Watcher>& watcher);

  void start();
  void listen();
  void connect();
  void disconnect();
  void read_notices();
  void keep_alive(Connection& connection);
  void handle(ReplyView notice);
  void give(Watcher& watcher, const Hint& hint) const;
  void give_ready(const std::function<bool(const Watcher&)>& concerned) const;
  void give_due_polls() const;
  Watchers watchers() const;

  Store& store_;
  const std::string cancel_channel_;
  std::atomic<bool> stopping_{false};

  mutable detail::Mutex mutex_;
  std::condition_variable changed_;
  Watchers watchers_ TASKMUX_GUARDED_BY(mutex_);
  std::shared_ptr<Connection> notified_ TASKMUX_GUARDED_BY(mutex_);   // null = no notices come
  std::shared_ptr<Connection> listening_ TASKMUX_GUARDED_BY(mutex_);  // null = not connected
  std::optional<Error> failure_ TASKMUX_GUARDED_BY(mutex_);  // of the last attempt to connect

  // Of the thread alone:
  SteadyTime heard_at_{};
  SteadyTime checked_at_{};
  bool asked_ = false;  // a PING is out

  std::mutex tracker_mutex_;  // guards what follows; held over a round trip
  std::unique_ptr<Connection> tracker_;
  std::weak_ptr<Connection> tracked_for_;  // the listener to which the tracker's notices go
  std::weak_ptr<Connection> refused_for_;  // the listener for which tracking was refused

  std::thread thread_;  // last: it uses the members above
};

}  // namespace taskmux::redis
