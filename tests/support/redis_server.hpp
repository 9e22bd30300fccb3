#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "redis/net/connection.hpp"
#include "redis/net/reply.hpp"

namespace taskmux::test {

/// Checks repeatedly whether `condition` holds, for at most `limit`; returns whether it did. For
/// events in other processes, which can't be waited for otherwise.
bool eventually(const std::function<bool()>& condition,
                std::chrono::milliseconds limit = std::chrono::seconds{20});

/// Returns a free TCP port on loopback whose port + 10000 (a cluster's bus) is free, too. No other
/// call returns it while this process lives, in any test program.
std::uint16_t free_port();

/// A temporary directory, removed with its contents.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

/// A child process. It is killed by the destructor, and by the kernel if the thread that started it
/// ends first.
class ChildProcess {
 public:
  /// Runs `arguments[0]`, found in the PATH, with its output in the file `log`.
  ChildProcess(const std::vector<std::string>& arguments, const std::filesystem::path& log);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const noexcept { return pid_; }
  void signal(int number) const;
  /// Waits until it ends; returns at once if it has ended.
  void wait();
  /// Returns whether it is still running.
  bool running();

 private:
  pid_t pid_ = -1;
};

/// A redis-server for one test, on a Unix socket and, on request, on a TCP port on loopback.
class RedisServer {
 public:
  struct Options {
    bool tcp = false;
    /// Options as on redis-server's command line: {"--requirepass", "secret"}.
    std::vector<std::string> arguments{};
    /// The password for commands of the test itself.
    redis::Login admin{};
  };

  RedisServer() : RedisServer{Options{}} {}
  /// Starts it and waits until it answers.
  explicit RedisServer(Options options);
  ~RedisServer();
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  const std::string& socket_path() const noexcept { return socket_path_; }
  std::uint16_t port() const noexcept { return port_; }
  /// Returns its URL: redis-socket://..., or redis://127.0.0.1:port with `tcp`; without a password.
  std::string url() const;
  redis::Endpoint endpoint() const;

  /// Runs one command on the test's own connection. Throws Error for an error reply.
  redis::Reply command(std::initializer_list<std::string_view> args);
  redis::Reply command(const std::vector<std::string>& args);
  /// Returns a field of INFO, such as info("commandstats", "cmdstat_ping"); empty if it is missing.
  std::string info(std::string_view section, std::string_view field);

  void kill();   ///< Simulates a crash.
  void start();  ///< Restarts it after kill(); with its data if it saves any.
  void pause();  ///< It does not answer; its connections stay open.
  void resume();

 private:
  const Options options_;
  const TemporaryDirectory directory_;
  std::string socket_path_;
  std::uint16_t port_ = 0;
  std::unique_ptr<ChildProcess> process_;
  std::unique_ptr<redis::Connection> admin_;
};

/// A redis-sentinel for one test, which monitors one master.
class RedisSentinel {
 public:
  struct Options {
    std::string master_name = "mymaster";
    std::uint16_t master_port = 0;
    std::string master_password{};
    std::string password{};  ///< The Sentinel's own.
  };

  /// Starts it and waits until it answers.
  explicit RedisSentinel(const Options& options);

  std::uint16_t port() const noexcept { return port_; }
  redis::Reply command(std::initializer_list<std::string_view> args);

 private:
  const TemporaryDirectory directory_;
  const std::uint16_t port_;
  redis::Login login_{};
  std::unique_ptr<ChildProcess> process_;
};

/// A Redis Cluster of masters without replicas, each with an equal share of the slots.
class RedisCluster {
 public:
  /// Returns when every node sees all slots served.
  explicit RedisCluster(std::size_t nodes = 3);

  RedisServer& node(std::size_t index) { return *nodes_.at(index); }
  std::size_t size() const noexcept { return size_; }
  /// Returns a redis-cluster:// URL with the first node as the only seed.
  std::string url() const;
  std::string id(std::size_t index);
  /// Returns the index of the node that initially owns `slot`.
  std::size_t owner_of(std::uint16_t slot) const noexcept;

 private:
  const std::size_t size_;
  std::vector<std::unique_ptr<RedisServer>> nodes_;
};

}  // namespace taskmux::test
