#include "support/slow_line.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <list>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace taskmux::test {
namespace {

using std::chrono::steady_clock;
using namespace std::chrono_literals;

void require(bool ok, const char* what) {
  if (!ok) throw std::system_error{errno, std::generic_category(), what};
}

/// Keeps socket buffers small, so that data in transit stays with the sender, as on a real slow
/// connection.
void keep_buffers_small(int fd) {
  const int bytes = 4096;
  setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
}

int connect_to(const redis::Endpoint& server) {
  if (!server.socket_path.empty()) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    server.socket_path.copy(address.sun_path, sizeof address.sun_path - 1);
    if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
    close(fd);
    return -1;
  }
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(server.port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

/// One direction of one connection.
struct Way {
  int from;
  int to;
  std::string held{};  ///< Read, but not written yet.
  bool ended = false;

  /// Transfers up to `allowed` bytes; returns how many.
  std::size_t carry(std::size_t allowed) {
    if (held.empty() && allowed > 0) {
      std::array<char, 16384> buffer;
      const auto count = recv(from, buffer.data(), std::min(allowed, buffer.size()), MSG_DONTWAIT);
      if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) ended = true;
      if (count > 0) held.assign(buffer.data(), static_cast<std::size_t>(count));
    }
    if (held.empty()) return 0;
    const auto count = ::send(to, held.data(), held.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) ended = true;
    if (count <= 0) return 0;
    held.erase(0, static_cast<std::size_t>(count));
    return static_cast<std::size_t>(count);
  }
};

struct Link {
  int client;
  int server;
  Way up{client, server};
  Way down{server, client};
};

/// The allowance of one direction.
struct Allowance {
  double bytes = 0;

  void grow(double more) { bytes = std::min(bytes + more, std::max(more, 16384.0)); }
  std::size_t whole() const { return static_cast<std::size_t>(std::max(bytes, 0.0)); }
};

}  // namespace

SlowLine::SlowLine(redis::Endpoint server, std::size_t bytes_per_second)
    : server_{std::move(server)}, rate_{bytes_per_second} {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(listener_ >= 0, "socket");
  keep_buffers_small(listener_);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  require(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  require(::listen(listener_, 64) == 0, "listen");
  require(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "name");
  port_ = ntohs(address.sin_port);
  thread_ = std::thread{[this] { serve(); }};
}

SlowLine::~SlowLine() {
  stopping_ = true;
  thread_.join();
  close(listener_);
}

void SlowLine::serve() {
  std::list<Link> links;
  Allowance up;
  Allowance down;
  auto last = steady_clock::now();
  const auto carry = [](Way& way, Allowance& allowance, bool limited) {
    allowance.bytes -= static_cast<double>(way.carry(limited ? allowance.whole() : 1u << 20));
  };
  while (!stopping_) {
    std::vector<pollfd> watched{{listener_, POLLIN, 0}};
    for (const Link& link : links) {
      watched.push_back({link.client, POLLIN, 0});
      watched.push_back({link.server, POLLIN, 0});
    }
    const std::size_t rate = rate_;
    const bool limited = rate != unlimited;
    // While the allowance is spent, there is always data to read: time has to pass.
    const bool spent = limited && (up.whole() == 0 || down.whole() == 0);
    poll(watched.data(), spent ? 1 : watched.size(), 2);
    if (watched[0].revents != 0) {
      const int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      const int server = client < 0 ? -1 : connect_to(server_);
      if (server >= 0) {
        keep_buffers_small(server);
        links.push_back({client, server});
      } else if (client >= 0) {
        close(client);
      }
    }
    const auto now = steady_clock::now();
    if (limited) {
      const double seconds = std::chrono::duration<double>(now - last).count();
      up.grow(static_cast<double>(rate) * seconds);
      down.grow(static_cast<double>(rate) * seconds);
    }
    last = now;
    for (Link& link : links) {
      carry(link.up, up, limited);
      carry(link.down, down, limited);
    }
    if (!links.empty()) links.splice(links.end(), links, links.begin());  // round robin
    links.remove_if([](const Link& link) {
      if (!link.up.ended && !link.down.ended) return false;
      close(link.client);
      close(link.server);
      return true;
    });
  }
  for (const Link& link : links) {
    close(link.client);
    close(link.server);
  }
}

}  // namespace taskmux::test
