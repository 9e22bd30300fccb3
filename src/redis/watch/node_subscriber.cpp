#include "redis/watch/node_subscriber.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <string_view>
#include <utility>

#include "redis/asynq/cancellations.hpp"
#include "redis/scripts/scripts.hpp"
#include "taskmux/detail/base/thread.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr std::string_view invalidation_channel = "__redis__:invalidate";

SteadyTime steady_now() { return std::chrono::steady_clock::now(); }

// Runs `looks`; sends their script along if the server lacks it.
std::vector<Reply> run_looks(Connection& connection, std::span<const Call> looks,
                             SteadyTime deadline) {
  Commands commands;
  for (const Call& look : looks) encode(look, commands);
  std::vector<Reply> replies = connection.pipeline(commands, deadline);
  const bool missing = std::any_of(replies.begin(), replies.end(), [](const Reply& reply) {
    return reply.error_code() == "NOSCRIPT";
  });
  if (!missing) return replies;
  commands.clear();
  for (const Call& look : looks) encode_with_source(look, commands);
  return connection.pipeline(commands, deadline);
}

bool is_canary(ReplyView key) {
  return key.is_string() && key.as_string().ends_with(Keys::canary_name);
}

Error error_from(const std::exception& fault) {
  const auto* error = dynamic_cast<const Error*>(&fault);
  return error ? *error : Error{Errc::unavailable, fault.what()};
}

}  // namespace

NodeSubscriber::NodeSubscriber(Session& session, std::string node, Owner& owner)
    : session_{session},
      node_{std::move(node)},
      owner_{owner},
      channels_{session.global().cancel(), session.global().bound_cancel(),
                std::string{invalidation_channel}},
      thread_{detail::start_thread("tmx-listen", detail::all_signals(), {}, [this] { run(); })} {}

NodeSubscriber::~NodeSubscriber() {
  stop();
  thread_.join();
}

void NodeSubscriber::stop() {
  {
    detail::MutexLock lock{mutex_};
    stopping_ = true;
    if (listener_) listener_->wake();
  }
  stopped_.notify_all();
}

std::optional<std::vector<Reply>> NodeSubscriber::look(std::span<const Call> looks) {
  std::lock_guard tracking{tracker_mutex_};
  std::shared_ptr<Connection> listener;  // not older than the tracker's
  {
    detail::MutexLock lock{mutex_};
    if (!tracking_.allowed(steady_now())) return std::nullopt;
    listener = notified_;
  }
  if (!listener || looks.empty()) return std::nullopt;
  for (bool again = true;; again = false) {
    if (!prepare_tracker(listener)) return std::nullopt;
    try {
      note_look();  // first, as a notification may arrive before the replies
      return run_looks(*tracker_, looks, session_.transport().command_deadline());
    } catch (const NothingSent&) {
      lose_tracker(*listener);
      if (!again) throw;
    } catch (const Error& error) {
      session_.transport().report_lost(*tracker_, error.what());
      lose_tracker(*listener);
      throw;
    }
  }
}

/// Returns whether there is a connection whose reads are tracked for `listener`.
bool NodeSubscriber::prepare_tracker(const std::shared_ptr<Connection>& listener) {
  if (!session_.transport().holds(*listener)) {
    tracker_.reset();
    listener->wake();
    return false;
  }
  if (tracker_ && tracked_for_.lock() == listener) {
    if (tracker_->healthy()) return true;
    lose_tracker(*listener);
  }
  tracker_.reset();
  tracker_ = session_.transport().dedicate(node_);
  if (tracker_->contact() != listener->contact()) {
    tracker_.reset();
    listener->wake();
    return false;
  }
  try {
    tracker_->command({"CLIENT", "TRACKING", "ON", "REDIRECT", text(listener->client_id())},
                      session_.transport().command_deadline());
  } catch (const Error& error) {
    tracker_.reset();
    if (error.errc() == Errc::unavailable) throw;
    // One possible reason is that the listener is gone, which resolves itself.
    bool report = false;
    {
      detail::MutexLock lock{mutex_};
      report = tracking_.refused(steady_now());
    }
    if (report) report_polling(error.what());
    return false;
  }
  tracked_for_ = listener;
  return true;
}

void NodeSubscriber::note_look() {
  bool works_again = false;
  {
    detail::MutexLock lock{mutex_};
    works_again = tracking_.looked(steady_now());
  }
  if (works_again) session_.log()(LogLevel::info, where() + "tracks the keys of watched queues again");
}

void NodeSubscriber::report_polling(std::string_view reason) const {
  session_.log()(LogLevel::warning,
               where() + "polls, since it can't track keys; an idle server may find a task up to "
                         "1.5 s late: " + std::string{reason});
}

std::string NodeSubscriber::where() const { return "redis: watch at " + node_ + ": "; }

/// Its notifications are lost, including those that others than the caller wait for.
void NodeSubscriber::lose_tracker(Connection& listener) {
  tracker_.reset();
  tracker_lost_ = true;
  listener.wake();
}

void NodeSubscriber::drop_closed_tracker(Connection& listener) {
  std::unique_lock lock{tracker_mutex_, std::try_to_lock};
  if (lock && tracker_ && !tracker_->healthy()) lose_tracker(listener);
}

void NodeSubscriber::run() {
  while (!stopping_) {
    std::optional<Error> reason;
    try {
      connect();
      read_notices();
    } catch (const std::exception& fault) {
      reason = error_from(fault);
    }
    disconnect(reason);
    owner_.disconnected(*this, reason);
    owner_.turn();
    // Connecting has its own, growing intervals; this only tries again.
    const SteadyTime again = steady_now() + 50ms;
    detail::MutexLock lock{mutex_};
    while (!stopping_ && steady_now() < again) lock.wait_until(stopped_, again);
  }
  ended_ = true;
}

void NodeSubscriber::connect() {
  std::shared_ptr<Connection> connection = session_.transport().dedicate(node_);
  const SteadyTime deadline = session_.transport().command_deadline();
  Commands subscribe;
  for (const std::string& channel : channels_) subscribe.add({"SUBSCRIBE", channel});
  connection->send(subscribe, deadline);
  bool notices = connection->client_id() != 0;
  if (!notices) report_refused(Channel::invalidation, "the server refuses CLIENT ID");
  for (std::size_t answered = 0; answered < channels_.size() && !stopping_;) {
    const std::optional<Reply> reply = connection->receive(deadline);
    if (!reply) throw Error{Errc::unavailable, "redis: no reply to SUBSCRIBE in time"};
    if (reply->is_error()) {
      const Error error = error_of("SUBSCRIBE", *reply);
      if (error.errc() == Errc::unavailable) throw error;
      report_refused(answered, error.what());
      notices = notices && answered != Channel::invalidation;
    } else if (reply->size() > 0 && (*reply)[0].as_string() != "subscribe") {
      handle(*reply);
      continue;
    }
    ++answered;
  }
  repeated_.reset();
  heard_at_ = checked_at_ = steady_now();
  asked_ = false;
  {
    detail::MutexLock lock{mutex_};
    if (notices) notified_ = connection;
    listener_ = std::move(connection);
  }
  owner_.connected(*this);
}

/// Reports it once: a missing right does not depend on the connection.
void NodeSubscriber::report_refused(std::size_t channel, std::string_view reason) {
  static constexpr std::array<std::string_view, 3> effects{
      "a cancellation by asynq's tools does not reach this server",
      "a run is cancelled only when its lease is extended the next time",
      "queues are polled, and an idle server may find a task up to 1.5 s late"};
  if (std::exchange(reported_[channel], true)) return;
  session_.log()(LogLevel::warning, where() + "cannot subscribe to channel \"" + channels_[channel] +
                                      "\": " + std::string{reason} +
                                      "; consequence: " + std::string{effects[channel]});
}

void NodeSubscriber::disconnect(const std::optional<Error>& reason) {
  std::shared_ptr<Connection> listener;
  {
    detail::MutexLock lock{mutex_};
    notified_.reset();
    listener = std::exchange(listener_, nullptr);
  }
  if (listener && reason) session_.transport().report_lost(*listener, reason->what());
}

/// Reads notifications until the connection is out of date.
void NodeSubscriber::read_notices() {
  std::shared_ptr<Connection> listener;
  {
    detail::MutexLock lock{mutex_};
    listener = listener_;
  }
  while (!stopping_ && session_.transport().holds(*listener)) {
    if (const std::optional<Reply> reply = listener->receive(owner_.turn())) {
      heard_at_ = steady_now();
      asked_ = false;
      handle(*reply);
    }
    keep_alive(*listener);
    if (tracker_lost_.exchange(false)) owner_.missed(*this);
  }
}

/// Checks, about once a second, whether both connections still work.
void NodeSubscriber::keep_alive(Connection& listener) {
  const SteadyTime now = steady_now();
  if (now - checked_at_ < 1s) return;
  checked_at_ = now;
  drop_closed_tracker(listener);
  constexpr auto silence = 5s;
  if (!asked_ && now - heard_at_ >= silence) {
    Commands ping;
    ping.add({"PING"});
    listener.send(ping, session_.transport().command_deadline());
    asked_ = true;
  } else if (asked_ && now - heard_at_ >= silence + session_.options().command_timeout) {
    throw Error{Errc::unavailable, "redis: the listening connection is dead"};
  }
}

void NodeSubscriber::handle(ReplyView notice) {
  if (!notice.is_array() || notice.size() < 3 || !notice[0].is_string() ||
      notice[0].as_string() != "message") {
    return;
  }
  const std::string_view channel = notice[1].as_string();
  if (channel == channels_[Channel::any_cancel]) {
    handle_cancellation(notice[2].as_string());
  } else if (channel == channels_[Channel::queue_cancel]) {
    handle_bound_cancellation(notice[2].as_string());
  } else if (channel == channels_[Channel::invalidation]) {
    handle_invalidation(notice[2]);
  }
}

void NodeSubscriber::handle_cancellation(std::string_view task_id) {
  const std::optional<std::string> repeated = std::exchange(repeated_, std::nullopt);
  if (repeated != task_id) owner_.cancelled(*this, {}, std::string{task_id});
}

void NodeSubscriber::handle_bound_cancellation(std::string_view message) {
  repeated_.reset();
  std::optional<BoundCancellation> bound = BoundCancellation::decode(message);
  if (!bound) return;
  // Both are published by one script, so the next message of asynq's channel is the same
  // cancellation.
  if (bound->repeated) repeated_ = bound->task_id;
  if (bound->database != session_.options().database) return;
  owner_.cancelled(*this, std::move(bound->queue), std::move(bound->task_id));
}

void NodeSubscriber::handle_invalidation(ReplyView keys) {
  // Nobody writes the canary of a queue: a notification about it means that the server made room
  // for other keys.
  if (keys.is_array() && keys.size() == 1 && is_canary(keys[0])) {
    bool report = false;
    {
      detail::MutexLock lock{mutex_};
      report = tracking_.evicted(steady_now());
    }
    if (report) {
      report_polling("its table of tracked keys is too small for the keys that are watched; raise "
                     "tracking-table-max-keys");
    }
    return;
  }
  owner_.changed(*this, keys);
}

}  // namespace taskmux::redis
