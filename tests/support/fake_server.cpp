#include "support/fake_server.hpp"

#include <hiredis/hiredis.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <memory>
#include <system_error>

namespace taskmux::test {
namespace {

using Reader = std::unique_ptr<redisReader, decltype(&redisReaderFree)>;
using RawReply = std::unique_ptr<redisReply, decltype(&freeReplyObject)>;

void require(bool ok, const char* what) {
  if (!ok) throw std::system_error{errno, std::generic_category(), what};
}

void say(int fd, const std::string& bytes) {
  for (std::size_t sent = 0; sent < bytes.size();) {
    const auto count = ::send(fd, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return;  // the client has disconnected
    sent += static_cast<std::size_t>(count);
  }
}

/// Returns the next complete command; nullopt if there is none yet.
std::optional<FakeServer::Command> next_command(redisReader& reader) {
  void* raw = nullptr;
  if (redisReaderGetReply(&reader, &raw) != REDIS_OK || raw == nullptr) return std::nullopt;
  const RawReply reply{static_cast<redisReply*>(raw), &freeReplyObject};
  FakeServer::Command command;
  for (std::size_t i = 0; reply->type == REDIS_REPLY_ARRAY && i < reply->elements; ++i)
    command.emplace_back(reply->element[i]->str, static_cast<std::size_t>(reply->element[i]->len));
  return command;
}

}  // namespace

FakeServer::FakeServer(Script script, Answer greeting)
    : script_{std::move(script)}, greeting_{std::move(greeting)} {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  require(listener_ >= 0, "socket");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  require(::bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  require(::listen(listener_, 64) == 0, "listen");
  require(getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) == 0, "name");
  port_ = ntohs(address.sin_port);
  stop_ = eventfd(0, EFD_CLOEXEC);
  require(stop_ >= 0, "eventfd");
  thread_ = std::thread{[this] { serve(); }};
}

FakeServer::~FakeServer() {
  const std::uint64_t one = 1;
  static_cast<void>(!::write(stop_, &one, sizeof one));
  thread_.join();
  close(listener_);
  close(stop_);
}

void FakeServer::serve() {
  std::map<int, Reader> clients;
  const auto hang_up = [&](int fd) {
    close(fd);
    clients.erase(fd);
  };
  for (;;) {
    std::vector<pollfd> watched{{stop_, POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const auto& [fd, reader] : clients) watched.push_back({fd, POLLIN, 0});
    poll(watched.data(), watched.size(), -1);
    if (watched[0].revents != 0) break;
    if (watched[1].revents != 0) {
      const int fd = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) continue;
      ++connections_;
      clients.emplace(fd, Reader{redisReaderCreate(), &redisReaderFree});
      say(fd, greeting_.bytes);
      if (greeting_.close_after) hang_up(fd);
      continue;
    }
    for (std::size_t i = 2; i < watched.size(); ++i) {
      if (watched[i].revents == 0) continue;
      const int fd = watched[i].fd;
      std::array<char, 4096> buffer;
      const auto count = recv(fd, buffer.data(), buffer.size(), 0);
      if (count <= 0) {
        hang_up(fd);
        continue;
      }
      auto& reader = *clients.at(fd);
      redisReaderFeed(&reader, buffer.data(), static_cast<std::size_t>(count));
      while (const auto command = next_command(reader)) {
        const auto answer = script_(*command);
        say(fd, answer.bytes);
        if (!answer.close_after) continue;
        hang_up(fd);
        break;
      }
    }
  }
  for (const auto& [fd, reader] : clients) close(fd);
}

std::optional<FakeServer::Answer> login_answer(const FakeServer::Command& command,
                                               const std::string& version) {
  if (command[0] == "AUTH" || command[0] == "SELECT") return FakeServer::Answer{"+OK\r\n"};
  if (command[0] == "CLIENT" && command[1] == "SETNAME") return FakeServer::Answer{"+OK\r\n"};
  if (command[0] == "CLIENT" && command[1] == "ID") return FakeServer::Answer{":7\r\n"};
  if (command[0] == "CONFIG") return FakeServer::Answer{"*0\r\n"};
  if (command[0] == "INFO")
    return FakeServer::Answer{bulk("# Server\r\nredis_version:" + version +
                                   "\r\nredis_mode:standalone\r\nrun_id:abc\r\n")};
  return std::nullopt;
}

std::string bulk(const std::string& text) {
  return "$" + std::to_string(text.size()) + "\r\n" + text + "\r\n";
}

}  // namespace taskmux::test
