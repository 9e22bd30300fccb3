#include "redis/net/pool.hpp"

#include <chrono>
#include <random>
#include <utility>

#include "redis/net/call_limit.hpp"
#include "redis/net/epoch.hpp"

namespace taskmux::redis {
namespace {

using std::chrono::steady_clock;

}  // namespace

ReconnectBackoff::ReconnectBackoff(Duration shortest, Duration longest)
    : shortest_{shortest}, longest_{longest}, random_{std::random_device{}() | 1u} {}

void ReconnectBackoff::enter() {
  detail::MutexLock lock{mutex_};
  if (failures_ == 0) return;
  if (trying_ || steady_clock::now() < next_attempt_) throw Error{last_->errc, last_->text};
  trying_ = true;
}

void ReconnectBackoff::succeeded() {
  detail::MutexLock lock{mutex_};
  failures_ = 0;
  trying_ = false;
}

void ReconnectBackoff::failed(const Error& error) {
  detail::MutexLock lock{mutex_};
  trying_ = false;
  last_ = Failure{error.errc(), error.what()};
  const auto now = steady_clock::now();
  if (failures_ > 0 && now < next_attempt_) return;  // concurrent attempts failed, too
  ++failures_;
  next_attempt_ = now + pause();
}

void ReconnectBackoff::given_up() {
  detail::MutexLock lock{mutex_};
  trying_ = false;
}

SteadyTime::duration ReconnectBackoff::pause() {
  auto full = shortest_;
  for (int i = 1; i < failures_ && full < longest_; ++i) full *= 2;
  full = std::min(full, longest_);
  random_ ^= random_ << 13;
  random_ ^= random_ >> 7;
  random_ ^= random_ << 17;
  const auto half = static_cast<std::uint64_t>(full.count() / 2);
  return full - Duration{static_cast<Duration::rep>(half == 0 ? 0 : random_ % half)};
}

Pool::Pool(std::string name, const RedisOptions& options, std::atomic<std::uint64_t>& epoch,
           Connector connector, Endpoint endpoint)
    : name_{std::move(name)},
      endpoint_{std::move(endpoint)},
      options_{options},
      epoch_{epoch},
      connector_{std::move(connector)},
      backoff_{options.reconnect_min, options.reconnect_max} {}

PooledConnection Pool::take(SteadyTime connect_deadline) {
  for (;;) {
    PooledConnection found;
    {
      detail::MutexLock lock{mutex_};
      if (idle_.empty()) break;
      found = std::move(idle_.back());
      idle_.pop_back();
    }
    if (found.connection->healthy()) return found;
  }
  PooledConnection made;
  made.connection = connect(connect_deadline);
  return made;
}

std::unique_ptr<Connection> Pool::connect(SteadyTime deadline) {
  backoff_.enter();
  const std::uint64_t before = contact();
  try {
    auto connection = connector_(deadline);
    backoff_.succeeded();
    note_server(*connection, before);
    return connection;
  } catch (const Error& error) {
    // The limit of the caller's calls ended it before its own deadline: the server is not to blame.
    if (const SteadyTime now = steady_clock::now(); call_limit() <= now && now < deadline) {
      backoff_.given_up();
      throw;
    }
    backoff_.failed(error);
    lost(error.what());
    throw;
  } catch (...) {
    backoff_.failed(Error{Errc::unavailable, "connect to Redis: out of memory"});
    throw;
  }
}

void Pool::give_back(PooledConnection connection) {
  connection.commands.clear();
  detail::MutexLock lock{mutex_};
  const bool stale = connection.connection->contact() != contact_;
  if (stale || idle_.size() >= options_.max_idle_connections) return;
  idle_.push_back(std::move(connection));
}

void Pool::lost(std::string_view cause) {
  std::vector<PooledConnection> closed;
  {
    detail::MutexLock lock{mutex_};
    ++contact_;
    closed.swap(idle_);
  }
  interrupted(cause);
}

void Pool::refused(std::string_view cause) { interrupted(cause); }

void Pool::answered() {
  if (!interrupted_.load(std::memory_order_relaxed) || !interrupted_.exchange(false)) return;
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  options_.logger(LogLevel::info, "contact with Redis at " + name_ + " is restored");
}

void Pool::interrupted(std::string_view cause) {
  epoch_.fetch_add(1, std::memory_order_acq_rel);
  if (interrupted_.exchange(true)) return;
  options_.logger(LogLevel::warning,
                  "contact with Redis at " + name_ + " is interrupted: " + std::string{cause});
}

/// If the server is a different one, even at the same address, contact was interrupted.
/// `contact` is the contact in which the connection was requested.
void Pool::note_server(Connection& connection, std::uint64_t contact) {
  const std::string& run_id = connection.server().run_id;
  std::vector<PooledConnection> closed;
  {
    detail::MutexLock lock{mutex_};
    connection.set_contact(contact);
    // A server that does not report its run id may be a different one after each interruption.
    const bool unknown = run_id.empty() && !in_contact();
    if (run_id == run_id_ && !unknown) return;
    const bool first = run_id_.empty() && !unknown;
    run_id_ = run_id;
    if (first) return;
    connection.set_contact(++contact_);
    closed.swap(idle_);
  }
  epoch_.fetch_add(another_server, std::memory_order_acq_rel);
}

bool Pool::holds(const Connection& connection) { return connection.contact() == contact(); }

std::uint64_t Pool::contact() {
  detail::MutexLock lock{mutex_};
  return contact_;
}

}  // namespace taskmux::redis
