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

/// Resolves host names. getaddrinfo() has no timeout, so each name is looked up on a separate
/// thread, for which all callers that need the name wait, each until its own deadline. A look-up
/// that outlasts its callers continues, and its thread ends with it: nobody joins it, as the
/// system's resolver can't be interrupted. At most `most_threads` of them run at a time.
/// Thread-safe; the look-ups may outlive this object.
class Resolver {
 public:
  static constexpr std::size_t most_threads = 8;

  struct FreeAddresses {
    void operator()(addrinfo* addresses) const noexcept { freeaddrinfo(addresses); }
  };
  /// Addresses with port 0.
  using Addresses = std::shared_ptr<const addrinfo>;

  /// As getaddrinfo() for a stream socket: returns its error, or 0 and the addresses.
  using Lookup = std::function<int(const std::string& host, Addresses& addresses)>;

  Resolver() : Resolver{system_lookup} {}
  /// `lookup` must be callable from several threads, and must stay valid while one of its calls is
  /// running.
  explicit Resolver(Lookup lookup);

  /// Returns the addresses of `host`; null if there are none by `deadline`, with the reason in
  /// `cause`. A numeric address needs no thread.
  Addresses resolve(const std::string& host, SteadyTime deadline, std::string& cause);

  /// Returns the number of threads that run a look-up.
  std::size_t threads() const;

 private:
  struct Entry;
  struct State;

  static int system_lookup(const std::string& host, Addresses& addresses);

  const std::shared_ptr<State> state_;
};

}  // namespace taskmux::redis
