#include "redis/ops/registry.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lua_arguments.hpp"
#include "redis/asynq/wire.hpp"

namespace taskmux::redis {
namespace {

template <typename Record>
void add_workers(Call& call, const ServerInfo& server) {
  for (const WorkerInfo& worker : server.workers) {
    Record{.task_id = worker.task_id, .record = encode_worker(server, worker)}.append_to(call.args);
  }
}

std::string seconds_up(Duration duration) {
  return text(std::max<std::int64_t>(1, std::chrono::ceil<std::chrono::seconds>(duration).count()));
}

}  // namespace

void announce(Session& session, const ServerInfo& server, Duration lifetime) {
  const GlobalKeys& keys = session.global();
  const std::string servers = keys.servers();
  const std::string tables = keys.workers();
  const std::string record = keys.server(server.host, server.pid, server.id);
  const std::string workers = keys.worker(server.host, server.pid, server.id);
  const std::string seconds = seconds_up(lifetime);

  std::vector<Call> calls;
  if (session.cluster()) {
    const auto list = [&](std::string_view key, const std::string& member) {
      calls.push_back(session.call_on({.list = key},
                                      lua::RegisterServer{.seconds = seconds, .member = member}));
    };
    list(servers, record);
    list(tables, workers);
    calls.push_back(
        session.call_on({.record_key = record, .table_key = workers},
                        lua::WriteServer{.seconds = seconds, .record = encode_server(server)}));
    add_workers<lua::WriteServer::Worker>(calls.back(), server);
  } else {
    calls.push_back(session.call_on(
        {.servers = servers, .tables = tables, .record_key = record, .table_key = workers},
        lua::Heartbeat{.seconds = seconds, .record = encode_server(server)}));
    add_workers<lua::Heartbeat::Worker>(calls.back(), server);
  }
  for (const Reply& reply : session.run(calls)) throw_if_error("announce server", reply);
}

void retire(Session& session, const ServerInfo& server) {
  const GlobalKeys& keys = session.global();
  const std::string record = keys.server(server.host, server.pid, server.id);
  const std::string workers = keys.worker(server.host, server.pid, server.id);
  const std::vector<Call> calls{
      Session::command(keys.servers(), {"ZREM", keys.servers(), record}),
      Session::command(keys.workers(), {"ZREM", keys.workers(), workers}),
      Session::command(record, {"DEL", record, workers}),
  };
  for (const Reply& reply : session.run(calls)) throw_if_error("retire server", reply);
}

std::vector<ServerInfo> servers(Session& session) {
  std::vector<Call> calls;
  for (const std::string& list : {session.global().servers(), session.global().workers()}) {
    calls.push_back(session.call_on({.list = list}, lua::LiveServers{}));
  }
  const std::vector<Reply> lists = session.run(calls);
  for (const Reply& reply : lists) throw_if_error("list servers", reply);

  calls.clear();
  for (std::size_t kind = 0; kind < lists.size(); ++kind) {
    for (std::size_t i = 0; i < lists[kind].size(); ++i) {
      const std::string_view key = lists[kind][i].as_string();
      calls.push_back(Session::command(key, {kind == 0 ? "GET" : "HVALS", key}));
    }
  }
  const std::vector<Reply> records = session.run(calls);
  std::vector<ServerInfo> servers;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const Reply& record = records[i];
    if (i < lists[0].size()) {
      if (!record.is_string()) continue;
      if (Decoded<WireServer> decoded = decode_server(record.as_string())) {
        servers.push_back(std::move(decoded->server));
      }
      continue;
    }
    for (std::size_t k = 0; record.is_array() && k < record.size(); ++k) {
      Decoded<WireWorker> decoded = decode_worker(record[k].as_string());
      if (!decoded) continue;
      const auto owner = std::find_if(servers.begin(), servers.end(), [&](const ServerInfo& each) {
        return each.id == decoded->server_id;
      });
      if (owner != servers.end()) owner->workers.push_back(std::move(decoded->worker));
    }
  }
  return servers;
}

}  // namespace taskmux::redis
