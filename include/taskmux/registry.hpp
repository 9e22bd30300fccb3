#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/detail/base/config.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// A task in progress, as an Inspector shows it.
struct WorkerInfo {
  std::string task_id{};
  std::string queue{};
  /// As shown: perhaps without headers, and a long payload cut (see Registry::announce()).
  Task task{};
  Time started_at{};
  /// Of this attempt; epoch = none.
  Time deadline{};
};

/// What a server does at the moment.
enum class ServerStatus {
  active,   ///< It takes tasks.
  stopped,  ///< It takes no more, and goes on with those that it has.
  closed,   ///< It is shutting down.
  unknown,  ///< Written by a program that knows further ones.
};

/// The status as asynq spells it, such as "active".
constexpr std::string_view to_string(ServerStatus status) noexcept {
  switch (status) {
    case ServerStatus::active: return "active";
    case ServerStatus::stopped: return "stopped";
    case ServerStatus::closed: return "closed";
    case ServerStatus::unknown: break;
  }
  return "unknown";
}

/// A running server, as it announces itself and an Inspector shows it.
struct ServerInfo {
  std::string host{};
  int pid = 0;
  /// A UUID, of this start of this server.
  std::string id{};
  int concurrency = 0;
  /// Priority by name.
  std::map<std::string, int> queues{};
  bool strict_priority = false;
  ServerStatus status = ServerStatus::active;
  Time started_at{};
  /// What it runs at the moment.
  std::vector<WorkerInfo> workers{};
};

/// The port to who lives, in addition to Broker: servers announce themselves, and an Inspector lists
/// them. Nothing depends on it but what is shown: leases say whose a run is.
///
/// Each call throws Error. Thread-safe.
class TASKMUX_API Registry {
 public:
  Registry() = default;
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;
  virtual ~Registry() = default;

  /// Records that a server lives, and what it does; forgotten `lifetime` after the last call (rounded
  /// up to whole seconds). Of a worker's payload of more than 4 KiB a broker may keep only the
  /// beginning: it is there to be looked at, and large tasks must not make this a long call.
  virtual void announce(const ServerInfo& server, Duration lifetime) = 0;

  /// Forgets a server that has ended; does nothing if it is not known.
  virtual void retire(const ServerInfo& server) = 0;

  /// Returns the live servers, with the tasks that they run, in any order.
  virtual std::vector<ServerInfo> servers() = 0;
};

}  // namespace v0
}  // namespace taskmux
