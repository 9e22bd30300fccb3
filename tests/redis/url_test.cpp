#include <string>

#include "redis/options.hpp"
#include "support/test.hpp"
#include "taskmux/error.hpp"
#include "taskmux/redis/redis_options.hpp"

using namespace taskmux;
using namespace std::chrono_literals;

namespace {

/// The text of what is thrown for an invalid URL.
std::invalid_argument error_of_url(const std::string& url) {
  try {
    parse_redis_url(url);
  } catch (const std::invalid_argument& error) {
    return error;
  }
  throw std::logic_error{"accepted: " + url};
}

bool contains(const std::exception& error, const std::string& text) {
  return std::string{error.what()}.find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("a redis:// URL names a server, a login and a database", "[redis][url]") {
  const auto all = parse_redis_url("redis://worker:p%40ss%3aw%2Frd@db.example:7000/3");
  CHECK(all.mode == RedisMode::standalone);
  CHECK(all.host == "db.example");
  CHECK(all.port == 7000);
  CHECK(all.user == "worker");
  CHECK(all.password == "p@ss:w/rd");
  CHECK(all.database == 3);

  const auto little = parse_redis_url("redis://localhost");
  CHECK(little.host == "localhost");
  CHECK(little.port == 6379);
  CHECK(little.user.empty());
  CHECK(little.password.empty());
  CHECK(little.database == 0);

  CHECK(parse_redis_url("redis://:secret@localhost/").password == "secret");
  CHECK(parse_redis_url("redis://:secret@localhost/").user.empty());
  CHECK(parse_redis_url("redis://a:b@c@localhost").password == "b@c");
  CHECK(parse_redis_url("redis://[::1]").host == "::1");
  CHECK(parse_redis_url("redis://:x@[fe80::1]:6380/1").port == 6380);
}

TEST_CASE("a redis-socket:// URL names a path", "[redis][url]") {
  const auto options = parse_redis_url("redis-socket://:pw@/run/redis%20one/redis.sock?db=4");
  CHECK(options.mode == RedisMode::unix_socket);
  CHECK(options.socket_path == "/run/redis one/redis.sock");
  CHECK(options.password == "pw");
  CHECK(options.database == 4);
  CHECK(parse_redis_url("redis-socket:///tmp/r.sock").socket_path == "/tmp/r.sock");
}

TEST_CASE("a redis-sentinel:// URL names Sentinels, their password and a master", "[redis][url]") {
  const auto options =
      parse_redis_url("redis-sentinel://:pw@one:1,two,[::1]:3/2?master=the%20queue");
  CHECK(options.mode == RedisMode::sentinel);
  CHECK(options.addresses == std::vector<RedisAddress>{{"one", 1}, {"two", 26379}, {"::1", 3}});
  CHECK(options.sentinel_password == "pw");
  CHECK(options.password.empty());
  CHECK(options.database == 2);
  CHECK(options.master_name == "the queue");
  CHECK(parse_redis_url("redis-sentinel://one").master_name == "mymaster");
}

TEST_CASE("a redis-cluster:// URL names nodes", "[redis][url]") {
  const auto options = parse_redis_url("redis-cluster://user:pw@one:7001,two:7002");
  CHECK(options.mode == RedisMode::cluster);
  CHECK(options.addresses == std::vector<RedisAddress>{{"one", 7001}, {"two", 7002}});
  CHECK(options.user == "user");
  CHECK(options.password == "pw");
}

TEST_CASE("rediss:// is refused as not supported", "[redis][url]") {
  try {
    parse_redis_url("rediss://:hunter2@localhost");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::unsupported);
    CHECK(contains(error, "TLS"));
  }
}

TEST_CASE("a malformed URL is refused with the name of the part, without repeating the URL",
          "[redis][url]") {
  const auto [url, part] = GENERATE(table<std::string, std::string>({
      {"", "scheme"},
      {"hunter2", "scheme"},
      {"hunter2@localhost:6379", "scheme"},
      {"http://hunter2@localhost", "scheme"},
      {"://hunter2@localhost", "scheme"},
      {"REDIS://hunter2", "scheme"},
      {"redis://", "host"},
      {"redis://:hunter2@", "host"},
      {"redis://:hunter2@/1", "host"},
      {"redis://:hunter2@:6379", "host"},
      {"redis://:hunter2@::1", "host"},
      {"redis://:hunter2@[::1", "host"},
      {"redis://:hunter2@[::1]x:1", "host"},
      {"redis://:hunter2@[]", "host"},
      {"redis://:hunter2@[localhost]", "host"},
      {"redis://:hunter2@two words", "host"},
      {"redis://:hunter2@local%00host", "host"},
      {"redis://:hunter2@local%zzhost", "host"},
      {"redis://:hunter2@localhost:", "port"},
      {"redis://:hunter2@localhost:0", "port"},
      {"redis://:hunter2@localhost:65536", "port"},
      {"redis://:hunter2@localhost:-1", "port"},
      {"redis://:hunter2@localhost:hunter2", "port"},
      {"redis://:hunter2@localhost:6379x", "port"},
      {"redis://:hunter2%4@localhost", "password"},
      {"redis://:hunter2%@localhost", "password"},
      {"redis://us%er:hunter2@localhost", "user"},
      {"redis://:hunter2@localhost/x", "database"},
      {"redis://:hunter2@localhost/-1", "database"},
      {"redis://:hunter2@localhost/1/2", "database"},
      {"redis://:hunter2@localhost/99999999999", "database"},
      {"redis://:hunter2@localhost?db=1", "parameter"},
      {"redis://:hunt#er2@localhost", "'#'"},
      {"redis://:hunter2\n@localhost", "control"},
      {"redis-socket://", "path"},
      {"redis-socket:///", "path"},
      {"redis-socket://:hunter2@", "path"},
      {"redis-socket://hunter2/redis.sock", "path"},
      {"redis-socket://:hunter2@/r.sock?db=x", "database"},
      {"redis-socket://:hunter2@/r.sock?data=1", "parameter"},
      {"redis-socket://:hunter2@/r.sock?db", "parameter"},
      {"redis-sentinel://:hunter2@", "host"},
      {"redis-sentinel://:hunter2@one,", "host"},
      {"redis-sentinel://:hunter2@one,,two", "host"},
      {"redis-sentinel://:hunter2@one:x", "port"},
      {"redis-sentinel://:hunter2@one?master=", "master"},
      {"redis-sentinel://:hunter2@one?master=a&b=c", "parameter"},
      {"redis-cluster://:hunter2@one/1", "database"},
      {"redis-cluster://:hunter2@,", "host"},
  }));
  CAPTURE(url);
  const auto error = error_of_url(url);
  CHECK(contains(error, part));
  CHECK_FALSE(contains(error, "hunt"));
}

TEST_CASE("an unencoded special character in a password is reported", "[redis][url]") {
  const std::string url = GENERATE(
      "redis://:hunt/er2@localhost", "redis://:/hunter2@localhost:6379/1", "redis://u:hun?ter2@localhost",
      "redis://:hunt#er2@localhost", "redis-cluster://:hunt/er2@one,two", "redis-sentinel://:h/unter2@one",
      "redis-socket://:hunt/er2@/r.sock", "redis://:hunt/e@r2@localhost");
  CAPTURE(url);
  const auto error = error_of_url(url);
  CAPTURE(error.what());
  CHECK(contains(error, "%2F"));
  CHECK_FALSE(contains(error, "hunt"));
  CHECK_FALSE(contains(error, "er2"));
}

TEST_CASE("a path or a name with @ needs no percent-encoding", "[redis][url]") {
  CHECK(parse_redis_url("redis-socket:///run/a@b.sock").socket_path == "/run/a@b.sock");
  CHECK(parse_redis_url("redis-sentinel://one?master=a@b").master_name == "a@b");
}

TEST_CASE("options that can't work are refused with the name of the field", "[redis][url]") {
  RedisOptions options;
  const auto refused = [&](const char* name, auto&& change) {
    options = {};
    change(options);
    try {
      redis::check(options);
      FAIL("accepted: " << name);
    } catch (const std::invalid_argument& error) {
      CHECK(contains(error, name));
    }
  };
  refused("host", [](auto& o) { o.host = ""; });
  refused("host", [](auto& o) { o.host = std::string{"a\0b", 3}; });
  refused("port", [](auto& o) { o.port = 0; });
  refused("socket_path", [](auto& o) { o.mode = RedisMode::unix_socket; });
  refused("socket_path", [](auto& o) {
    o.mode = RedisMode::unix_socket;
    o.socket_path = "/" + std::string(200, 'x');
  });
  refused("addresses", [](auto& o) { o.mode = RedisMode::sentinel; });
  refused("addresses", [](auto& o) {
    o.mode = RedisMode::cluster;
    o.addresses = {{"", 1}};
  });
  refused("master_name", [](auto& o) {
    o.mode = RedisMode::sentinel;
    o.master_name = "";
  });
  refused("database", [](auto& o) { o.database = -1; });
  refused("database", [](auto& o) {
    o.mode = RedisMode::cluster;
    o.addresses = {{"one", 1}};
    o.database = 1;
  });
  refused("connect_timeout", [](auto& o) { o.connect_timeout = 0s; });
  refused("command_timeout", [](auto& o) { o.command_timeout = -1s; });
  refused("command_timeout", [](auto& o) { o.command_timeout = 2h; });
  refused("reconnect_min", [](auto& o) { o.reconnect_min = 0s; });
  refused("reconnect_max", [](auto& o) { o.reconnect_max = 1ms; });
  refused("wait_replicas", [](auto& o) { o.wait_replicas = -1; });
  refused("wait_timeout", [](auto& o) {
    o.wait_replicas = 1;
    o.wait_timeout = 0s;
  });
  refused("client_name", [](auto& o) { o.client_name = "two words"; });
  refused("key_prefix", [](auto& o) { o.key_prefix = ""; });
  refused("key_prefix", [](auto& o) { o.key_prefix = "a{b"; });
  redis::check({});
}
