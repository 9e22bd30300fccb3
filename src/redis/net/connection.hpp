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

/// The connection was closed before any byte of the request was sent: nothing can have been
/// executed, and the request may be repeated on another connection.
class NothingSent : public Error {
 public:
  using Error::Error;
};

/// One connection to one server, with RESP2. The constructor resolves the host, connects, logs in
/// and checks the version. Deadlines are instants of the machine's steady clock and apply to a call
/// as a whole; pipeline() can also take a Patience, whose deadline is extended while bytes are
/// transferred.
///
/// A call that fails leaves the connection broken, since later replies could not be matched to
/// their requests: every later call throws Error{unavailable}. Writes never raise SIGPIPE.
///
/// Not thread-safe, except wake().
class Connection {
 public:
  /// Throws Error: unavailable (no such host, refused, not in time, loading), unauthorized,
  /// protocol (not a Redis server), unsupported (older than 6.2), invalid_argument (no such
  /// database). `resolver` resolves the host name; without one, the name is resolved for this
  /// connection only.
  Connection(Endpoint endpoint, const Login& login, SteadyTime deadline,
             Resolver* resolver = nullptr);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Sends `commands` and appends one reply for each to `replies`, in order; error replies count as
  /// replies. Reads while it writes, so that a pipeline of any length can't block itself. Throws
  /// Error{unavailable} if the peer has closed the connection, and TimedOut when `patience` ends;
  /// the replies received until then are appended. It is not known whether the other commands were
  /// executed, except for NothingSent. Throws Error{protocol} for bytes that are not RESP, or are
  /// nested too deeply.
  void pipeline(const Commands& commands, std::vector<Reply>& replies, Patience& patience);
  void pipeline(const Commands& commands, std::vector<Reply>& replies, Patience&& patience) {
    pipeline(commands, replies, patience);
  }

  /// As above, but returns all replies or none.
  std::vector<Reply> pipeline(const Commands& commands, SteadyTime deadline);

  /// Runs one command. Throws error_of(<name of the command>, reply) if the reply is an error.
  Reply command(std::initializer_list<std::string_view> args, SteadyTime deadline);

  /// Sends without reading replies: for SUBSCRIBE, whose replies are read by receive().
  void send(const Commands& commands, SteadyTime deadline);

  /// Returns the next reply to send(), or the next message that the server pushes; nullopt at
  /// `deadline`, or when woken. Throws Error{unavailable} if the peer has closed the connection. A
  /// reply that has already arrived is returned even after the deadline.
  std::optional<Reply> receive(SteadyTime deadline);

  /// Ends the receive() that is waiting, or the next one. May be called on any thread.
  void wake() noexcept;

  /// Returns whether it can take another request: nothing has failed, the peer has not closed the
  /// connection, and nothing unexpected has arrived. One system call, no round trip.
  bool healthy() const noexcept;

  /// Returns the number of bytes written and read since the connection was made.
  std::uint64_t moved() const noexcept { return moved_; }

  /// Returns the id for CLIENT TRACKING ... REDIRECT, as of login.
  std::int64_t client_id() const noexcept { return client_id_; }
  const Endpoint& endpoint() const noexcept { return endpoint_; }
  const ServerFacts& server() const noexcept { return server_; }

  /// The contact of its Pool to which it belongs, for Pool::holds(). Set once, by the pool.
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
  /// As wait(), for a call; returns false when `patience` ends.
  bool wait_patiently(bool for_write, Patience& patience);
  /// Returns the number of bytes that were written but not yet accepted by the peer.
  std::size_t bytes_in_kernel() const noexcept;
  /// Writes what the socket accepts now and removes it from `bytes`; returns false if the peer has
  /// closed the connection.
  bool write_some(std::string_view& bytes);
  /// Reads what has arrived; returns false if the peer has closed the connection.
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
