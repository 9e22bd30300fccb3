#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace taskmux::chaos {

/// Microseconds of the machine's monotonic clock, which all processes of a trial share.
using Moment = std::chrono::microseconds;

Moment now();

enum class EventKind {
  // Events of a producer:
  ask,       ///< Is about to enqueue `id`. Detail: the Order, as text.
  accepted,  ///< The broker acknowledged it.
  refused,   ///< The broker refused it; it must never run.
  unknown,   ///< No reply: it may or may not have been accepted.
  // Events of a worker; `number` counts the runs of its process:
  start,    ///< A handler begins.
  good,     ///< The handler is about to return success.
  bad,      ///< The handler is about to return a failure.
  later,    ///< The handler is about to snooze.
  stopped,  ///< The handler ends unfinished since it was asked to stop. Detail: the reason.
  settled,  ///< The broker has recorded the end of a run. Detail: the change, as TaskEvent names it.
  // Events of the driver; `id` is the name of the affected process, or "redis" or "line":
  fault,  ///< `number`: its duration in microseconds. Detail: the kind.
  gone,   ///< The process has ended. Detail: how.
};

std::string_view to_string(EventKind kind) noexcept;

/// The detail of `gone` if the process was asked to end.
inline constexpr const char* ended_as_asked = "as asked";

struct Event {
  Moment at{};
  std::string process{};  ///< The writer, such as "worker-1.2", its third incarnation.
  EventKind kind = EventKind::ask;
  std::string id{};
  std::int64_t number = 0;
  std::string detail{};
};

/// The ledger of one process: a file in a directory that all processes of a trial share. Each line
/// is appended by a single write, so that a SIGKILL loses no line that was reported. Thread-safe.
class LedgerWriter {
 public:
  /// Throws std::system_error if the file can't be opened.
  LedgerWriter(const std::filesystem::path& directory, const std::string& process);
  ~LedgerWriter();
  LedgerWriter(const LedgerWriter&) = delete;
  LedgerWriter& operator=(const LedgerWriter&) = delete;

  /// Returns once the kernel has accepted the line. Ends the process if that fails: events that
  /// can't be recorded must not happen. Neither `id` nor `detail` may contain a line break, nor
  /// `id` a space.
  void write(EventKind kind, std::string_view id, std::int64_t number = 0,
             std::string_view detail = {});
  /// The same for an instant in the past.
  void write_at(Moment at, EventKind kind, std::string_view id, std::int64_t number,
                std::string_view detail);

 private:
  int file_ = -1;
};

/// Returns what all processes wrote to `directory`, by time. Throws std::runtime_error for an
/// invalid line.
std::vector<Event> read_ledger(const std::filesystem::path& directory);

}  // namespace taskmux::chaos
