#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>

namespace taskmux::chaos {

/// A proxy between clients and a server, both on Unix sockets, that can disturb connections.
/// Carries any number of connections on its own thread. Thread-safe.
class Proxy {
 public:
  /// Listens at `path`, and connects to `server` for each client. Throws std::system_error.
  Proxy(const std::filesystem::path& path, std::string server);
  /// Closes all connections.
  ~Proxy();
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& path() const noexcept { return path_; }

  /// From now on, about one reply in fifty is truncated, and its connection closed.
  void cut_replies(std::uint64_t seed);
  /// From now on, all bytes are delayed by this time.
  void delay(std::chrono::milliseconds time);
  /// From now on, each direction of each connection transfers this many bytes a second.
  void limit(std::size_t bytes_per_second);
  /// Ends all disturbances.
  void calm();

  /// Returns how many connections it has cut.
  std::size_t cuts() const noexcept { return cuts_; }

 private:
  class Line;
  void serve();

  const std::string path_;
  const std::string server_;
  std::atomic<std::uint64_t> cut_seed_{0};
  std::atomic<std::int64_t> delay_ms_{0};
  std::atomic<std::size_t> rate_{0};
  std::atomic<std::size_t> cuts_{0};
  std::atomic<bool> over_{false};
  int listener_ = -1;
  std::thread thread_;
};

}  // namespace taskmux::chaos
