#include "snapshot.hpp"

#include <utility>

namespace taskmux::chaos {
namespace {

Stored read(test::RedisServer& server, const std::string& key) {
  Stored stored;
  stored.type = server.command({"TYPE", key}).as_string();
  stored.expires = server.command({"PTTL", key}).as_integer() >= 0;
  if (stored.type == "string") {
    stored.text = server.command({"GET", key}).as_optional_string().value_or("");
    return stored;
  }
  if (stored.type == "hash") {
    const auto fields = server.command({"HGETALL", key});
    for (std::size_t i = 0; i + 1 < fields.size(); i += 2)
      stored.fields.emplace(fields[i].as_string(), fields[i + 1].as_string());
    return stored;
  }
  const auto members = stored.type == "list"   ? server.command({"LRANGE", key, "0", "-1"})
                       : stored.type == "zset" ? server.command({"ZRANGE", key, "0", "-1"})
                                               : server.command({"SMEMBERS", key});
  for (std::size_t i = 0; i < members.size(); ++i)
    stored.members.emplace_back(members[i].as_string());
  return stored;
}

}  // namespace

Snapshot take_snapshot(test::RedisServer& server) {
  Snapshot snapshot;
  std::string cursor = "0";
  do {
    const auto page = server.command({"SCAN", cursor, "COUNT", "1000"});
    cursor = page[0].as_string();
    for (std::size_t i = 0; i < page[1].size(); ++i) {
      std::string key{page[1][i].as_string()};
      Stored stored = read(server, key);
      if (stored.type != "none") snapshot.insert_or_assign(std::move(key), std::move(stored));
    }
  } while (cursor != "0");
  return snapshot;
}

}  // namespace taskmux::chaos
