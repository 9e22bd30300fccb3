#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

namespace taskmux::test {

/// A TCP proxy on loopback that cuts connections at replies that a test selects: the server has
/// executed the request, but the client does not receive the reply.
class CuttingProxy {
 public:
  /// Called on the proxy's thread with data from the server; true cuts the connection instead of
  /// forwarding the data.
  using Cuts = std::function<bool(std::string_view)>;

  /// Connects to a server at `target`, a port on loopback.
  CuttingProxy(std::uint16_t target, Cuts cuts) : target_{target}, cuts_{std::move(cuts)} {
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(listener_ >= 0, "socket");
    sockaddr_in address = loopback(0);
    socklen_t length = sizeof address;
    require(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
    require(::listen(listener_, 64) == 0, "listen");
    require(::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "name");
    port_ = ntohs(address.sin_port);
    stop_ = ::eventfd(0, EFD_CLOEXEC);
    require(stop_ >= 0, "eventfd");
    thread_ = std::thread{[this] { serve(); }};
  }
  ~CuttingProxy() {
    const std::uint64_t one = 1;
    static_cast<void>(!::write(stop_, &one, sizeof one));
    thread_.join();
    ::close(listener_);
    ::close(stop_);
  }
  CuttingProxy(const CuttingProxy&) = delete;
  CuttingProxy& operator=(const CuttingProxy&) = delete;

  std::uint16_t port() const noexcept { return port_; }
  /// Returns the number of connections cut so far.
  int cuts() const noexcept { return count_; }

 private:
  struct Pair {
    int client;
    int server;
  };

  static void require(bool ok, const char* what) {
    if (!ok) throw std::system_error{errno, std::generic_category(), what};
  }

  static sockaddr_in loopback(std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void take_in() {
    const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (client < 0) return;
    const int server = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const sockaddr_in address = loopback(target_);
    if (server < 0 ||
        ::connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
      ::close(client);
      if (server >= 0) ::close(server);
      return;
    }
    pairs_.push_back({client, server});
  }

  /// Returns false if the connection has ended.
  bool pass_on(int from, int to, bool from_server) {
    std::array<char, 65536> buffer;
    const auto count = ::recv(from, buffer.data(), buffer.size(), 0);
    if (count <= 0) return false;
    const std::string_view bytes{buffer.data(), static_cast<std::size_t>(count)};
    if (from_server && cuts_(bytes)) {
      ++count_;
      return false;
    }
    for (std::size_t sent = 0; sent < bytes.size();) {
      const auto passed = ::send(to, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (passed <= 0) return false;
      sent += static_cast<std::size_t>(passed);
    }
    return true;
  }

  void serve() {
    for (;;) {
      std::vector<pollfd> watched{{stop_, POLLIN, 0}, {listener_, POLLIN, 0}};
      for (const Pair& pair : pairs_) {
        watched.push_back({pair.client, POLLIN, 0});
        watched.push_back({pair.server, POLLIN, 0});
      }
      ::poll(watched.data(), watched.size(), -1);
      if (watched[0].revents != 0) break;
      std::vector<Pair> open;
      for (std::size_t i = 0; i < pairs_.size(); ++i) {
        const Pair pair = pairs_[i];
        const bool asks = watched[2 + 2 * i].revents != 0;
        const bool answers = watched[3 + 2 * i].revents != 0;
        if ((!asks || pass_on(pair.client, pair.server, false)) &&
            (!answers || pass_on(pair.server, pair.client, true))) {
          open.push_back(pair);
        } else {
          ::close(pair.client);
          ::close(pair.server);
        }
      }
      pairs_ = std::move(open);
      if (watched[1].revents != 0) take_in();
    }
    for (const Pair& pair : pairs_) {
      ::close(pair.client);
      ::close(pair.server);
    }
  }

  const std::uint16_t target_;
  const Cuts cuts_;
  std::atomic<int> count_{0};
  int listener_ = -1;
  int stop_ = -1;
  std::uint16_t port_ = 0;
  std::vector<Pair> pairs_;  // used only by the thread
  std::thread thread_;
};

}  // namespace taskmux::test
