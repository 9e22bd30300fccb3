#include "redis/net/connection.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <new>
#include <system_error>

#include "redis/net/call_limit.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

constexpr std::size_t read_bytes = 16 * 1024;
constexpr std::size_t longest_unparsed = std::size_t{1} << 30;  // Redis's own limit is half of it
constexpr int most_nested = 7;  // CLUSTER SLOTS nests 4 deep; no other reply nests deeper.
constexpr std::size_t most_elements = std::size_t{1} << 22;

std::string cause_of(int error) {
  if (error == ECONNREFUSED) return "connection refused";
  if (error == ECONNRESET || error == EPIPE) return "connection closed by the server";
  auto text = std::generic_category().message(error);
  if (!text.empty() && text[0] >= 'A' && text[0] <= 'Z') text[0] = static_cast<char>(text[0] + 32);
  return text;
}

timespec time_until(SteadyTime deadline) {
  const auto left = std::clamp<steady_clock::duration>(deadline - steady_clock::now(), 0s, 1h);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
  timespec result{};
  result.tv_sec = static_cast<time_t>(seconds.count());
  result.tv_nsec = static_cast<long>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(left - seconds).count());
  return result;
}

const redisReplyObjectFunctions& default_functions() {
  static const redisReplyObjectFunctions functions = [] {
    const std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader{redisReaderCreate(),
                                                                          &redisReaderFree};
    if (!reader) throw std::bad_alloc{};
    return *reader->fn;
  }();
  return functions;
}

/// A peer must not be able to make us allocate, or nest, without bound; from version 1.0 on,
/// hiredis itself has no bound that holds for all of its releases. A template, as the type of
/// `count` differs between versions of hiredis.
template <typename Count>
void* create_bounded_array(const redisReadTask* task, Count count) {
  if (static_cast<std::size_t>(count) > most_elements) return nullptr;
  int depth = 0;
  for (const redisReadTask* outer = task->parent; outer != nullptr; outer = outer->parent) ++depth;
  if (depth > most_nested) return nullptr;
  return default_functions().createArray(task, count);
}

redisReplyObjectFunctions* bounded_functions() {
  static redisReplyObjectFunctions functions = [] {
    auto bounded = default_functions();
    bounded.createArray = create_bounded_array;
    return bounded;
  }();
  return &functions;
}

void set_option(int socket, int level, int option, int value) {
  // Fails on sockets other than TCP, where it is not needed.
  static_cast<void>(setsockopt(socket, level, option, &value, sizeof value));
}

/// Sends small packets at once, and detects within half a minute that a silent peer is gone.
void tune_tcp(int socket) {
  set_option(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  set_option(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  set_option(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
}

/// On loopback, connecting to a port of the ephemeral range without a listener can connect a socket
/// to itself.
bool connected_to_itself(int socket) {
  sockaddr_storage here{};
  sockaddr_storage there{};
  socklen_t here_length = sizeof here;
  socklen_t there_length = sizeof there;
  return getsockname(socket, reinterpret_cast<sockaddr*>(&here), &here_length) == 0 &&
         getpeername(socket, reinterpret_cast<sockaddr*>(&there), &there_length) == 0 &&
         here.ss_family != AF_UNIX && here_length == there_length &&
         std::memcmp(&here, &there, here_length) == 0;
}

/// Returns the address of `info` with another port.
sockaddr_storage with_port(const addrinfo& info, std::uint16_t port) {
  sockaddr_storage address{};
  std::memcpy(&address, info.ai_addr, std::min<std::size_t>(info.ai_addrlen, sizeof address));
  if (address.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
  } else if (address.ss_family == AF_INET) {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
  }
  return address;
}

/// Returns the value of `field` in an INFO reply; empty if it is missing.
std::string_view info_field(std::string_view info, std::string_view field) {
  for (std::size_t at = info.find(field); at != std::string_view::npos;
       at = info.find(field, at + 1)) {
    const auto value = at + field.size();
    const bool whole = (at == 0 || info[at - 1] == '\n') && value < info.size();
    if (whole && info[value] == ':')
      return info.substr(value + 1, info.find_first_of("\r\n", value) - value - 1);
  }
  return {};
}

bool at_least_6_2(std::string_view version) {
  int major = 0;
  int minor = 0;
  const auto end = version.data() + version.size();
  const auto [dot, error] = std::from_chars(version.data(), end, major);
  if (error == std::errc{} && dot != end && *dot == '.') std::from_chars(dot + 1, end, minor);
  return major > 6 || (major == 6 && minor >= 2);
}

}  // namespace

Connection::Descriptor& Connection::Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Connection::Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

Connection::Connection(Endpoint endpoint, const Login& login, SteadyTime deadline,
                       Resolver* resolver)
    : endpoint_{std::move(endpoint)},
      reader_{redisReaderCreateWithFunctions(bounded_functions())},
      wakeup_{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)} {
  if (!reader_) throw std::bad_alloc{};
  if (wakeup_.get() < 0) fail(Errc::unavailable, cause_of(errno));
  connect(deadline, resolver);
  operation_ = "log in to";
  log_in(login, deadline);
  operation_ = "call to";
}

Connection::~Connection() = default;

void Connection::connect(SteadyTime deadline, Resolver* resolver) {
  if (!endpoint_.socket_path.empty()) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (endpoint_.socket_path.size() >= sizeof address.sun_path)
      fail(Errc::invalid_argument, "the path is too long for a socket");
    endpoint_.socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
    connect_to(reinterpret_cast<const sockaddr*>(&address), sizeof address, deadline);
    return;
  }
  std::string cause;
  const auto addresses = resolver != nullptr ? resolver->resolve(endpoint_.host, deadline, cause)
                                             : Resolver{}.resolve(endpoint_.host, deadline, cause);
  if (!addresses) fail(Errc::unavailable, cause);
  int left = 0;
  for (const auto* each = addresses.get(); each != nullptr; each = each->ai_next) ++left;
  for (const auto* each = addresses.get();; each = each->ai_next, --left) {
    const auto now = steady_clock::now();
    try {
      const sockaddr_storage address = with_port(*each, endpoint_.port);
      connect_to(reinterpret_cast<const sockaddr*>(&address), each->ai_addrlen,
                 now + (deadline - now) / left);
      return;
    } catch (const Error&) {
      if (each->ai_next == nullptr) throw;
      broken_ = false;
    }
  }
}

void Connection::connect_to(const sockaddr* address, socklen_t length, SteadyTime deadline) {
  const int family = address->sa_family;
  socket_ = Descriptor{::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)};
  if (socket_.get() < 0) fail(Errc::unavailable, cause_of(errno));
  if (family != AF_UNIX) tune_tcp(socket_.get());

  while (::connect(socket_.get(), address, length) != 0) {
    if (errno == EINPROGRESS || errno == EINTR) break;
    if (errno != EAGAIN) fail(Errc::unavailable, cause_of(errno));
    // The backlog of a Unix socket is full: it can't be polled, so only time can be waited for.
    if (is_over(deadline)) fail(Errc::unavailable, "not connected in time");
    poll(nullptr, 0, 2);
  }
  if (wait(true, false, deadline) == Readiness::timed_out)
    fail(Errc::unavailable, "not connected in time");
  int error = 0;
  socklen_t error_length = sizeof error;
  if (getsockopt(socket_.get(), SOL_SOCKET, SO_ERROR, &error, &error_length) != 0) error = errno;
  if (error == 0 && connected_to_itself(socket_.get())) error = ECONNREFUSED;
  if (error != 0) fail(Errc::unavailable, cause_of(error));
}

void Connection::log_in(const Login& login, SteadyTime deadline) {
  Commands commands;
  const bool authenticate = !login.user.empty() || !login.password.empty();
  if (authenticate && login.user.empty()) commands.add({"AUTH", login.password});
  if (authenticate && !login.user.empty()) commands.add({"AUTH", login.user, login.password});
  if (login.database != 0) commands.add({"SELECT", std::to_string(login.database)});
  const auto optional_from = commands.size();
  if (!login.client_name.empty()) commands.add({"CLIENT", "SETNAME", login.client_name});
  commands.add({"CLIENT", "ID"});
  commands.add({"INFO", "server"});

  const auto check_reply = [&](std::size_t index, ReplyView reply) {
    if (!reply.is_error()) return;
    const auto errc = errc_of(reply);
    // An ACL, or a hosting service, may forbid optional commands.
    const bool optional = index >= optional_from;
    if (optional && (reply.error_code() == "NOPERM" || errc == Errc::protocol)) return;
    broken_ = true;
    const auto where = "log in to Redis at " + endpoint_.to_string();
    // An error without a code may repeat the command, and the password with it.
    if (errc == Errc::protocol && authenticate && index == 0)
      throw Error{Errc::unauthorized, where + ": the server refused AUTH"};
    const bool selecting = login.database != 0 && index + 1 == optional_from;
    if (errc == Errc::protocol && selecting)
      throw Error{Errc::invalid_argument, error_of(where, reply).what()};
    throw error_of(where, reply);
  };
  std::vector<Reply> replies;
  try {
    pipeline(commands, replies, deadline);
  } catch (const Error&) {
    // A server that closes the connection at once (too many clients, protected mode) sends the
    // reason first.
    for (std::size_t i = 0; i < replies.size(); ++i) check_reply(i, replies[i]);
    throw;
  }
  for (std::size_t i = 0; i < replies.size(); ++i) check_reply(i, replies[i]);
  const auto& id = replies[replies.size() - 2];
  if (id.is_integer()) client_id_ = id.as_integer();
  if (replies.back().is_error()) {
    ask_kind_of_server(replies.back(), deadline);
  } else {
    check_server(replies.back());
  }
}

/// Used if INFO is refused: HELLO, which no ACL can forbid, returns less.
void Connection::ask_kind_of_server(ReplyView refusal, SteadyTime deadline) {
  const auto hello = std::move(pipeline(Commands{}.add({"HELLO"}), deadline).front());
  for (std::size_t i = 0; hello.is_array() && i + 1 < hello.size(); i += 2) {
    if (!hello[i].is_string() || !hello[i + 1].is_string()) continue;
    if (hello[i].as_string() == "version") server_.version = std::string{hello[i + 1].as_string()};
    if (hello[i].as_string() == "mode") server_.mode = std::string{hello[i + 1].as_string()};
  }
  if (!server_.version.empty()) return check_version();
  // The server supports neither command, and not because of an ACL.
  if (refusal.error_code() != "NOPERM") fail(Errc::protocol, "this is not a Redis server");
}

void Connection::check_version() {
  if (!at_least_6_2(server_.version))
    fail(Errc::unsupported,
         "the server is Redis " + printable(server_.version) + "; 6.2 or newer is required");
}

void Connection::check_server(ReplyView info) {
  if (!info.is_string()) fail(Errc::protocol, "this is not a Redis server");
  const auto text = info.as_string();
  auto mode = info_field(text, "redis_mode");
  if (mode.empty()) mode = info_field(text, "server_mode");  // the name in Valkey
  server_ = {.version = std::string{info_field(text, "redis_version")},
             .run_id = std::string{info_field(text, "run_id")},
             .mode = std::string{mode}};
  if (server_.version.empty()) fail(Errc::protocol, "this is not a Redis server");
  check_version();
}

void Connection::pipeline(const Commands& commands, std::vector<Reply>& replies,
                          Patience& patience) {
  require_usable();
  const auto before = replies.size();
  const auto wanted = before + commands.size();
  auto unsent = commands.bytes();
  auto moved_before = moved_;
  for (bool writable = true, open = true;;) {
    if (writable && !unsent.empty()) writable = write_some(unsent);
    while (replies.size() < wanted) {
      auto reply = next_reply();
      if (!reply) break;
      replies.push_back(std::move(*reply));
    }
    if (replies.size() == wanted && unsent.empty()) return;
    if (!open || replies.size() == wanted)
      fail_closed(unsent.size() == commands.bytes().size() && replies.size() == before);
    if (moved_ != moved_before) patience.progressed(steady_clock::now());
    moved_before = moved_;
    if (!wait_patiently(writable && !unsent.empty(), patience)) {
      broken_ = true;
      throw TimedOut{failure(patience.was_moving()
                                 ? "no complete reply in time: the connection is too slow for the call"
                                 : "no answer in time"),
                     patience.was_moving()};
    }
    open = read_some();
  }
}

std::vector<Reply> Connection::pipeline(const Commands& commands, SteadyTime deadline) {
  std::vector<Reply> replies;
  replies.reserve(commands.size());
  pipeline(commands, replies, deadline);
  return replies;
}

Reply Connection::command(std::initializer_list<std::string_view> args, SteadyTime deadline) {
  auto replies = pipeline(Commands{}.add(args), deadline);
  throw_if_error(std::string{*args.begin()} + " at " + endpoint_.to_string(), replies.front());
  return std::move(replies.front());
}

void Connection::send(const Commands& commands, SteadyTime deadline) {
  require_usable();
  for (auto unsent = commands.bytes(); !unsent.empty();) {
    const auto size = unsent.size();
    if (!write_some(unsent)) fail_closed(size == commands.bytes().size());
    if (!unsent.empty() && wait(true, false, deadline) == Readiness::timed_out)
      fail(Errc::unavailable, "the server does not read");
  }
}

std::optional<Reply> Connection::receive(SteadyTime deadline) {
  require_usable();
  for (;;) {
    if (auto reply = next_reply()) return reply;
    switch (wait(false, true, deadline)) {
      case Readiness::ready:
        if (!read_some()) fail_closed(false);
        break;
      case Readiness::woken: {
        std::uint64_t count = 0;
        static_cast<void>(!::read(wakeup_.get(), &count, sizeof count));
        return std::nullopt;
      }
      case Readiness::timed_out: return std::nullopt;
    }
  }
}

void Connection::wake() noexcept {
  const std::uint64_t one = 1;
  // Fails only if the counter is full; then a wake-up is pending already.
  static_cast<void>(!::write(wakeup_.get(), &one, sizeof one));
}

bool Connection::healthy() const noexcept {
  if (broken_ || reader_->pos != reader_->len) return false;
  char byte = 0;
  const auto count = recv(socket_.get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

void Connection::require_usable() const {
  if (broken_) throw Error{Errc::unavailable, failure("the connection was lost before")};
}

bool Connection::wait_patiently(bool for_write, Patience& patience) {
  // Written data stays in the kernel until a slow connection has transferred it: a decreasing
  // amount is progress, too.
  std::optional<std::size_t> before;
  for (;;) {
    const auto look = patience.next_look(steady_clock::now());
    if (wait(for_write, false, look) == Readiness::ready) return true;
    const auto left = bytes_in_kernel();
    const auto now = steady_clock::now();
    if (before && left < *before) patience.progressed(now);
    before = left;
    if (is_over(patience.deadline())) return false;
  }
}

std::size_t Connection::bytes_in_kernel() const noexcept {
  int bytes = 0;
  return ioctl(socket_.get(), TIOCOUTQ, &bytes) == 0 ? static_cast<std::size_t>(bytes) : 0;
}

Connection::Readiness Connection::wait(bool for_write, bool for_wake, SteadyTime deadline) {
  std::array<pollfd, 2> watched{};
  watched[0].fd = socket_.get();
  watched[0].events = static_cast<short>(for_write ? POLLIN | POLLOUT : POLLIN);
  watched[1].fd = wakeup_.get();
  watched[1].events = POLLIN;
  for (;;) {
    const auto left = time_until(end_of_wait(deadline));
    const int ready = ppoll(watched.data(), for_wake ? 2 : 1, &left, nullptr);
    if (ready < 0 && errno != EINTR) fail(Errc::unavailable, cause_of(errno));
    if (ready > 0) return watched[1].revents != 0 ? Readiness::woken : Readiness::ready;
    if (is_over(deadline)) return Readiness::timed_out;
  }
}

bool Connection::write_some(std::string_view& bytes) {
  while (!bytes.empty()) {
    const auto count =
        ::send(socket_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count >= 0) {
      bytes.remove_prefix(static_cast<std::size_t>(count));
      moved_ += static_cast<std::uint64_t>(count);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      return true;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      return false;
    } else if (errno != EINTR) {
      fail(Errc::unavailable, cause_of(errno));
    }
  }
  return true;
}

bool Connection::read_some() {
  std::array<char, read_bytes> buffer;
  for (;;) {
    const auto count = recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (count == 0) return false;
    if (count < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return true;
      if (errno == ECONNRESET || errno == EPIPE) return false;
      fail(Errc::unavailable, cause_of(errno));
    }
    const auto size = static_cast<std::size_t>(count);
    moved_ += size;
    if (redisReaderFeed(reader_.get(), buffer.data(), size) != REDIS_OK)
      fail(Errc::protocol, std::string{"can't read the reply: "} + reader_->errstr);
    if (reader_->len - reader_->pos > longest_unparsed)
      fail(Errc::protocol, "a reply is too long");
    return true;
  }
}

std::optional<Reply> Connection::next_reply() {
  void* reply = nullptr;
  if (redisReaderGetReply(reader_.get(), &reply) != REDIS_OK)
    fail(Errc::protocol, "the reply is not in Redis's protocol: " + printable(reader_->errstr));
  if (reply == nullptr) return std::nullopt;
  return Reply{static_cast<redisReply*>(reply)};
}

std::string Connection::failure(std::string_view cause) const {
  return std::string{operation_} + " Redis at " + endpoint_.to_string() + ": " + std::string{cause};
}

void Connection::fail(Errc errc, const std::string& cause) {
  broken_ = true;
  throw Error{errc, failure(cause)};
}

void Connection::fail_closed(bool nothing_sent) {
  if (!nothing_sent) fail(Errc::unavailable, "connection closed by the server");
  broken_ = true;
  throw NothingSent{Errc::unavailable, failure("connection closed by the server")};
}

}  // namespace taskmux::redis
