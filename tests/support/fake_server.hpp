#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace taskmux::test {

/// A TCP server on loopback that answers what a test tells it to.
class FakeServer {
 public:
  using Command = std::vector<std::string>;

  struct Answer {
    std::string bytes{};  ///< Sent as they are; none: silence.
    bool close_after = false;
  };

  /// Called for each command that arrives, on the server's thread.
  using Script = std::function<Answer(const Command&)>;

  /// `greeting` is sent to whoever connects.
  FakeServer(Script script, Answer greeting);
  explicit FakeServer(Script script) : FakeServer{std::move(script), Answer{}} {}
  ~FakeServer();
  FakeServer(const FakeServer&) = delete;
  FakeServer& operator=(const FakeServer&) = delete;

  std::uint16_t port() const noexcept { return port_; }
  int connections() const noexcept { return connections_; }

 private:
  void serve();

  const Script script_;
  const Answer greeting_;
  std::atomic<int> connections_{0};
  int listener_ = -1;
  int stop_ = -1;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

/// What a Redis server of `version` answers to the commands of a login; nullopt for any other.
std::optional<FakeServer::Answer> login_answer(const FakeServer::Command& command,
                                               const std::string& version = "7.0.15");

/// `text` as a bulk string.
std::string bulk(const std::string& text);

}  // namespace taskmux::test
