#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "taskmux/clock.hpp"

namespace taskmux::redis {

/// A message of GlobalKeys::bound_cancel(): which task is cancelled. Unlike asynq's message, which is
/// an id alone, it names database and queue, where another task of the same id may lie.
struct BoundCancellation {
  int database = 0;
  /// The same cancellation follows as a message of asynq's, since a Go worker runs the task.
  bool repeated = false;
  std::string queue{};
  std::string task_id{};

  /// "<database> <0 or 1> <bytes of the queue's name> <queue><id>".
  std::string encode() const;
  /// Nullopt for what encode() does not make.
  static std::optional<BoundCancellation> decode(std::string_view message);
};

/// Which cancellations to tell, where every node of a cluster tells each of them, some later than
/// others. The first node to do so counts: a later one's could hit the next run of the task. So a
/// second cancellation of a task is one that some node tells of for the second time.
///
/// A node that is subscribed to only after a cancellation is not taken to have told it, as it may yet
/// do so. Until the task is forgotten, it is behind: a second cancellation is missed if it is told by
/// none but such nodes. Not thread-safe.
class Cancellations {
 public:
  /// `node` tells, at `now`, that a task is cancelled. Whether that is new.
  bool hear(const std::string& node, const std::string& task_id, SteadyTime now);
  /// Forgets tasks of which no node has told for 15 s: one that still might was found dead by then.
  void forget_old(SteadyTime now);

 private:
  struct Told {
    std::map<std::string, int> heard{};  // by node: how often
    int times = 0;                       // the most of these
    SteadyTime at{};                     // when last heard
  };

  std::map<std::string, Told> tasks_;
};

}  // namespace taskmux::redis
