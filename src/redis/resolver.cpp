#include "redis/resolver.hpp"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <utility>

#include "redis/call_limit.hpp"

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

/// Starts a thread that gets none of the process's signals.
void start_detached(std::function<void()> body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  try {
    std::thread{std::move(body)}.detach();
  } catch (...) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    throw;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace

/// One look-up, which several may wait for.
struct Resolver::Entry {
  bool done = false;
  int error = 0;
  Addresses addresses{};
};

/// What look-ups and those who wait share.
struct Resolver::State {
  explicit State(Lookup wanted) : lookup{std::move(wanted)} {}

  const Lookup lookup;
  std::mutex mutex{};
  std::condition_variable changed{};
  std::map<std::string, std::shared_ptr<Entry>> running{};
};

Resolver::Resolver(Lookup lookup) : state_{std::make_shared<State>(std::move(lookup))} {}

int Resolver::system_lookup(const std::string& host, Addresses& addresses) {
  return look_up(host, 0, addresses);
}

std::shared_ptr<Resolver::Entry> Resolver::join_or_start(const std::string& host,
                                                         std::string& cause) {
  const auto found = state_->running.find(host);
  if (found != state_->running.end()) return found->second;
  if (state_->running.size() >= most_threads) {
    cause = "too many look-ups of other hosts don't end";
    return nullptr;
  }
  const auto entry = std::make_shared<Entry>();
  state_->running.emplace(host, entry);
  try {
    start_detached([state = state_, entry, host] {
      Addresses addresses;
      int error = EAI_MEMORY;
      try {
        error = state->lookup(host, addresses);
      } catch (const std::bad_alloc&) {  // it stays EAI_MEMORY
      }
      const std::lock_guard lock{state->mutex};
      entry->error = error;
      entry->addresses = std::move(addresses);
      entry->done = true;
      state->running.erase(host);
      state->changed.notify_all();
    });
  } catch (const std::system_error& error) {
    state_->running.erase(host);
    cause = "can't start a thread to resolve the host: " + error.code().message();
    return nullptr;
  } catch (...) {
    state_->running.erase(host);
    throw;
  }
  return entry;
}

Resolver::Addresses Resolver::resolve(const std::string& host, SteadyTime deadline,
                                      std::string& cause) {
  Addresses addresses;
  if (look_up(host, AI_NUMERICHOST, addresses) == 0) return addresses;

  std::unique_lock lock{state_->mutex};
  const auto entry = join_or_start(host, cause);
  if (!entry) return nullptr;
  while (!entry->done && !is_over(deadline))
    state_->changed.wait_until(lock, end_of_wait(deadline));
  if (!entry->done) {
    cause = "the host's name was not resolved in time";
  } else if (entry->error != 0) {
    cause = std::string{"can't resolve the host: "} + gai_strerror(entry->error);
  }
  return entry->addresses;
}

std::size_t Resolver::threads() const {
  const std::lock_guard lock{state_->mutex};
  return state_->running.size();
}

}  // namespace taskmux::redis
