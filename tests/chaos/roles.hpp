#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "ledger.hpp"
#include "work.hpp"

/// The processes that the driver starts: the program runs itself with the name of a role and its
/// settings as arguments.
namespace taskmux::chaos {

/// Short times, so that a trial detects a lost worker within seconds.
inline constexpr std::chrono::seconds lease{5};
inline constexpr std::chrono::seconds command_timeout{1};

struct WorkerSettings {
  std::string url{};
  std::filesystem::path ledger{};
  std::string name{};  ///< Of the process, in the ledger.
  std::size_t concurrency = 4;
  int max_crashes = 3;

  std::vector<std::string> arguments() const;
};

struct ProducerSettings {
  std::string url{};
  std::filesystem::path ledger{};
  std::string name{};  ///< Of the process, in the ledger; its tasks' ids begin with it.
  std::uint64_t seed = 0;
  Mix mix{};
  Moment until{};        ///< It ends then.
  int per_second = 100;  ///< Tasks.

  std::vector<std::string> arguments() const;
};

/// Runs a role in this process with `arguments` made from the settings above. Returns its exit
/// code.
int run_worker(const std::vector<std::string>& arguments);
int run_producer(const std::vector<std::string>& arguments);

inline constexpr const char* worker_role = "worker";
inline constexpr const char* producer_role = "producer";

}  // namespace taskmux::chaos
