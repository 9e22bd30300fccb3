#include "redis/watch.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <random>
#include <string_view>

#include "redis/operations.hpp"
#include "taskmux/detail/thread.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr std::size_t keys_per_look = 5;
constexpr std::string_view invalidation_channel = "__redis__:invalidate";

SteadyTime steady_now() { return std::chrono::steady_clock::now(); }

// Between half of `length` and one and a half, so that idle servers do not act in step.
std::chrono::steady_clock::duration around(std::chrono::milliseconds length) {
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::chrono::milliseconds{
      std::uniform_int_distribution{length.count() / 2, length.count() * 3 / 2}(random)};
}

// Runs `looks`; loads their script first where the server lacks it.
std::vector<Reply> run_looks(Connection& connection, std::span<const Call> looks,
                             SteadyTime deadline) {
  Commands commands;
  for (const Call& look : looks) encode(look, commands);
  std::vector<Reply> replies = connection.pipeline(commands, deadline);
  const bool missing = std::any_of(replies.begin(), replies.end(), [](const Reply& reply) {
    return reply.error_code() == "NOSCRIPT";
  });
  if (!missing) return replies;
  connection.command({"SCRIPT", "LOAD", scripts().look.source}, deadline);
  return connection.pipeline(commands, deadline);
}

}  // namespace

class Listener::Handle final : public Watch {
 public:
  Handle(Listener& listener, std::shared_ptr<Watcher> watcher)
      : listener_{listener}, watcher_{std::move(watcher)} {}
  ~Handle() override { listener_.end(watcher_); }

  State arm() override { return listener_.arm(*watcher_); }

 private:
  Listener& listener_;
  const std::shared_ptr<Watcher> watcher_;
};

Listener::Listener(Store& store) : store_{store}, cancel_channel_{store.global().cancel()} {}

Listener::~Listener() {
  {
    detail::MutexLock lock{mutex_};
    stopping_ = true;
    if (listening_) listening_->wake();
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

std::unique_ptr<Watch> Listener::watch(std::vector<std::string> queues,
                                       std::function<void(const Hint&)> callback) {
  auto watcher = std::make_shared<Watcher>(std::move(queues), std::move(callback));
  for (const std::string& queue : watcher->queues) {
    watcher->stems.push_back(store_.keys(queue).stem());
  }
  auto handle = std::make_unique<Handle>(*this, watcher);
  detail::MutexLock lock{mutex_};
  if (!thread_.joinable()) start();
  // Once this returns, no cancellation is missed.
  while (!listening_ && !failure_) lock.wait(changed_);
  if (!listening_) throw Error{*failure_};
  watchers_.push_back(std::move(watcher));
  return handle;
}

void Listener::end(const std::shared_ptr<Watcher>& watcher) {
  if (!store_.in_own_process()) return;  // after fork(), the locks may be held for ever
  {
    detail::MutexLock lock{mutex_};
    std::erase(watchers_, watcher);
  }
  detail::MutexLock lock{watcher->mutex};
  watcher->ended = true;
}

void Listener::start() {
  thread_ = detail::start_thread("tmx-listen", {}, [this] { listen(); });
}

Watch::State Listener::arm(Watcher& watcher) {
  store_.check_process();
  // First, as a notice may come before the replies are read.
  watcher.poll_at = steady_now() + around(5s);
  watcher.armed = true;
  const auto rest = store_.faults().shortest_rest(watcher.queues);
  const std::vector<Call> calls = looks_at(watcher.queues);
  std::optional<std::vector<Reply>> replies = look_tracked(calls);
  if (!replies) {
    watcher.poll_at = steady_now() + around(1s);
    replies = store_.run(calls);
  }
  if (rest) watcher.poll_at = std::min(watcher.poll_at.load(), steady_now() + *rest);
  const Watch::State state = state_of(*replies);
  if (state.ready) watcher.armed = false;
  return state;
}

/// But for queues that rest, since their broken keys would look ready all the time.
std::vector<Call> Listener::looks_at(std::span<const std::string> all) const {
  const std::vector<std::string> awake = store_.faults().awake(all);
  std::span<const std::string> queues{awake};
  const std::size_t most = store_.cluster() ? 1 : bound::queues;
  std::vector<Call> calls;
  while (!queues.empty()) {
    const auto now = queues.first(std::min(most, queues.size()));
    queues = queues.subspan(now.size());
    Call& call = calls.emplace_back(
        Call{.slot_key = store_.keys(now.front()).pending(), .script = &scripts().look});
    call.args.push_back(text(static_cast<std::int64_t>(keys_per_look * now.size())));
    for (const std::string& queue : now) {
      const Keys keys = store_.keys(queue);
      call.args.insert(call.args.end(),
                       {keys.paused(), keys.pending(), keys.scheduled(), keys.retry(), keys.due()});
    }
    store_.add_now(call.args);
  }
  return calls;
}

Watch::State Listener::state_of(std::span<const Reply> replies) const {
  Watch::State state;
  std::size_t unavailable = 0;
  for (const Reply& reply : replies) {
    // In a cluster, one node that is away must not hide the others' queues.
    const bool away = reply.is_error() && errc_of(reply) == Errc::unavailable;
    if (away && ++unavailable < replies.size()) continue;
    throw_if_error("watch", reply);
    reply.expect_array(3);
    state.now = time_of(reply[0].as_integer());
    if (reply[1].as_integer() != 0) state.ready = true;
    if (!reply[2].is_nil())
      state.next_due = earlier(state.next_due, time_of(reply[2].as_integer()));
  }
  if (replies.empty()) state.now = store_.now();
  return state;
}

/// Nullopt where tracking is not possible; nothing has been read then.
std::optional<std::vector<Reply>> Listener::look_tracked(std::span<const Call> calls) {
  std::shared_ptr<Connection> listener;
  {
    detail::MutexLock lock{mutex_};
    listener = notified_;
  }
  if (!listener || calls.empty()) return std::nullopt;
  std::lock_guard lock{tracker_mutex_};
  for (bool again = true;; again = false) {
    if (!prepare_tracker(listener)) return std::nullopt;
    try {
      return run_looks(*tracker_, calls, store_.transport().command_deadline());
    } catch (const NothingSent&) {
      tracker_.reset();
      if (!again) throw;
    } catch (const Error& error) {
      store_.transport().report_lost(*tracker_, error.what());
      tracker_.reset();
      throw;
    }
  }
}

/// Whether there is a connection now whose reads are tracked for `listener`.
bool Listener::prepare_tracker(const std::shared_ptr<Connection>& listener) {
  if (refused_for_.lock() == listener) return false;
  if (!store_.transport().holds(*listener)) {
    tracker_.reset();
    listener->wake();
    return false;
  }
  if (tracker_ && tracked_for_.lock() == listener && tracker_->healthy()) return true;
  tracker_.reset();
  tracker_ = store_.transport().dedicate(store_.transport().node_of({}));
  if (tracker_->contact() != listener->contact()) {
    tracker_.reset();
    listener->wake();
    return false;
  }
  try {
    tracker_->command({"CLIENT", "TRACKING", "ON", "REDIRECT", text(listener->client_id())},
                      store_.transport().command_deadline());
  } catch (const Error& error) {
    tracker_.reset();
    if (error.errc() == Errc::unavailable) throw;
    refused_for_ = listener;
    store_.log()(LogLevel::warning,
                 std::string{"redis: polls, since it can't track keys: "} + error.what());
    return false;
  }
  tracked_for_ = listener;
  return true;
}

/// With the connection that tracks, its notices are gone too.
void Listener::drop_closed_tracker() {
  {
    std::unique_lock lock{tracker_mutex_, std::try_to_lock};
    if (!lock || !tracker_ || tracker_->healthy()) return;
    tracker_.reset();
  }
  give_ready([](const Watcher&) { return true; });
}

void Listener::listen() {
  while (!stopping_) {
    try {
      connect();
      read_notices();
    } catch (const std::exception& fault) {
      const auto* error = dynamic_cast<const Error*>(&fault);
      detail::MutexLock lock{mutex_};
      if (listening_) store_.transport().report_lost(*listening_, fault.what());
      failure_ = error ? *error : Error{Errc::unavailable, fault.what()};
    }
    disconnect();
    give_due_polls();
    // Connecting has its own, growing intervals; this only asks again.
    const SteadyTime again = steady_now() + around(50ms);
    detail::MutexLock lock{mutex_};
    while (!stopping_ && steady_now() < again) lock.wait_until(changed_, again);
  }
  disconnect();
}

void Listener::connect() {
  std::shared_ptr<Connection> connection =
      store_.transport().dedicate(store_.transport().node_of({}));
  const SteadyTime deadline = store_.transport().command_deadline();
  Commands subscribe;
  subscribe.add({"SUBSCRIBE", cancel_channel_}).add({"SUBSCRIBE", invalidation_channel});
  connection->send(subscribe, deadline);
  bool notices = !store_.cluster() && connection->client_id() != 0;
  for (std::size_t answered = 0; answered < subscribe.size() && !stopping_;) {
    const std::optional<Reply> reply = connection->receive(deadline);
    if (!reply) throw Error{Errc::unavailable, "redis: no answer to SUBSCRIBE in time"};
    if (reply->is_error()) {
      const Error error = error_of("subscribe", *reply);
      if (error.errc() == Errc::unavailable) throw error;
      store_.log()(LogLevel::warning, error.what());
      notices = notices && answered == 0;
    } else if (reply->size() > 0 && (*reply)[0].as_string() != "subscribe") {
      handle(*reply);
      continue;
    }
    ++answered;
  }
  heard_at_ = checked_at_ = steady_now();
  asked_ = false;
  {
    detail::MutexLock lock{mutex_};
    notified_ = notices ? connection : nullptr;
  }
  // Who is armed for an earlier connection may have missed a notice; before new watches may arm.
  give_ready([](const Watcher&) { return true; });
  {
    detail::MutexLock lock{mutex_};
    listening_ = std::move(connection);
    failure_.reset();
  }
  changed_.notify_all();
}

void Listener::disconnect() {
  detail::MutexLock lock{mutex_};
  notified_.reset();
  listening_.reset();
  changed_.notify_all();
}

/// Returns when the connection is out of date.
void Listener::read_notices() {
  std::shared_ptr<Connection> connection;
  {
    detail::MutexLock lock{mutex_};
    connection = listening_;
  }
  while (!stopping_ && store_.transport().holds(*connection)) {
    SteadyTime until = steady_now() + 1s;
    for (const auto& watcher : watchers()) {
      if (watcher->armed) until = std::min(until, watcher->poll_at.load());
    }
    if (const std::optional<Reply> reply = connection->receive(until)) {
      heard_at_ = steady_now();
      asked_ = false;
      handle(*reply);
    }
    give_due_polls();
    keep_alive(*connection);
  }
}

/// Finds out, about once a second, whether both connections still work.
void Listener::keep_alive(Connection& connection) {
  const SteadyTime now = steady_now();
  if (now - checked_at_ < 1s) return;
  checked_at_ = now;
  drop_closed_tracker();
  constexpr auto silence = 5s;
  if (!asked_ && now - heard_at_ >= silence) {
    Commands ping;
    ping.add({"PING"});
    connection.send(ping, store_.transport().command_deadline());
    asked_ = true;
  } else if (asked_ && now - heard_at_ >= silence + store_.options().command_timeout) {
    throw Error{Errc::unavailable, "redis: the connection that listens is dead"};
  }
}

void Listener::handle(ReplyView notice) {
  if (!notice.is_array() || notice.size() < 3 || !notice[0].is_string() ||
      notice[0].as_string() != "message") {
    return;
  }
  const std::string_view channel = notice[1].as_string();
  if (channel == cancel_channel_) {
    const Hint hint{.kind = Hint::Kind::cancel, .task_id = std::string{notice[2].as_string()}};
    for (const auto& watcher : watchers()) give(*watcher, hint);
  } else if (channel == invalidation_channel) {
    const ReplyView keys = notice[2];
    give_ready([&](const Watcher& watcher) {
      if (!keys.is_array()) return true;  // all keys are gone
      for (std::size_t i = 0; i < keys.size(); ++i) {
        for (const std::string& stem : watcher.stems) {
          if (keys[i].as_string().starts_with(stem)) return true;
        }
      }
      return false;
    });
  }
}

void Listener::give(Watcher& watcher, const Hint& hint) const {
  detail::MutexLock lock{watcher.mutex};
  if (watcher.ended) return;
  if (hint.kind == Hint::Kind::ready && !watcher.armed.exchange(false)) return;
  try {
    watcher.callback(hint);
  } catch (const std::exception& fault) {
    store_.log()(LogLevel::error, std::string{"redis: a watch's callback threw: "} + fault.what());
  }
}

void Listener::give_ready(const std::function<bool(const Watcher&)>& concerned) const {
  for (const auto& watcher : watchers()) {
    if (watcher->armed && concerned(*watcher)) give(*watcher, {});
  }
}

void Listener::give_due_polls() const {
  const SteadyTime now = steady_now();
  give_ready([now](const Watcher& watcher) { return watcher.poll_at.load() <= now; });
}

Listener::Watchers Listener::watchers() const {
  detail::MutexLock lock{mutex_};
  return watchers_;
}

}  // namespace taskmux::redis
