#pragma once

#include <hiredis/hiredis.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "redis/net/reply.hpp"
#include "redis/net/resolver.hpp"
#include "taskmux/clock.hpp"
#include "taskmux/error.hpp"
#include "taskmux/task.hpp"

namespace taskmux::redis {

/// Commands, encoded as they go over the wire. Arguments may hold any bytes and are copied once,
/// into this.
class Commands {
 public:
  /// Adds one command: `commands.add({"LPUSH", key, id})`.
  Commands& add(std::initializer_list<std::string_view> args) {
    return add(std::span<const std::string_view>{args.begin(), args.size()});
  }
  Commands& add(std::span<const std::string_view> args) { return add_range(args); }
  Commands& add(std::span<const std::string> args) { return add_range(args); }

  /// Begins a command of `argument_count` arguments (its name included), each of which must follow
  /// by arg().
  Commands& begin(std::size_t argument_count);
  Commands& arg(std::string_view bytes);

  std::size_t size() const noexcept { return count_; }  ///< Commands.
  bool empty() const noexcept { return count_ == 0; }
  std::string_view bytes() const noexcept { return bytes_; }
  /// Empties it, and keeps its memory unless that is large.
  void clear();

 private:
  template <typename Args>
  Commands& add_range(const Args& args) {
    begin(args.size());
    for (const auto& each : args) arg(each);
    return *this;
  }
  void add_header(char kind, std::size_t number);

  std::string bytes_;
  std::size_t count_ = 0;
};

/// Where one server listens.
struct Endpoint {
  std::string host{};  ///< Name, IPv4 or IPv6.
  std::uint16_t port = 0;
  std::string socket_path{};  ///< Not empty: a Unix socket, and no host or port.

  bool operator==(const Endpoint&) const = default;
  /// For error texts: `host:port`, `[::1]:port`, or the path.
  std::string to_string() const;
};

/// How to log in to a server.
struct Login {
  std::string user{};
  std::string password{};
  int database = 0;
  std::string client_name{};  ///< Empty: none is set.
};

/// What a server says of itself at login.
struct ServerFacts {
  std::string version{};  ///< Such as "7.0.15"; empty if an ACL forbids INFO.
  std::string run_id{};   ///< Changes with each start of the server; empty if not known.
  std::string mode{};     ///< "standalone", "cluster" or "sentinel"; empty if not known.
};

/// The connection was found closed before a byte of a request left: nothing can have been executed,
/// and the request may be repeated on another.
class NothingSent : public Error {
 public:
  using Error::Error;
};

/// A call was given up: its time was over before all replies had come.
class TimedOut : public Error {
 public:
  TimedOut(const std::string& text, bool was_moving)
      : Error{Errc::unavailable, text}, was_moving_{was_moving} {}

  /// Whether bytes still moved: the line is too slow for the call, rather than silent.
  bool was_moving() const noexcept { return was_moving_; }

 private:
  bool was_moving_;
};

/// How long a call waits. It ends at `deadline()`, which each byte that moves, in either direction, puts
/// off to `after_progress` later, but never beyond `last`. A plain value of one call.
class Patience {
 public:
  using Span = SteadyTime::duration;

  /// Nothing puts the deadline off.
  Patience(SteadyTime deadline) : Patience{deadline, Span{0}, deadline} {}
  Patience(SteadyTime deadline, Span after_progress, SteadyTime last)
      : deadline_{std::min(deadline, last)}, after_progress_{after_progress}, last_{last} {}

  SteadyTime deadline() const noexcept { return deadline_; }
  /// Whether the call ran into its last limit, although bytes moved.
  bool was_moving() const noexcept {
    return moved_ && after_progress_ > Span{0} && deadline_ == last_;
  }

  void progressed(SteadyTime now) {
    moved_ = true;
    deadline_ = std::max(deadline_, std::min(now + after_progress_, last_));
  }

  /// When to look next whether bytes have moved that the kernel holds.
  SteadyTime next_look(SteadyTime now) const {
    constexpr Span longest = std::chrono::milliseconds{100};
    const Span step = after_progress_ > Span{0} ? after_progress_ / 8 : longest;
    return std::min(deadline_, now + std::min(step, longest));
  }

 private:
  SteadyTime deadline_;
  Span after_progress_;
  SteadyTime last_;
  bool moved_ = false;
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
