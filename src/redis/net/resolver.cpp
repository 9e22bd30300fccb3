#include "redis/net/resolver.hpp"

#include <sys/socket.h>

#include <condition_variable>
#include <new>
#include <system_error>
#include <utility>

#include "redis/net/call_limit.hpp"
#include "taskmux/detail/base/thread.hpp"

namespace taskmux::redis {
namespace {

int look_up(const std::string& host, int flags, Resolver::Addresses& addresses) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV | flags;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), "0", &hints, &found);
  if (error == 0) addresses = Resolver::Addresses{found, Resolver::FreeAddresses{}};
  return error;
}

}  // namespace

/// One look-up, for which several callers may wait.
struct Resolver::Entry {
  bool done = false;
  int error = 0;
  Addresses addresses{};
};

/// The state that look-ups and waiting callers share.
struct Resolver::State : std::enable_shared_from_this<State> {
  explicit State(Lookup wanted) : lookup{std::move(wanted)} {}

  /// Returns the look-up of `host`; null, with the reason in `cause`, if none can be started.
  std::shared_ptr<Entry> join_or_start(const std::string& host, std::string& cause)
      TASKMUX_REQUIRES(mutex);

  const Lookup lookup;
  detail::Mutex mutex{};
  std::condition_variable changed{};
  std::map<std::string, std::shared_ptr<Entry>> running TASKMUX_GUARDED_BY(mutex){};
};

Resolver::Resolver(Lookup lookup) : state_{std::make_shared<State>(std::move(lookup))} {}

int Resolver::system_lookup(const std::string& host, Addresses& addresses) {
  return look_up(host, 0, addresses);
}

std::shared_ptr<Resolver::Entry> Resolver::State::join_or_start(const std::string& host,
                                                                std::string& cause) {
  const auto found = running.find(host);
  if (found != running.end()) return found->second;
  if (running.size() >= most_threads) {
    cause = "too many look-ups of other hosts hang";
    return nullptr;
  }
  const auto entry = std::make_shared<Entry>();
  running.emplace(host, entry);
  try {
    const auto look = [state = shared_from_this(), entry, host] {
      Addresses addresses;
      int error = EAI_MEMORY;
      try {
        error = state->lookup(host, addresses);
      } catch (const std::bad_alloc&) {  // it stays EAI_MEMORY
      }
      const detail::MutexLock lock{state->mutex};
      entry->error = error;
      entry->addresses = std::move(addresses);
      entry->done = true;
      state->running.erase(host);
      state->changed.notify_all();
    };
    // The thread may outlive this object, and so may the shared state.
    detail::start_thread("tmx-resolver", detail::all_signals(), {}, look).detach();
  } catch (const std::system_error& error) {
    running.erase(host);
    cause = "can't start a thread to resolve the host: " + error.code().message();
    return nullptr;
  } catch (...) {
    running.erase(host);
    throw;
  }
  return entry;
}

Resolver::Addresses Resolver::resolve(const std::string& host, SteadyTime deadline,
                                      std::string& cause) {
  Addresses addresses;
  if (look_up(host, AI_NUMERICHOST, addresses) == 0) return addresses;

  detail::MutexLock lock{state_->mutex};
  const auto entry = state_->join_or_start(host, cause);
  if (!entry) return nullptr;
  while (!entry->done && !is_over(deadline))
    lock.wait_until(state_->changed, end_of_wait(deadline));
  if (!entry->done) {
    cause = "the host's name was not resolved in time";
  } else if (entry->error != 0) {
    cause = std::string{"can't resolve the host: "} + gai_strerror(entry->error);
  }
  return entry->addresses;
}

std::size_t Resolver::threads() const {
  const detail::MutexLock lock{state_->mutex};
  return state_->running.size();
}

}  // namespace taskmux::redis
