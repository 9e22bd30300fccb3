#include "redis/route/batch.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>

#include "redis/net/call_limit.hpp"
#include "redis/net/pool.hpp"

namespace taskmux::redis {
namespace {

using std::chrono::steady_clock;

constexpr int most_redirections = 5;
constexpr int most_repeats =
    3;  // of one batch on one server: stale connection, NOSCRIPT, and again

/// What an error reply says about the server, rather than about the call.
enum class Refusal { none, moved, no_script, busy_server, wrong_server };  // worst last

Refusal refusal_of(const Reply& reply) noexcept {
  if (!reply.is_error()) return Refusal::none;
  const auto code = reply.error_code();
  if (code == "NOSCRIPT") return Refusal::no_script;
  if (code == "MOVED" || code == "ASK") return Refusal::moved;
  if (code == "READONLY" || code == "MASTERDOWN") return Refusal::wrong_server;
  if (code == lost_code || code == slow_code || met_moving_keys(reply)) return Refusal::none;
  return errc_of(reply) == Errc::unavailable ? Refusal::busy_server : Refusal::none;
}

/// The server that a call is sent to, and how.
struct Target {
  std::shared_ptr<Pool> pool;
  bool asking = false;  ///< The slot is being migrated there: ASKING must be sent first.

  bool operator==(const Target&) const = default;
};

/// One run of calls: sends them to their servers, repeats them where that is safe, and collects the
/// replies.
class Batch {
 public:
  Batch(Router& router, LineRate& line, const RedisOptions& options, std::span<const Call> calls,
        ReplicaWait wait)
      : router_{router},
        line_{line},
        options_{options},
        calls_{calls},
        wait_{wait},
        silence_{options.command_timeout + (wait.wanted() ? wait.timeout : Duration{0})},
        deadline_{steady_clock::now() + options.connect_timeout + silence_},
        last_{deadline_ + (longest_call - 1) * options.command_timeout} {
    result_.replies.resize(calls.size());
    result_.replicas.resize(calls.size());
  }

  WaitedReplies run() {
    Indices left(calls_.size());
    std::iota(left.begin(), left.end(), std::size_t{0});
    std::vector<Target> targets;
    for (const auto& call : calls_) targets.push_back({server_for(call)});
    for (int round = 0; !left.empty() && round <= most_redirections; ++round) {
      for (const auto& [target, indices] : grouped(left, targets)) run_on(target, indices);
      std::erase_if(left, [&](std::size_t index) { return !redirect(index, targets[index]); });
    }
    return finish();
  }

 private:
  using Indices = std::vector<std::size_t>;

  SteadyTime connect_deadline() const {
    return std::min(deadline_, steady_clock::now() + options_.connect_timeout);
  }

  Patience patience() const {
    return {std::min(deadline_, steady_clock::now() + silence_), silence_, last_};
  }

  /// Returns the pool for a call. Null if there is none; then the call has its reply, or `failure_`
  /// holds the reason.
  std::shared_ptr<Pool> server_for(const Call& call) {
    if (failure_) return nullptr;
    try {
      auto server = router_.pool_for(call.slot_key, connect_deadline());
      if (!server) {
        router_.doubt();
        answer(call, make_error_reply("CLUSTERDOWN", "no node serves the slot of the key"));
      }
      return server;
    } catch (const Error& error) {
      failure_.emplace(error);
      return nullptr;
    }
  }

  void answer(const Call& call, Reply reply) {
    result_.replies[static_cast<std::size_t>(&call - calls_.data())] = std::move(reply);
    any_answer_ = true;
  }

  /// Groups the calls of `left` by target, in their order.
  static std::vector<std::pair<Target, Indices>> grouped(const Indices& left,
                                                         const std::vector<Target>& targets) {
    std::vector<std::pair<Target, Indices>> groups;
    for (const auto index : left) {
      const auto& target = targets[index];
      if (!target.pool) continue;
      auto found = std::find_if(groups.begin(), groups.end(),
                                [&](const auto& group) { return group.first == target; });
      if (found == groups.end()) found = groups.insert(found, {target, {}});
      found->second.push_back(index);
    }
    return groups;
  }

  /// Returns whether the reply redirects the call; then `target` is the new target.
  bool redirect(std::size_t index, Target& target) {
    const auto& reply = result_.replies[index];
    if (refusal_of(reply) != Refusal::moved) return false;
    // While a slot is being migrated, its keys are on two nodes. A script must not mistake keys
    // that it does not find for missing ones; it can run again when all keys are on one node.
    if (reply.error_code() == "ASK" && calls_[index].script != nullptr) return false;
    const auto text = reply.error_text();  // MOVED 3999 127.0.0.1:6381
    auto server = router_.pool_at(text.substr(text.rfind(' ') + 1), *target.pool);
    if (!server) return false;
    target = {std::move(server), reply.error_code() == "ASK"};
    if (!target.asking) router_.doubt();
    return true;
  }

  /// Sends the calls `indices` to one server. A call that can't be sent, or gets no reply, is left
  /// without one.
  void run_on(const Target& target, const Indices& indices) {
    PooledConnection connection;
    try {
      auto left = indices;
      bool forgot_scripts = false;
      for (int round = 0; !left.empty() && round < most_repeats; ++round) {
        if (!connection.connection) connection = target.pool->take(connect_deadline());
        try {
          exchange(connection, left, target.asking, forgot_scripts);
        } catch (const NothingSent&) {
          // The connection was closed while idle, which was not noticed until now: nothing of this
          // request was executed.
          if (round > 0) throw;
          connection = {};
          continue;
        }
        std::erase_if(left, [this](std::size_t index) {
          return refusal_of(result_.replies[index]) != Refusal::no_script;
        });
        if (left.empty()) break;
        // SCRIPT FLUSH: load the scripts again, and run them even if they are flushed again in the
        // meantime.
        connection.loaded.clear();
        forgot_scripts = true;
      }
    } catch (const Error& error) {
      if (!failure_) {
        failure_.emplace(error);
        if (const auto* late = dynamic_cast<const TimedOut*>(&error)) timed_out_.emplace(*late);
      }
      // A caller that ran out of time says nothing about the server; its connection is closed.
      if (given_up_) return;
      router_.doubt();
      // A pool that could not even connect knows that itself; a connection of an earlier contact
      // says nothing about the present one.
      if (connection.connection && target.pool->holds(*connection.connection)) {
        target.pool->lost(error.what());
      }
      return;
    }
    judge(*target.pool, std::move(connection), indices);
  }

  /// Runs one pipeline: scripts that the connection's server may lack, the calls, and WAIT.
  void exchange(PooledConnection& connection, const Indices& left, bool asking,
                bool forgot_scripts) {
    // A repeated call still has its error reply, which does not apply to the repetition.
    for (const auto index : left) result_.replies[index] = {};
    auto& commands = connection.commands;
    commands.clear();
    const auto scripts = missing_scripts(connection, left);
    for (const auto* script : scripts) commands.add({"SCRIPT", "LOAD", script->source});
    for (const auto index : left) {
      if (asking) commands.add({"ASKING"});
      if (forgot_scripts && calls_[index].script != nullptr) {
        encode_with_source(calls_[index], commands);
      } else {
        encode(calls_[index], commands);
      }
    }
    if (wait_.wanted())
      commands.add({"WAIT", std::to_string(wait_.replicas), std::to_string(wait_.timeout.count())});

    std::vector<Reply> raw;
    raw.reserve(commands.size());
    try {
      pipeline(*connection.connection, commands, raw);
    } catch (const Error&) {
      take_replies(connection, scripts, left, asking, raw);
      throw;
    }
    take_replies(connection, scripts, left, asking, raw);
  }

  /// Records how much was transferred, and how fast.
  void pipeline(Connection& connection, const Commands& commands, std::vector<Reply>& raw) {
    const auto start = steady_clock::now();
    const auto moved_before = connection.moved();
    Patience patience = this->patience();
    try {
      connection.pipeline(commands, raw, patience);
    } catch (const TimedOut& late) {
      given_up_ = steady_clock::now() < patience.deadline();
      if (given_up_) throw TimedOut{late.what(), false};
      line_.timed_out(static_cast<std::size_t>(connection.moved() - moved_before));
      throw;
    }
    deadline_ = std::max(deadline_, patience.deadline());
    const auto bytes = static_cast<std::size_t>(connection.moved() - moved_before);
    line_.moved(bytes, steady_clock::now() - start);
  }

  std::vector<const Script*> missing_scripts(const PooledConnection& connection,
                                             const Indices& left) const {
    std::vector<const Script*> missing;
    for (const auto index : left) {
      const auto* script = calls_[index].script;
      if (script == nullptr || connection.has(*script)) continue;
      if (std::find(missing.begin(), missing.end(), script) == missing.end())
        missing.push_back(script);
    }
    return missing;
  }

  /// Assigns the replies that have arrived to their calls.
  void take_replies(PooledConnection& connection, const std::vector<const Script*>& scripts,
                    const Indices& left, bool asking, std::vector<Reply>& raw) {
    std::map<const Script*, std::string> refused;
    auto next = raw.begin();
    for (const auto* script : scripts) {
      if (next == raw.end()) return;
      if (next->is_error()) {
        refused.emplace(script, next->error_text());
      } else {
        connection.loaded.push_back(script);
      }
      ++next;
    }
    for (const auto index : left) {
      if (asking && next != raw.end()) ++next;
      if (next == raw.end()) return;
      // The reason why a script could not be loaded says more than NOSCRIPT.
      const auto why = refused.find(calls_[index].script);
      if (why != refused.end() && refusal_of(*next) == Refusal::no_script)
        *next = make_error_reply(why->second, {});
      answer(calls_[index], std::move(*next++));
    }
    if (next == raw.end() || !next->is_integer()) return;
    for (const auto index : left)
      if (!result_.replies[index].is_error())
        result_.replicas[index] = static_cast<int>(next->as_integer());
  }

  /// Evaluates what the replies say about the server, and decides whether the connection is reused.
  void judge(Pool& pool, PooledConnection connection, const Indices& indices) {
    auto worst = Refusal::none;
    std::string_view text;
    for (const auto index : indices) {
      const auto refusal = refusal_of(result_.replies[index]);
      if (refusal <= worst) continue;
      worst = refusal;
      text = result_.replies[index].error_text();
    }
    if (worst < Refusal::busy_server) {
      pool.answered();
    } else {
      router_.doubt();
      if (worst == Refusal::wrong_server) {
        if (pool.holds(*connection.connection)) pool.lost(printable(text));
        return;
      }
      pool.refused(printable(text));
    }
    pool.give_back(std::move(connection));
  }

  WaitedReplies finish() {
    if (!failure_) return std::move(result_);
    if (!any_answer_ && timed_out_) throw *timed_out_;
    if (!any_answer_) throw *failure_;
    const bool slow = timed_out_ && timed_out_->was_moving();
    for (auto& reply : result_.replies)
      if (reply.is_nothing())
        reply = make_error_reply(slow ? slow_code : lost_code, failure_->what());
    return std::move(result_);
  }

  Router& router_;
  LineRate& line_;
  const RedisOptions& options_;
  const std::span<const Call> calls_;
  const ReplicaWait wait_;
  const Duration silence_;  ///< How long the connection may be silent.
  SteadyTime deadline_;     ///< For attempts that have not begun yet.
  const SteadyTime last_;
  WaitedReplies result_;
  bool any_answer_ = false;
  std::optional<Error> failure_;
  std::optional<TimedOut> timed_out_;  ///< The failure, if it was a timeout.
  bool given_up_ = false;  ///< By the limit of the caller's calls, before its own deadline.
};

}  // namespace

WaitedReplies run_batch(Router& router, LineRate& line, const RedisOptions& options,
                        std::span<const Call> calls, ReplicaWait wait) {
  return Batch{router, line, options, calls, wait}.run();
}

}  // namespace taskmux::redis
