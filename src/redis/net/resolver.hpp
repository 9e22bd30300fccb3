#pragma once

#include <netdb.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "taskmux/clock.hpp"
#include "taskmux/detail/base/mutex.hpp"

namespace taskmux::redis {

/// Looks up the addresses of hosts. getaddrinfo() knows no timeout, so each name is looked up on a thread
/// of its own, which all who want that name meanwhile wait for, each until its deadline. A look-up that
/// outlasts its callers goes on, and its thread ends with it: nobody joins it, as the system's resolver
/// can't be interrupted. There are `most_threads` of them at a time. Thread-safe; the look-ups may outlive
/// this.
class Resolver {
 public:
  static constexpr std::size_t most_threads = 8;

  struct FreeAddresses {
    void operator()(addrinfo* addresses) const noexcept { freeaddrinfo(addresses); }
  };
  /// With port 0.
  using Addresses = std::shared_ptr<const addrinfo>;

  /// As getaddrinfo() of a stream socket: an error of its, or 0 and the addresses.
  using Lookup = std::function<int(const std::string& host, Addresses& addresses)>;

  Resolver() : Resolver{system_lookup} {}
  /// `lookup` must be callable from several threads, and as long as one of its calls lasts.
  explicit Resolver(Lookup lookup);

  /// The addresses of `host`; null if there are none by `deadline`, with the reason in `cause`. A numeric
  /// address needs no thread.
  Addresses resolve(const std::string& host, SteadyTime deadline, std::string& cause);

  /// Threads that look something up.
  std::size_t threads() const;

 private:
  struct Entry;
  struct State;

  static int system_lookup(const std::string& host, Addresses& addresses);

  const std::shared_ptr<State> state_;
};

}  // namespace taskmux::redis
