#pragma once

#include <hiredis/hiredis.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redis/net/commands.hpp"
#include "redis/net/endpoint.hpp"
#include "redis/net/patience.hpp"
#include "redis/net/reply.hpp"
#include "redis/net/resolver.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/error.hpp"

namespace taskmux::redis {

/// The connection was found closed before a byte of a request left: nothing can have been executed,
/// and the request may be repeated on another.
class NothingSent : public Error {
 public:
  using Error::Error;
};

/// One connection to one server, made by its constructor: resolved, connected, logged in, the
/// version checked. RESP2. Deadlines are of the machine's steady clock and bind a call as a whole;
/// pipeline() can also take a Patience, whose deadline bytes that move put off.
///
/// A call that fails leaves it broken: what the server still sends can't be told apart any more, so
/// that every later call throws Error{unavailable}. Writes never raise SIGPIPE.
///
/// Not thread-safe, but for wake().
class Connection {
 public:
  /// Throws Error: unavailable (no such host, refused, not in time, loading), unauthorized,
  /// protocol (not a Redis server), unsupported (older than 6.2), invalid_argument (no such
  /// database). `resolver` is used for the host's name; without one it is looked up for this alone.
  Connection(Endpoint endpoint, const Login& login, SteadyTime deadline,
             Resolver* resolver = nullptr);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Sends `commands` and appends one reply for each to `replies`, in order; error replies are
  /// replies too. Reads while it writes, so that a pipeline of any length can't block itself.
  /// Throws Error{unavailable} when the peer is gone, and TimedOut when `patience` ends, with the
  /// replies that came until then appended; whether the others were executed is not known, except
  /// for NothingSent. Throws Error{protocol} for bytes that are not RESP, or nest too deep.
  void pipeline(const Commands& commands, std::vector<Reply>& replies, Patience& patience);
  void pipeline(const Commands& commands, std::vector<Reply>& replies, Patience&& patience) {
    pipeline(commands, replies, patience);
  }

  /// As above, with all replies or none.
  std::vector<Reply> pipeline(const Commands& commands, SteadyTime deadline);

  /// One command; throws error_of(<name of the command>, reply) if the reply is an error.
  Reply command(std::initializer_list<std::string_view> args, SteadyTime deadline);

  /// Sends without reading: for SUBSCRIBE, whose replies come by receive().
  void send(const Commands& commands, SteadyTime deadline);

  /// The next reply that the server sends by itself or to send(); nullopt at `deadline`, and when
  /// woken. Throws Error{unavailable} when the peer is gone. A reply that is already here is
  /// returned even past the deadline.
  std::optional<Reply> receive(SteadyTime deadline);

  /// Ends the receive() that waits at the moment, or the next one. From any thread.
  void wake() noexcept;

  /// Whether it can take another request: nothing has failed, the peer has not closed, and nothing
  /// unasked for has arrived. One system call, no round trip.
  bool healthy() const noexcept;

  /// Bytes that were written and read since it was made.
  std::uint64_t moved() const noexcept { return moved_; }

  /// The id for CLIENT TRACKING ... REDIRECT, as of login.
  std::int64_t client_id() const noexcept { return client_id_; }
  const Endpoint& endpoint() const noexcept { return endpoint_; }
  const ServerFacts& server() const noexcept { return server_; }

  /// The contact of its Pool which it belongs to, for Pool::holds(). Set once, by the pool.
  std::uint64_t contact() const noexcept { return contact_; }
  void set_contact(std::uint64_t contact) noexcept { contact_ = contact; }

 private:
  class Descriptor {
   public:
    Descriptor() noexcept = default;
    explicit Descriptor(int fd) noexcept : fd_{fd} {}
    Descriptor(Descriptor&& other) noexcept : fd_{std::exchange(other.fd_, -1)} {}
    Descriptor& operator=(Descriptor&& other) noexcept;
    ~Descriptor();
    int get() const noexcept { return fd_; }

   private:
    int fd_ = -1;
  };
  struct FreeReader {
    void operator()(redisReader* reader) const noexcept { redisReaderFree(reader); }
  };
  enum class Readiness { ready, woken, timed_out };

  void connect(SteadyTime deadline, Resolver* resolver);
  void connect_to(const sockaddr* address, socklen_t length, SteadyTime deadline);
  void log_in(const Login& login, SteadyTime deadline);
  void check_server(ReplyView info);
  void ask_kind_of_server(ReplyView refusal, SteadyTime deadline);
  void check_version();
  void require_usable() const;
  Readiness wait(bool for_write, bool for_wake, SteadyTime deadline);
  /// As wait(), for a call; false at the end of `patience`.
  bool wait_patiently(bool for_write, Patience& patience);
  /// Bytes that were written and that the peer has not taken yet.
  std::size_t bytes_in_kernel() const noexcept;
  /// Writes what the socket takes now and removes it from `bytes`; false if the peer is gone.
  bool write_some(std::string_view& bytes);
  /// Reads what is there now; false if the peer has closed.
  bool read_some();
  std::optional<Reply> next_reply();
  std::string failure(std::string_view cause) const;
  [[noreturn]] void fail(Errc errc, const std::string& cause);
  [[noreturn]] void fail_closed(bool nothing_sent);

  Endpoint endpoint_;
  ServerFacts server_;
  std::int64_t client_id_ = 0;
  std::uint64_t contact_ = 0;
  std::uint64_t moved_ = 0;
  bool broken_ = false;
  std::string_view operation_ = "connect to";
  std::unique_ptr<redisReader, FreeReader> reader_;
  Descriptor wakeup_;
  Descriptor socket_;
};

}  // namespace taskmux::redis
