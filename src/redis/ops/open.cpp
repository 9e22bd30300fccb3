#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "redis/ops/operations.hpp"

namespace taskmux::redis {
namespace {

std::string subject(std::string_view queue) { return "serve queue \"" + printable(queue) + "\""; }

/// The names of the commands that failed for one reason.
std::string names_of(ReplyView failed, std::string_view fault) {
  std::string names;
  for (std::size_t i = 0; i < failed.size(); ++i) {
    if (failed[i][1].as_string() != fault) continue;
    names += (names.empty() ? "" : ", ") + std::string{failed[i][0].as_string()};
  }
  return names;
}

void throw_if_refused(std::string_view queue, ReplyView failed) {
  for (std::size_t i = 0; i < failed.size(); ++i) {
    const std::string_view fault = failed[i][1].as_string();
    const Errc errc = errc_of(fault);
    // Redis is full, or refuses writes at present: the server can start, and waits.
    if (errc == Errc::queue_full || errc == Errc::unavailable) continue;
    const bool unknown = fault.find("nknown Redis command") != std::string_view::npos;
    throw Error{
        unknown ? Errc::unsupported : errc,
        subject(queue) + ": Redis refuses " + names_of(failed, fault) + ": " + printable(fault)};
  }
}

}  // namespace

OpenReply open(Session& session, std::span<const std::string> queues) {
  const std::size_t most = session.cluster() ? 1 : bound::queues;
  std::vector<Call> calls;
  const std::string& names = session.global().queues();
  calls.push_back(Session::command(names, {"SMEMBERS", names}));
  for (std::size_t first = 0; first < queues.size(); first += most) {
    const auto part = queues.subspan(first, std::min(most, queues.size() - first));
    calls.push_back(session.call_on_queues(scripts().try_rights, part));
  }
  const std::vector<Reply> replies = session.run(calls);
  for (std::size_t first = 0, at = 1; first < queues.size(); first += most, ++at) {
    const auto part = queues.subspan(first, std::min(most, queues.size() - first));
    throw_if_error(subject(part.front()), replies[at]);
    replies[at].expect_array(part.size());
    for (std::size_t i = 0; i < part.size(); ++i) throw_if_refused(part[i], replies[at][i]);
  }

  OpenReply reply;
  // A user may serve queues without the right to list them.
  if (!replies[0].is_array()) return reply;
  std::set<std::string_view> used;
  for (std::size_t i = 0; i < replies[0].size(); ++i) used.insert(replies[0][i].as_string());
  for (const std::string& queue : queues) {
    if (!used.contains(queue)) reply.never_used.push_back(queue);
  }
  return reply;
}

}  // namespace taskmux::redis
