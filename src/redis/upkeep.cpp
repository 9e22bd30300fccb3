#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "redis/operations.hpp"
#include "redis/runs.hpp"
#include "redis/wire.hpp"

namespace taskmux::redis {
namespace {

std::string seconds_up(Duration duration) {
  return text(std::max<std::int64_t>(1, std::chrono::ceil<std::chrono::seconds>(duration).count()));
}

Call register_server(const Store& store, const std::string& list, std::string_view lifetime,
                     const std::string& member) {
  Call call = Store::call_on(scripts().register_server, {list}, {});
  store.add_now(call.args);
  call.args.insert(call.args.end(), {std::string{lifetime}, member});
  return call;
}

}  // namespace

Upkeep::Ranks Upkeep::ranks_of(const std::string& queue) {
  detail::MutexLock lock{mutex_};
  const auto found = ranks_.find(queue);
  return found == ranks_.end() ? Ranks{} : found->second;
}

void Upkeep::set_ranks(const std::string& queue, Ranks ranks) {
  detail::MutexLock lock{mutex_};
  if (ranks.due == 0 && ranks.active == 0) {
    ranks_.erase(queue);
  } else {
    ranks_[queue] = ranks;
  }
}

UpkeepReply Upkeep::step(Store& store, const UpkeepRequest& request) {
  // An outage of Redis must not make every run look lost: their owners could not extend them
  // either.
  const bool recover = request.recover && store.in_contact_for(request.lease);
  const auto limit =
      static_cast<std::int64_t>(std::clamp<std::size_t>(request.limit, 1, bound::upkeep));
  std::vector<Call> calls;
  std::vector<std::uint64_t> blocks;
  for (const std::string& queue : request.queues) {
    const Ranks ranks = ranks_of(queue);
    blocks.push_back(store.token_block());
    calls.push_back(
        store.call(scripts().upkeep, queue,
                   {text(limit), micros(request.lease), hex_of_block(blocks.back()),
                    recover ? "1" : "0", text(bound::bytes), text(ranks.due), text(ranks.active)}));
  }

  UpkeepReply reply;
  const std::vector<Reply> answers = store.run(calls);
  std::optional<Error> failure;
  bool any = false;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const std::string& queue = request.queues[i];
    const auto subject = "upkeep of queue \"" + printable(queue) + "\"";
    try {
      const Reply& answer = answers[i];
      throw_if_error(subject, answer);
      answer.expect_array(11);
      any = true;
      reply.now = time_of(answer[0].as_integer());
      reply.forwarded += static_cast<std::size_t>(answer[1].as_integer());
      reply.expired += static_cast<std::size_t>(answer[2].as_integer());
      reply.repaired += static_cast<std::size_t>(answer[3].as_integer());
      if (!answer[4].is_nil()) {
        reply.next_due = earlier(reply.next_due, time_of(answer[4].as_integer()));
      }
      reply.more = reply.more || answer[5].as_integer() != 0;
      set_ranks(queue, {.due = answer[8].as_integer(), .active = answer[9].as_integer()});
      for (std::size_t k = 0; k < answer[10].size(); ++k) {
        store.log()(LogLevel::error, subject + ": " + printable(answer[10][k].as_string()));
      }
      RunReader reader{store, blocks[i]};
      reader.read(queue, answer[6], answer[7], reply.lost);
      reply.repaired += reader.set_aside();
    } catch (const Error& error) {
      if (!failure) failure = error;
      store.log()(LogLevel::error, error.what());
    }
  }
  if (failure && !any) throw *failure;
  if (!any) reply.now = store.now();
  return reply;
}

void heartbeat(Store& store, const ServerInfo& server, Duration lifetime) {
  const GlobalKeys& keys = store.global();
  const std::string record = keys.server(server.host, server.pid, server.id);
  const std::string workers = keys.worker(server.host, server.pid, server.id);
  const std::string seconds = seconds_up(lifetime);
  Call write =
      Store::call_on(scripts().write_server, {record, workers}, {seconds, encode_server(server)});
  for (const WorkerInfo& worker : server.workers) {
    write.args.push_back(worker.task_id);
    write.args.push_back(encode_worker(server, worker));
  }
  const std::vector<Call> calls{register_server(store, keys.servers(), seconds, record),
                                register_server(store, keys.workers(), seconds, workers),
                                std::move(write)};
  for (const Reply& reply : store.run(calls)) throw_if_error("heartbeat", reply);
}

void retire(Store& store, const ServerInfo& server) {
  const GlobalKeys& keys = store.global();
  const std::string record = keys.server(server.host, server.pid, server.id);
  const std::string workers = keys.worker(server.host, server.pid, server.id);
  const std::vector<Call> calls{
      Store::command(keys.servers(), {"ZREM", keys.servers(), record}),
      Store::command(keys.workers(), {"ZREM", keys.workers(), workers}),
      Store::command(record, {"DEL", record, workers}),
  };
  for (const Reply& reply : store.run(calls)) throw_if_error("retire", reply);
}

}  // namespace taskmux::redis
