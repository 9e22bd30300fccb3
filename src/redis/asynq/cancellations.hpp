#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// A message on the channel GlobalKeys::bound_cancel(): which task is cancelled. Unlike asynq's
/// message, which is only an id, it names the database and the queue, since other tasks may have
/// the same id.
struct BoundCancellation {
  int database = 0;
  /// The same cancellation follows as a message of asynq's, since a Go worker runs the task.
  bool repeated = false;
  std::string queue{};
  std::string task_id{};

  /// "<database> <0 or 1> <bytes of the queue's name> <queue><id>".
  std::string encode() const;
  /// Returns nullopt for a text that encode() does not produce.
  static std::optional<BoundCancellation> decode(std::string_view message);
};

/// Removes duplicate cancellations. Every node of a cluster reports each cancellation, some later
/// than others. The first report counts: a later one could cancel the next run of the task. So a
/// second cancellation of a task is one that some node reports for the second time.
///
/// A node that is subscribed to only after a cancellation may still report it. Until the task is
/// forgotten, that node is behind: a second cancellation is missed if only such nodes report it.
/// Not thread-safe.
class Cancellations {
 public:
  /// Records that `node` reports, at `now`, that a task is cancelled. Returns whether the
  /// cancellation is new.
  bool hear(const std::string& node, const std::string& task_id, SteadyTime now);
  /// Forgets tasks that no node has reported for 15 s: a node that might still report them would
  /// have been found dead by then.
  void forget_old(SteadyTime now);

 private:
  struct Told {
    std::map<std::string, int> heard{};  // number of reports by node
    int times = 0;                       // the maximum of these
    SteadyTime at{};                     // the last report
  };

  std::map<std::string, Told> tasks_;
};

}  // namespace taskmux::redis
