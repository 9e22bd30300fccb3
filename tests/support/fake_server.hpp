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

/// A TCP server on loopback that sends the replies that a test specifies.
class FakeServer {
 public:
  using Command = std::vector<std::string>;

  struct Answer {
    std::string bytes{};  ///< Sent unchanged; empty: no reply.
    bool close_after = false;
  };

  /// Called for each command that arrives, on the server's thread.
  using Script = std::function<Answer(const Command&)>;

  /// `greeting` is sent to each client that connects.
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

/// Returns the reply of a Redis server of `version` to a command of a login; nullopt for any other
/// command.
std::optional<FakeServer::Answer> login_answer(const FakeServer::Command& command,
                                               const std::string& version = "7.0.15");

/// Returns `text` as a bulk string.
std::string bulk(const std::string& text);

}  // namespace taskmux::test
