#include "redis_requests.hpp"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "taskmux/redis/redis_options.hpp"

namespace taskmux::bench {
namespace {

class Socket {
 public:
  explicit Socket(int fd) noexcept : fd_{fd} {
    const timeval limit{.tv_sec = 2, .tv_usec = 0};
    if (fd_ >= 0) ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }

  bool connected_to(const sockaddr* address, socklen_t size) const noexcept {
    return fd_ >= 0 && ::connect(fd_, address, size) == 0;
  }

  bool send(std::string_view text) const noexcept {
    return ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(text.size());
  }

  /// Reads until `part` has been followed by a line's end; empty if it never comes.
  std::string read_past(std::string_view part) const {
    std::string text;
    char buffer[4096];
    for (;;) {
      const ssize_t got = ::read(fd_, buffer, sizeof buffer);
      if (got <= 0) return {};
      text.append(buffer, static_cast<std::size_t>(got));
      const std::size_t at = text.find(part);
      if (at != std::string::npos && text.find('\n', at) != std::string::npos)
        return text.substr(at + part.size());
    }
  }

 private:
  const int fd_;
};

std::unique_ptr<Socket> connect_unix(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return nullptr;
  std::memcpy(address.sun_path, path.data(), path.size());
  auto socket = std::make_unique<Socket>(::socket(AF_UNIX, SOCK_STREAM, 0));
  const auto* const any = reinterpret_cast<const sockaddr*>(&address);
  return socket->connected_to(any, sizeof address) ? std::move(socket) : nullptr;
}

std::unique_ptr<Socket> connect_tcp(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0)
    return nullptr;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses{found, ::freeaddrinfo};
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    auto socket = std::make_unique<Socket>(::socket(at->ai_family, at->ai_socktype, 0));
    if (socket->connected_to(at->ai_addr, at->ai_addrlen)) return socket;
  }
  return nullptr;
}

std::string command(std::initializer_list<std::string_view> words) {
  std::string text = '*' + std::to_string(words.size()) + "\r\n";
  for (const std::string_view word : words) {
    text += '$' + std::to_string(word.size()) + "\r\n";
    text.append(word).append("\r\n");
  }
  return text;
}

}  // namespace

std::optional<std::uint64_t> redis_requests(const std::string& url) {
  const RedisOptions options = parse_redis_url(url);
  std::unique_ptr<Socket> socket;
  if (options.mode == RedisMode::unix_socket) socket = connect_unix(options.socket_path);
  if (options.mode == RedisMode::standalone) socket = connect_tcp(options.host, options.port);
  if (!socket) return std::nullopt;
  if (!options.password.empty()) {
    const std::string user = options.user.empty() ? "default" : options.user;
    if (!socket->send(command({"AUTH", user, options.password}))) return std::nullopt;
  }
  if (!socket->send(command({"INFO", "stats"}))) return std::nullopt;
  const std::string text = socket->read_past("total_reads_processed:");
  std::uint64_t count = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), count).ec != std::errc{})
    return std::nullopt;
  return count;
}

}  // namespace taskmux::bench
