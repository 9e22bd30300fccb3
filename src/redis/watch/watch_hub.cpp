#include "redis/watch/watch_hub.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <random>
#include <set>
#include <string_view>
#include <utility>

#include "lua_arguments.hpp"
#include "redis/asynq/keys.hpp"
#include "redis/asynq/wire.hpp"
#include "redis/scripts/scripts.hpp"
#include "taskmux/detail/base/earlier.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

// Queues of a script whose reads are tracked. Redis 7.0 notes all keys of a script anew for each command in
// it that reads: with many queues, that takes seconds.
constexpr std::size_t tracked_at_once = 4;

SteadyTime steady_now() { return std::chrono::steady_clock::now(); }

// Returns a time between half of `length` and one and a half times `length`, so that idle servers
// do not act in step.
std::chrono::steady_clock::duration around(std::chrono::milliseconds length) {
  thread_local std::minstd_rand random{std::random_device{}()};
  return std::chrono::milliseconds{
      std::uniform_int_distribution{length.count() / 2, length.count() * 3 / 2}(random)};
}

// Whether the node that was asked does not have the queue, or is not available for it.
bool is_away(const Reply& reply) { return reply.is_error() && errc_of(reply) == Errc::unavailable; }

template <typename Questions>
std::vector<Call> calls_of(const Questions& questions) {
  std::vector<Call> calls;
  for (const auto& question : questions) calls.push_back(question.call);
  return calls;
}

}  // namespace

/// One watch. Its callback runs under its mutex, so that ending it can wait for the callback.
struct WatchHub::Watcher {
  Watcher(std::vector<std::string> watched, std::function<void(const Hint&)> to_call)
      : queues{std::move(watched)}, callback{std::move(to_call)} {
    for (std::size_t n = 0; n < queues.size(); ++n) number_of.emplace(queues[n], n);
  }

  /// Has its queues polled, even if something else checks them.
  void poll_within(SteadyTime::duration time) {
    must_poll = true;
    const SteadyTime wanted = steady_now() + time;
    SteadyTime planned = poll_at;
    while (wanted < planned && !poll_at.compare_exchange_weak(planned, wanted)) {
    }
  }

  /// Returns which queues to look at: all, or those that may have changed since the last look. They
  /// count as known from here on, so that a change during the look is not lost. Returns at least
  /// one queue, which provides the time.
  std::vector<std::size_t> begin_look(bool all) TASKMUX_EXCLUDES(knowledge_mutex) {
    detail::MutexLock lock{knowledge_mutex};
    std::vector<std::size_t> numbers;
    for (std::size_t n = 0; n < knowledge.size(); ++n) {
      if (all || !knowledge[n].holds) numbers.push_back(n);
    }
    if (numbers.empty() && !knowledge.empty()) numbers.push_back(0);
    for (const std::size_t n : numbers)
      knowledge[n] = {.holds = true, .look = 0, .due = knowledge[n].due};
    return numbers;
  }

  void forget(std::span<const std::size_t> numbers) TASKMUX_EXCLUDES(knowledge_mutex) {
    detail::MutexLock lock{knowledge_mutex};
    for (const std::size_t n : numbers) knowledge[n].holds = false;
  }

  void forget_all() TASKMUX_EXCLUDES(knowledge_mutex) {
    detail::MutexLock lock{knowledge_mutex};
    for (Knowledge& of : knowledge) of.holds = false;
  }

  /// The state of a queue at the last look.
  struct Knowledge {
    bool holds = false;         ///< The node would have reported a change.
    std::uint64_t look = 0;     ///< The number of that look; 0 until it is over.
    std::optional<Time> due{};  ///< When a task is due in it.
  };

  /// Whether a change of `key` is one of what has number `n`.
  bool is_about(std::string_view key, std::size_t n) const noexcept {
    if (of_tasks) return key == stems[n];
    return key.starts_with(stems[n]) && !key.substr(stems[n].size()).starts_with("t:");
  }

  const std::vector<std::string> queues;
  std::map<std::string_view, std::size_t> number_of{};  // by queue
  std::vector<std::string> stems{};  // of the queues' keys
  bool of_tasks = false;  // The stems are the keys of tasks; `queues` has the queue of each.
  detail::Mutex knowledge_mutex{};
  std::vector<Knowledge> knowledge TASKMUX_GUARDED_BY(knowledge_mutex){queues.size()};
  const std::function<void(const Hint&)> callback;
  std::atomic<bool> armed{false};
  std::atomic<SteadyTime> poll_at{SteadyTime{}};
  std::atomic<bool> must_poll{false};
  std::atomic<SteadyTime> checked_at{SteadyTime{}};  // see looks()
  detail::Mutex mutex{};
  bool ended TASKMUX_GUARDED_BY(mutex) = false;
};

class WatchHub::Handle final : public Watch {
 public:
  Handle(WatchHub& listener, WatcherPtr watcher)
      : listener_{listener}, watcher_{std::move(watcher)} {}
  ~Handle() override { listener_.end(watcher_); }

  State arm() override { return listener_.arm(watcher_, true); }
  State rearm() override { return listener_.arm(watcher_, false); }

 private:
  WatchHub& listener_;
  const WatcherPtr watcher_;
};

class WatchHub::TaskHandle final : public TaskWatch {
 public:
  TaskHandle(WatchHub& listener, WatcherPtr watcher)
      : listener_{listener}, watcher_{std::move(watcher)} {}
  ~TaskHandle() override { listener_.end(watcher_); }

  State arm() override { return listener_.arm_tasks(watcher_); }

 private:
  WatchHub& listener_;
  const WatcherPtr watcher_;
};

WatchHub::WatchHub(Session& session) : session_{session} {}

WatchHub::~WatchHub() {
  std::vector<std::shared_ptr<NodeSubscriber>> posts;  // destroyed after the lock
  detail::MutexLock lock{mutex_};
  stopping_ = true;
  posts.swap(closing_);
  for (const auto& [node, station] : stations_) posts.push_back(station.post);
  stations_.clear();
  for (const auto& post : posts) post->stop();
}

std::unique_ptr<Watch> WatchHub::watch(std::vector<std::string> queues,
                                       std::function<void(const Hint&)> callback) {
  auto watcher = std::make_shared<Watcher>(std::move(queues), std::move(callback));
  for (const std::string& queue : watcher->queues) {
    watcher->stems.push_back(session_.keys(queue).stem());
  }
  Nodes nodes = find_nodes(*watcher);
  // First: if anything below throws, it ends the watch.
  auto handle = std::make_unique<Handle>(*this, watcher);
  begin(watcher, std::move(nodes));
  return handle;
}

std::unique_ptr<TaskWatch> WatchHub::watch_tasks(std::string_view queue,
                                                 std::vector<std::string> ids,
                                                 std::function<void()> callback) {
  const Keys keys = session_.keys(queue);
  auto watcher = std::make_shared<Watcher>(std::vector<std::string>(ids.size(), std::string{queue}),
                                           [callback = std::move(callback)](const Hint& hint) {
                                             if (hint.kind == Hint::Kind::ready) callback();
                                           });
  watcher->of_tasks = true;
  watcher->number_of.clear();
  for (const std::string& id : ids) watcher->stems.push_back(keys.task(id));
  Nodes nodes = find_nodes(*watcher);
  auto handle = std::make_unique<TaskHandle>(*this, watcher);
  begin(watcher, std::move(nodes));
  return handle;
}

void WatchHub::begin(const WatcherPtr& watcher, Nodes nodes) {
  {
    detail::MutexLock lock{mutex_};
    open_posts(nodes);
    watchers_.emplace(watcher, std::move(nodes));
  }
  await_post(watcher);
}

/// Waits until one of the watch's subscribers is connected: then no cancellation is missed, as in a
/// cluster every node reports it.
void WatchHub::await_post(const WatcherPtr& watcher) {
  detail::MutexLock lock{mutex_};
  for (;;) {
    std::optional<Error> failure;
    bool waits = false;
    for (const std::string& node : watchers_.at(watcher)) {
      const auto found = stations_.find(node);
      if (found == stations_.end()) continue;
      if (found->second.connected) return;
      if (found->second.failure) {
        failure = found->second.failure;
      } else {
        waits = true;
      }
    }
    if (!waits) throw failure.value_or(Error{Errc::unavailable, "watch: no server of the queues"});
    lock.wait(changed_);
  }
}

std::vector<std::uint64_t> WatchHub::looks(std::span<const std::string> queues) {
  std::vector<std::uint64_t> found(queues.size(), 0);
  for (const WatcherPtr& watcher : watchers()) {
    bool any = false;
    detail::MutexLock lock{watcher->knowledge_mutex};
    for (std::size_t i = 0; i < queues.size(); ++i) {
      const auto number = watcher->number_of.find(queues[i]);
      if (number == watcher->number_of.end()) continue;
      any = true;
      const Watcher::Knowledge& known = watcher->knowledge[number->second];
      if (known.holds) found[i] = std::max(found[i], known.look);
    }
    if (any) watcher->checked_at = steady_now();
  }
  return found;
}

void WatchHub::check(const std::string& queue, std::uint64_t look, bool ready,
                     std::optional<Time> due) {
  if (look == 0) return;
  for (const WatcherPtr& watcher : watchers()) {
    {
      detail::MutexLock lock{watcher->knowledge_mutex};
      const auto number = watcher->number_of.find(queue);
      if (number == watcher->number_of.end()) continue;
      Watcher::Knowledge& known = watcher->knowledge[number->second];
      if (!known.holds || known.look != look) continue;
      if (!ready && (!due || (known.due && *known.due <= *due))) continue;
      known.holds = false;
    }
    give(*watcher, {.kind = Hint::Kind::ready, .queue = queue});
  }
}

void WatchHub::end(const WatcherPtr& watcher) {
  if (!session_.in_own_process()) return;  // after fork(), the locks may be held for ever
  {
    detail::MutexLock lock{mutex_};
    watchers_.erase(watcher);
  }
  detail::MutexLock lock{watcher->mutex};
  watcher->ended = true;
}

Watch::State WatchHub::arm(const WatcherPtr& watcher, bool all) {
  session_.check_process();
  // First, as a notification may arrive before the replies are read.
  watcher->must_poll = false;
  watcher->poll_at = steady_now() + around(5s);
  watcher->armed = true;
  const auto rest = session_.queue_health().shortest_rest(watcher->queues);
  const Numbers queues = watcher->begin_look(all);
  Watch::State state;
  try {
    const std::vector<Answer> answers = look(watcher, queues);
    std::vector<bool> tracked(watcher->queues.size());
    for (const Answer& answer : answers) {
      for (const std::size_t n : answer.queues) tracked[n] = answer.tracked;
    }
    Numbers unknown = queues;
    std::erase_if(unknown, [&tracked](std::size_t n) { return tracked[n]; });
    watcher->forget(unknown);
    state = state_of(*watcher, answers);
  } catch (...) {
    watcher->forget(queues);
    throw;
  }
  if (rest) watcher->poll_within(*rest);
  if (state.ready) watcher->armed = false;
  return state;
}

/// Asks each node through its subscriber. What the subscriber can't answer is asked through an
/// ordinary call, which can find a queue that has moved; and again after the polling interval, as
/// no notification will arrive.
std::vector<WatchHub::Answer> WatchHub::look(const WatcherPtr& watcher,
                                             std::span<const std::size_t> queues) {
  std::vector<Answer> answers;
  Numbers others;
  std::optional<Error> failure;
  for (const auto& [post, those] : looks_at(watcher, queues)) {
    std::vector<Question> questions =
        questions_about(*watcher, those, session_.cluster() ? 1 : tracked_at_once);
    std::optional<std::vector<Reply>> told;
    try {
      if (post) told = post->look(calls_of(questions));
    } catch (const Error& error) {
      failure = error;
      continue;
    }
    for (std::size_t i = 0; i < questions.size(); ++i) {
      if (told && !is_away((*told)[i])) {
        answers.push_back({std::move((*told)[i]), std::move(questions[i].queues), true});
      } else {
        others.insert(others.end(), questions[i].queues.begin(), questions[i].queues.end());
      }
    }
  }
  if (failure || !others.empty()) watcher->poll_within(around(1s));
  if (!others.empty()) {
    try {
      std::vector<Question> questions =
          questions_about(*watcher, others, session_.cluster() ? 1 : bound::queues);
      std::vector<Reply> replies = session_.run(calls_of(questions));
      for (std::size_t i = 0; i < replies.size(); ++i)
        answers.push_back({std::move(replies[i]), std::move(questions[i].queues), false});
    } catch (const Error& error) {
      failure = error;
    }
  }
  if (failure && answers.empty()) throw Error{*failure};
  return answers;
}

TaskWatch::State WatchHub::arm_tasks(const WatcherPtr& watcher) {
  session_.check_process();
  // First, as a notice may come before the replies are read.
  watcher->must_poll = false;
  watcher->poll_at = steady_now() + around(5s);
  watcher->armed = true;
  const std::vector<Reply> replies = look_at_tasks(watcher);
  TaskWatch::State state;
  for (std::size_t n = 0; n < watcher->stems.size(); ++n) {
    const Reply& reply = replies.at(n);
    throw_if_error("watch tasks", reply);
    state.tasks.push_back({parse_state(reply.as_optional_string())});
  }
  return state;
}

/// Reads the states through the post. Where no notice will come, in the ordinary way, and again after a
/// poll's time. All tasks are of one queue, and so at one node.
std::vector<Reply> WatchHub::look_at_tasks(const WatcherPtr& watcher) {
  std::vector<Call> calls;
  for (const std::string& key : watcher->stems)
    calls.push_back(Session::command(key, {"HGET", key, field::state}));
  if (calls.empty()) return {};
  // A notice about it shows that the server forgets keys that it should track; see Tracking.
  const std::string canary = session_.keys(watcher->queues.front()).canary();
  calls.push_back(Session::command(canary, {"EXISTS", canary}));
  std::shared_ptr<NodeSubscriber> post;
  {
    detail::MutexLock lock{mutex_};
    const auto found = stations_.find(watchers_.at(watcher).front());
    if (found != stations_.end()) post = found->second.post;
  }
  try {
    std::optional<std::vector<Reply>> told;
    if (post) told = post->look(calls);
    if (told && std::none_of(told->begin(), told->end(), is_away)) return std::move(*told);
  } catch (const Error& error) {
    if (error.errc() != Errc::unavailable) throw;
  }
  watcher->poll_within(around(1s));
  return session_.run(calls);
}

/// But for queues that rest, since their broken keys would look ready all the time.
std::vector<WatchHub::Look> WatchHub::looks_at(const WatcherPtr& watcher,
                                               std::span<const std::size_t> queues) const {
  std::map<std::string, Numbers> at;
  std::vector<Look> looks;
  detail::MutexLock lock{mutex_};
  const Nodes& nodes = watchers_.at(watcher);
  for (const std::size_t n : queues) {
    if (!session_.queue_health().rests(watcher->queues[n])) at[nodes[n]].push_back(n);
  }
  for (auto& [node, those] : at) {
    const auto found = stations_.find(node);
    looks.push_back({found == stations_.end() ? nullptr : found->second.post, std::move(those)});
  }
  return looks;
}

std::vector<WatchHub::Question> WatchHub::questions_about(const Watcher& watcher,
                                                          std::span<const std::size_t> queues,
                                                          std::size_t most) const {
  std::vector<Question> questions;
  while (!queues.empty()) {
    const auto now = queues.first(std::min(most, queues.size()));
    queues = queues.subspan(now.size());
    std::vector<std::string> all;
    for (const std::size_t n : now) {
      const Keys keys = session_.keys(watcher.queues[n]);
      lua::Look::Queue{.paused = keys.paused(),
                       .pending = keys.pending(),
                       .scheduled = keys.scheduled(),
                       .retry = keys.retry(),
                       .due = keys.due(),
                       .canary = keys.canary()}
          .append_to(all);
    }
    Call call = Session::call_on(scripts().look, std::move(all));
    session_.add_now(call.args);
    questions.push_back({std::move(call), Numbers(now.begin(), now.end())});
  }
  return questions;
}

/// Returns the state of all queues: those of `answers`, and those that have not changed. A queue
/// that is ready is looked at again the next time, since it may stay ready.
Watch::State WatchHub::state_of(Watcher& watcher, std::span<const Answer> answers) const {
  Watch::State state;
  std::size_t unavailable = 0;
  detail::MutexLock lock{watcher.knowledge_mutex};
  const auto ready = [&](std::size_t n) TASKMUX_REQUIRES(watcher.knowledge_mutex) {
    state.ready = true;
    watcher.knowledge[n] = {};
  };
  for (const auto& [reply, queues, tracked] : answers) {
    // In a cluster, one unavailable node must not hide the queues of the others.
    if (is_away(reply) && ++unavailable < answers.size()) continue;
    throw_if_error("watch", reply);
    reply.expect_array(1 + queues.size());
    state.now = time_of(reply[0].as_integer());
    for (std::size_t i = 0; i < queues.size(); ++i) {
      const ReplyView due = reply[1 + i];
      Watcher::Knowledge& known = watcher.knowledge[queues[i]];
      known.due.reset();
      if (known.holds) known.look = ++look_;
      if (due.is_nil()) continue;
      const Time at = time_of(due.as_integer());
      known.due = at;
      if (due.as_integer() == 0) {
        ready(queues[i]);
      } else {
        state.next_due = detail::earlier(state.next_due, at);
      }
    }
  }
  if (answers.empty()) state.now = session_.now();
  for (std::size_t n = 0; n < watcher.knowledge.size(); ++n) {
    const std::optional<Time> due = watcher.knowledge[n].due;
    if (!watcher.knowledge[n].holds || !due) continue;
    if (*due <= state.now) {
      ready(n);
    } else {
      state.next_due = detail::earlier(state.next_due, *due);
    }
  }
  return state;
}

/// Returns the node of each queue, "" where it is not known; for a watch without queues, any node.
/// Throws if no node is known.
WatchHub::Nodes WatchHub::find_nodes(const Watcher& watcher) {
  Nodes nodes;
  std::optional<Error> failure;
  const auto add = [&](std::string_view slot_key) {
    try {
      nodes.push_back(session_.transport().node_of(slot_key));
    } catch (const Error& error) {
      nodes.emplace_back();
      failure = error;
    }
  };
  for (const std::string& stem : watcher.stems) add(stem);
  if (nodes.empty()) add({});
  const auto is_known = [](const std::string& node) { return !node.empty(); };
  if (std::none_of(nodes.begin(), nodes.end(), is_known)) throw Error{*failure};
  return nodes;
}

void WatchHub::open_posts(const Nodes& nodes) {
  if (stopping_) return;
  NodeSubscriber::Owner& owner = *this;
  for (const std::string& node : nodes) {
    if (node.empty() || stations_.contains(node)) continue;
    // A subscriber can't be destroyed here: its thread may be waiting for the lock.
    const auto station = stations_.try_emplace(node).first;
    try {
      station->second.post = std::make_shared<NodeSubscriber>(session_, node, owner);
    } catch (...) {
      stations_.erase(station);
      throw;
    }
  }
}

/// Ensures, once a second, that there is a subscriber wherever a watched queue is now, and no
/// other.
void WatchHub::follow_queues() {
  {
    detail::MutexLock lock{mutex_};
    const SteadyTime now = steady_now();
    if (stopping_ || now < follow_at_) return;
    follow_at_ = now + 1s;
    cancellations_.forget_old(now);
  }
  Watchers moved;
  for (const WatcherPtr& watcher : watchers()) {
    try {
      Nodes nodes = find_nodes(*watcher);
      detail::MutexLock lock{mutex_};
      const auto found = watchers_.find(watcher);
      if (found == watchers_.end() || found->second == nodes) continue;
      open_posts(nodes);
      found->second = std::move(nodes);
      watcher->forget_all();
      moved.push_back(watcher);
    } catch (const Error&) {
      // No node answers at the moment: the subscribers stay where they are.
    } catch (const std::exception& fault) {
      session_.log()(LogLevel::error,
                   std::string{"redis: can't watch at another node: "} + fault.what());
    }
  }
  close_posts();
  give_ready(moved);
}

void WatchHub::close_posts() {
  std::vector<std::shared_ptr<NodeSubscriber>> ended;  // destroyed without the lock
  detail::MutexLock lock{mutex_};
  std::set<std::string> needed;
  for (const auto& [watcher, nodes] : watchers_) needed.insert(nodes.begin(), nodes.end());
  if (needed.empty()) return;
  // So that no cancellation is missed, the last connected subscriber stays until another one is
  // connected.
  const bool heard = std::any_of(stations_.begin(), stations_.end(), [&](const auto& each) {
    return each.second.connected && needed.contains(each.first);
  });
  for (auto each = stations_.begin(); each != stations_.end();) {
    const Station& station = each->second;
    if (needed.contains(each->first) || (station.connected && !heard)) {
      ++each;
      continue;
    }
    station.post->stop();
    closing_.push_back(station.post);
    each = stations_.erase(each);
  }
  std::erase_if(closing_, [&ended](const std::shared_ptr<NodeSubscriber>& post) {
    if (post->ended()) ended.push_back(post);
    return post->ended();
  });
}

/// Returns null if the subscriber is to close.
WatchHub::Station* WatchHub::station_of(const NodeSubscriber& post) {
  const auto found = stations_.find(post.node());
  const bool ours = found != stations_.end() && found->second.post.get() == &post;
  return ours ? &found->second : nullptr;
}

void WatchHub::connected(const NodeSubscriber& post) {
  forget_and_give(watchers_at(post.node()));  // before new watches may arm
  detail::MutexLock lock{mutex_};
  if (Station* const station = station_of(post)) {
    station->connected = true;
    station->failure.reset();
  }
  changed_.notify_all();
}

void WatchHub::missed(const NodeSubscriber& post) { forget_and_give(watchers_at(post.node())); }

void WatchHub::disconnected(const NodeSubscriber& post, const std::optional<Error>& reason) {
  bool listened = true;
  {
    detail::MutexLock lock{mutex_};
    if (Station* const station = station_of(post)) {
      listened = std::exchange(station->connected, false);
      if (listened) follow_at_ = {};  // its queues may have moved
      if (reason) station->failure = reason;
    }
  }
  changed_.notify_all();
  if (!listened) return;  // watches armed since are polled anyway, and know nothing
  for (const WatcherPtr& watcher : watchers_at(post.node())) {
    watcher->forget_all();
    watcher->poll_within(around(1s));
  }
}

void WatchHub::changed(const NodeSubscriber& post, ReplyView keys) {
  if (!keys.is_array()) {
    forget_and_give(watchers_at(post.node()));
    return;
  }
  for (const WatcherPtr& watcher : watchers()) {
    Numbers queues;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      for (std::size_t n = 0; n < watcher->stems.size(); ++n) {
        if (!watcher->is_about(keys[i].as_string(), n)) continue;
        if (std::find(queues.begin(), queues.end(), n) == queues.end()) queues.push_back(n);
      }
    }
    if (queues.empty()) continue;
    watcher->forget(queues);
    Hint hint{.kind = Hint::Kind::ready};
    if (queues.size() == 1) hint.queue = watcher->queues[queues.front()];
    give(*watcher, hint);
  }
}

void WatchHub::cancelled(const NodeSubscriber& post, std::string queue, std::string task_id) {
  if (!is_new(post, queue + '\0' + task_id)) return;
  const Hint hint{
      .kind = Hint::Kind::cancel, .task_id = std::move(task_id), .queue = std::move(queue)};
  for (const WatcherPtr& watcher : watchers()) give(*watcher, hint);
}

/// In a cluster, every subscriber receives every cancellation.
bool WatchHub::is_new(const NodeSubscriber& post, const std::string& task) {
  if (!session_.cluster()) return true;
  detail::MutexLock lock{mutex_};
  return cancellations_.hear(post.node(), task, steady_now());
}

SteadyTime WatchHub::turn() {
  SteadyTime until = steady_now() + 1s;
  try {
    follow_queues();
    give_due_polls();
    for (const WatcherPtr& watcher : watchers()) {
      if (watcher->armed) until = std::min(until, watcher->poll_at.load());
    }
  } catch (const std::exception& fault) {
    session_.log()(LogLevel::error, std::string{"redis: watches: "} + fault.what());
  }
  return until;
}

void WatchHub::give(Watcher& watcher, const Hint& hint) const {
  detail::MutexLock lock{watcher.mutex};
  if (watcher.ended) return;
  if (hint.kind == Hint::Kind::ready && !watcher.armed.exchange(false)) return;
  try {
    watcher.callback(hint);
  } catch (const std::exception& fault) {
    session_.log()(LogLevel::error, std::string{"redis: a watch's callback threw: "} + fault.what());
  }
}

void WatchHub::give_ready(const Watchers& all) const {
  for (const WatcherPtr& watcher : all) {
    if (watcher->armed) give(*watcher, {});
  }
}

void WatchHub::forget_and_give(const Watchers& all) const {
  for (const WatcherPtr& watcher : all) watcher->forget_all();
  give_ready(all);
}

void WatchHub::give_due_polls() const {
  Watchers due = watchers();
  std::erase_if(due, [now = steady_now()](const WatcherPtr& watcher) {
    if (watcher->poll_at.load() > now) return true;
    if (watcher->must_poll || now - watcher->checked_at.load() > 10s) return false;
    watcher->poll_at = now + around(5s);
    return true;
  });
  std::erase_if(due, [](const WatcherPtr& watcher) { return !watcher->armed; });
  forget_and_give(due);
}

WatchHub::Watchers WatchHub::watchers() const {
  Watchers all;
  detail::MutexLock lock{mutex_};
  for (const auto& [watcher, nodes] : watchers_) all.push_back(watcher);
  return all;
}

WatchHub::Watchers WatchHub::watchers_at(const std::string& node) const {
  Watchers there;
  detail::MutexLock lock{mutex_};
  for (const auto& [watcher, nodes] : watchers_) {
    if (std::find(nodes.begin(), nodes.end(), node) != nodes.end()) there.push_back(watcher);
  }
  return there;
}

}  // namespace taskmux::redis
