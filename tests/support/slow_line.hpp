#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>

#include "redis/net/connection.hpp"

namespace taskmux::test {

/// A proxy on loopback between clients and a server, which limits the bytes per second in each
/// direction, for all connections together: a slow connection. Thread-safe.
class SlowLine {
 public:
  /// The value of bytes_per_second without a limit.
  static constexpr std::size_t unlimited = static_cast<std::size_t>(-1);

  SlowLine(redis::Endpoint server, std::size_t bytes_per_second);
  ~SlowLine();
  SlowLine(const SlowLine&) = delete;
  SlowLine& operator=(const SlowLine&) = delete;

  std::uint16_t port() const noexcept { return port_; }
  /// With 0, it accepts connections but transfers nothing.
  void set_rate(std::size_t bytes_per_second) noexcept { rate_ = bytes_per_second; }

 private:
  void serve();

  const redis::Endpoint server_;
  std::atomic<std::size_t> rate_;
  std::atomic<bool> stopping_{false};
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace taskmux::test
