#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "work.hpp"

namespace taskmux::chaos {

enum class FaultKind {
  kill_worker,     ///< SIGKILL; another takes its place.
  kill_producer,   ///< The same.
  end_worker,      ///< SIGTERM; another takes its place.
  stop_worker,     ///< SIGSTOP, and SIGCONT after `length`.
  stop_everybody,  ///< As stop_worker, for all workers and producers at once.
  kill_redis,      ///< SIGKILL, and a new start after `length`.
  stop_redis,      ///< SIGSTOP, and SIGCONT after `length`.
  kill_clients,    ///< CLIENT KILL of all connections, every 200 ms for `length`.
  flush_scripts,   ///< SCRIPT FLUSH.
  cut_replies,  ///< For `length`, the proxy cuts a few connections a second within a reply.
  delay_line,  ///< For `length`, the proxy delays all bytes by 50 ms.
  slow_line,   ///< For `length`, the proxy transfers 1 MB/s.
};

std::string_view to_string(FaultKind kind) noexcept;

struct Fault {
  FaultKind kind = FaultKind::kill_worker;
  std::chrono::milliseconds at{0};  ///< Since the start of the trial.
  std::chrono::milliseconds length{0};
  std::size_t target = 0;  ///< Which worker or producer.

  bool operator==(const Fault&) const = default;
};

/// How often a kind of fault occurs, and how long it lasts.
struct FaultShare {
  FaultKind kind = FaultKind::kill_worker;
  unsigned count = 1;
  std::chrono::milliseconds least{0};
  std::chrono::milliseconds most{0};
};

/// The parameters of a trial, except its seed.
struct Scenario {
  std::string_view name{};
  std::string_view purpose{};
  std::size_t workers = 3;
  std::size_t producers = 2;
  int per_second = 150;  ///< Tasks of each producer.
  int max_crashes = 3;
  bool proxy = false;  ///< Whether workers and producers reach Redis through the proxy.
  /// A period without faults at the start, so that there is work.
  std::chrono::milliseconds calm{500};
  std::chrono::milliseconds length = std::chrono::seconds{8};  ///< No fault begins later.
  std::vector<FaultShare> faults{};
  Mix mix{};
};

const std::vector<Scenario>& scenarios();
/// Throws std::invalid_argument if there is no scenario with that name.
const Scenario& scenario(std::string_view name);

/// Returns the faults of a trial, by time; the same for the same seed.
std::vector<Fault> make_plan(const Scenario& scenario, std::uint64_t seed);

/// Returns a text such as "1.250 s: kill worker 2".
std::string to_text(const Fault& fault);

}  // namespace taskmux::chaos
