#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "taskmux/detail/base/config.hpp"
#include "taskmux/task.hpp"

namespace taskmux {
inline namespace v0 {

/// A task that is being run, as shown by an Inspector.
struct WorkerInfo {
  std::string task_id{};
  std::string queue{};
  /// The headers may be missing, and a long payload may be truncated (see Registry::announce()).
  Task task{};
  Time started_at{};
  /// The deadline of this attempt; the epoch if there is none.
  Time deadline{};
};

/// The present state of a server.
enum class ServerStatus {
  active,   ///< It takes tasks.
  stopped,  ///< It takes no more tasks, but finishes those that it has.
  closed,   ///< It is shutting down.
  unknown,  ///< A value that this version does not know.
};

/// Returns the status as asynq spells it, such as "active".
constexpr std::string_view to_string(ServerStatus status) noexcept {
  switch (status) {
    case ServerStatus::active: return "active";
    case ServerStatus::stopped: return "stopped";
    case ServerStatus::closed: return "closed";
    case ServerStatus::unknown: break;
  }
  return "unknown";
}

/// A running server, as it announces itself and as an Inspector shows it.
struct ServerInfo {
  std::string host{};
  int pid = 0;
  /// A UUID that identifies this Server object.
  std::string id{};
  int concurrency = 0;
  /// The priority of each queue.
  std::map<std::string, int> queues{};
  bool strict_priority = false;
  ServerStatus status = ServerStatus::active;
  Time started_at{};
  /// The tasks that it is running.
  std::vector<WorkerInfo> workers{};
};

/// The port to the list of live servers, in addition to Broker: servers announce themselves, and an
/// Inspector lists them. It is used for display only: leases decide who owns a run.
///
/// Each call throws Error on failure. Thread-safe.
class TASKMUX_API Registry {
 public:
  Registry() = default;
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;
  virtual ~Registry() = default;

  /// Records that a server is alive, and what it does. The record expires `lifetime` after the last
  /// call (rounded up to whole seconds). A broker may truncate a worker's payload to 4 KiB or more:
  /// it is for display only, and large tasks must not slow down this call.
  virtual void announce(const ServerInfo& server, Duration lifetime) = 0;

  /// Removes the record of a server that has ended; does nothing if there is none.
  virtual void retire(const ServerInfo& server) = 0;

  /// Returns the live servers, with the tasks that they are running, in any order.
  virtual std::vector<ServerInfo> servers() = 0;
};

}  // namespace v0
}  // namespace taskmux
