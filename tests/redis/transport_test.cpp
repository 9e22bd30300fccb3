#include "redis/route/transport.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "support/fake_server.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

const Script increment{"increment", "return redis.call('INCRBY', KEYS[1], ARGV[1])"};
const Script broken{"broken", "this is not Lua"};

Call command(std::vector<std::string> args) {
  auto key = args.size() > 1 ? args[1] : std::string{};
  return {.slot_key = std::move(key), .args = std::move(args)};
}

Call add_to(const std::string& key, int number) {
  return {.slot_key = key, .script = &increment, .args = {"1", key, std::to_string(number)}};
}

/// Keeps log lines.
class Log {
 public:
  Logger logger() {
    return {LogLevel::debug, [this](LogLevel level, std::string_view text) {
              const std::lock_guard lock{mutex_};
              lines_.push_back(std::string{to_string(level)} + ": " + std::string{text});
            }};
  }

  int count(std::string_view text) {
    const std::lock_guard lock{mutex_};
    int found = 0;
    for (const auto& line : lines_) found += line.find(text) != line.npos ? 1 : 0;
    return found;
  }

 private:
  std::mutex mutex_;
  std::vector<std::string> lines_;
};

RedisOptions options_for(const RedisServer& server) {
  auto options = parse_redis_url(server.url());
  options.reconnect_min = 20ms;
  options.reconnect_max = 50ms;
  return options;
}

RedisOptions options_for(const FakeServer& server) {
  RedisOptions options;
  options.port = server.port();
  options.command_timeout = 150ms;
  options.reconnect_min = 20ms;
  options.reconnect_max = 50ms;
  return options;
}

template <typename Function>
std::optional<Error> thrown_by(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

bool contains(const Error& error, std::string_view text) {
  return std::string_view{error.what()}.find(text) != std::string_view::npos;
}

/// Runs `call` until it is answered without an error.
bool comes_back(Transport& transport, const Call& call) {
  return eventually([&] {
    try {
      return !transport.run({&call, 1}).front().is_error();
    } catch (const Error&) {
      return false;
    }
  });
}

/// A scripted server that answers `answer` to everything but a login.
FakeServer::Script always(FakeServer::Answer answer) {
  return [answer](const FakeServer::Command& asked) {
    if (auto login = login_answer(asked)) return *login;
    return answer;
  };
}

}  // namespace

TEST_CASE("a run returns one reply per call in order, in one pipeline", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  CHECK(transport.run({}).empty());

  const std::vector<Call> calls{add_to("k", 5), command({"GET", "k"}), command({"LPUSH", "k", "x"}),
                                add_to("k", 2)};
  const auto replies = transport.run(calls);
  REQUIRE(replies.size() == 4);
  CHECK(replies[0].as_integer() == 5);
  CHECK(replies[1].as_string() == "5");
  CHECK(errc_of(replies[2]) == Errc::protocol);
  CHECK(replies[3].as_integer() == 7);

  CHECK(transport.run_one("get", command({"GET", "k"})).as_string() == "7");
  const auto error = thrown_by([&] {
    transport.run_one("push to \"k\"", command({"LPUSH", "k", "x"}));
  });
  REQUIRE(error);
  CHECK(contains(*error, "push to \"k\": WRONGTYPE"));
}

TEST_CASE("a script is loaded once per connection, and then called by its SHA",
          "[redis][transport][script]") {
  RedisServer server;
  Transport transport{options_for(server)};
  for (int i = 0; i < 3; ++i) transport.run(std::vector<Call>{add_to("k", 1), add_to("k", 1)});
  CHECK(server.info("commandstats", "cmdstat_script|load").starts_with("calls=1,"));
  CHECK(server.info("commandstats", "cmdstat_evalsha").starts_with("calls=6,"));
  CHECK(server.command({"GET", "k"}).as_string() == "6");
}

TEST_CASE("after SCRIPT FLUSH only the script is repeated", "[redis][transport][script]") {
  RedisServer server;
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{add_to("k", 1)});
  server.command({"SCRIPT", "FLUSH"});
  const auto before = transport.epoch();
  const auto replies = transport.run(
      std::vector<Call>{command({"INCR", "a"}), add_to("k", 1), command({"INCR", "b"})});
  CHECK(replies[0].as_integer() == 1);
  CHECK(replies[1].as_integer() == 2);
  CHECK(replies[2].as_integer() == 1);
  CHECK(transport.epoch() == before);
}

TEST_CASE("a script that does not compile is reported with the reason",
          "[redis][transport][script]") {
  RedisServer server;
  Transport transport{options_for(server)};
  const auto replies = transport.run(std::vector<Call>{
      {.slot_key = "k", .script = &broken, .args = {"1", "k"}}, command({"INCR", "a"})});
  REQUIRE(replies[0].is_error());
  CHECK(replies[0].error_text().find("compiling script") != std::string_view::npos);
  CHECK(errc_of(replies[0]) == Errc::protocol);
  CHECK(replies[1].as_integer() == 1);
}

TEST_CASE("a missing right to load scripts is reported", "[redis][transport][script]") {
  RedisServer server;
  server.command({"ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "-script"});
  auto options = options_for(server);
  options.user = "u";
  options.password = "secret";
  Transport transport{options};
  const auto replies = transport.run(std::vector<Call>{add_to("k", 1)});
  CHECK(errc_of(replies[0]) == Errc::unauthorized);
}

TEST_CASE("a full Redis refuses the call, without breaking contact", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{command({"PING"})});
  server.command({"CONFIG", "SET", "maxmemory", "1"});
  const auto before = transport.epoch();
  const auto replies = transport.run(
      std::vector<Call>{command({"SET", "k", "v"}), command({"PING"}), add_to("k", 1)});
  CHECK(errc_of(replies[0]) == Errc::queue_full);
  CHECK(replies[1].as_string() == "PONG");
  CHECK(errc_of(replies[2]) == Errc::queue_full);
  CHECK(transport.epoch() == before);
}

TEST_CASE("a server that became a replica is unavailable, and the master is looked up again",
          "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{command({"PING"})});
  server.command({"REPLICAOF", "127.0.0.1", "1"});
  const auto before = transport.epoch();
  const auto replies = transport.run(
      std::vector<Call>{command({"GET", "k"}), command({"SET", "k", "v"}), add_to("k", 1)});
  CHECK(replies[0].is_nil());
  CHECK(errc_of(replies[1]) == Errc::unavailable);
  CHECK(replies[1].error_code() == "READONLY");
  CHECK(errc_of(replies[2]) == Errc::unavailable);
  CHECK(transport.epoch() > before);

  server.command({"REPLICAOF", "NO", "ONE"});
  const auto between = transport.epoch();
  CHECK_FALSE(transport.run(std::vector<Call>{command({"SET", "k", "v"})}).front().is_error());
  CHECK(transport.epoch() > between);  // contact was restored
}

TEST_CASE("a server that refuses work interrupts contact", "[redis][transport]") {
  const auto text = GENERATE(
      as<std::string>{}, "LOADING Redis is loading the dataset in memory",
      "MASTERDOWN Link with MASTER is down", "CLUSTERDOWN The cluster is down",
      "BUSY Redis is busy running a script.", "MISCONF Redis is configured to save RDB snapshots",
      "NOREPLICAS Not enough good replicas to write.");
  FakeServer server{always({"-" + text + "\r\n"})};
  Log log;
  auto options = options_for(server);
  options.logger = log.logger();
  Transport transport{options};
  auto epoch = transport.epoch();
  for (int i = 0; i < 3; ++i) {
    const auto replies = transport.run(std::vector<Call>{command({"PING"})});
    CHECK(errc_of(replies[0]) == Errc::unavailable);
    CHECK(transport.epoch() > epoch);
    epoch = transport.epoch();
  }
  CHECK(log.count("interrupted") == 1);  // and not more lines
}

TEST_CASE("TRYAGAIN is unavailable, but no interruption", "[redis][transport]") {
  FakeServer server{always({"-TRYAGAIN Multiple keys request during rehashing of slot\r\n"})};
  Transport transport{options_for(server)};
  const auto before = transport.epoch();
  CHECK(errc_of(transport.run(std::vector<Call>{command({"PING"})})[0]) == Errc::unavailable);
  CHECK(transport.epoch() == before);
}

TEST_CASE("every failed login is reported, without the password", "[redis][transport]") {
  RedisServer server{
      {.arguments = {"--requirepass", "right-secret"}, .admin = {.password = "right-secret"}}};
  Log log;
  auto options = options_for(server);
  options.logger = log.logger();
  options.password = GENERATE(as<std::string>{}, "", "wrong-secret");
  Transport transport{options};
  for (int i = 0; i < 5; ++i) {
    const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"PING"})}); });
    REQUIRE(error);
    CHECK(error->errc() == Errc::unauthorized);
    CHECK_FALSE(contains(*error, "secret"));
  }
  CHECK(log.count("secret") == 0);
}

TEST_CASE("while a server is unavailable, calls fail at once, and few attempts are made",
          "[redis][transport]") {
  FakeServer server{[](const auto&) { return FakeServer::Answer{}; },
                    FakeServer::Answer{.close_after = true}};
  auto options = options_for(server);
  options.reconnect_min = 10s;
  options.reconnect_max = 10s;
  Log log;
  options.logger = log.logger();
  Transport transport{options};
  for (int i = 0; i < 1000; ++i) {
    const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"PING"})}); });
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
  }
  CHECK(server.connections() == 1);
  CHECK(log.count("") == 1);
}

TEST_CASE("after a restart, calls and scripts work again, and contact starts anew",
          "[redis][transport]") {
  RedisServer server{{.tcp = GENERATE(false, true)}};
  Log log;
  auto options = options_for(server);
  options.logger = log.logger();
  Transport transport{options};
  transport.run(std::vector<Call>{add_to("k", 1)});
  const auto first = transport.epoch();
  server.kill();
  const auto error = thrown_by([&] { transport.run(std::vector<Call>{add_to("k", 1)}); });
  REQUIRE(error);
  CHECK(error->errc() == Errc::unavailable);
  const auto second = transport.epoch();
  CHECK(second > first);
  server.start();
  CHECK(comes_back(transport, add_to("k", 1)));
  CHECK(transport.epoch() > second);
  CHECK(log.count("interrupted") == 1);
  CHECK(log.count("restored") == 1);

  const auto stable = transport.epoch();
  for (int i = 0; i < 10; ++i) transport.run(std::vector<Call>{add_to("k", 1)});
  CHECK(transport.epoch() == stable);
}

TEST_CASE("an unnoticed restart is detected by the next call", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{add_to("k", 1)});
  const auto before = transport.epoch();
  server.kill();
  server.start();
  CHECK(transport.run(std::vector<Call>{add_to("k", 1)})[0].as_integer() == 1);
  CHECK(transport.epoch() > before);
}

TEST_CASE("an idle connection that the server closed is replaced silently", "[redis][transport]") {
  RedisServer server{{.tcp = GENERATE(false, true)}};
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{add_to("k", 1)});
  const auto before = transport.epoch();
  for (int i = 2; i < 5; ++i) {
    server.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
    CHECK(transport.run(std::vector<Call>{add_to("k", 1)})[0].as_integer() == i);
  }
  CHECK(transport.epoch() == before);
}

TEST_CASE("a request whose reply is lost is not repeated", "[redis][transport]") {
  std::atomic<int> asked{0};
  FakeServer server{[&](const FakeServer::Command& request) {
    if (auto login = login_answer(request)) return *login;
    ++asked;
    return FakeServer::Answer{"", true};
  }};
  Transport transport{options_for(server)};
  const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"INCR", "k"})}); });
  REQUIRE(error);
  CHECK(error->errc() == Errc::unavailable);
  CHECK(asked == 1);
}

TEST_CASE("replies that came before the connection broke are kept", "[redis][transport]") {
  const bool closes = GENERATE(false, true);
  FakeServer server{[&](const FakeServer::Command& request) {
    if (auto login = login_answer(request)) return *login;
    if (request[0] == "FIRST") return FakeServer::Answer{":1\r\n"};
    return FakeServer::Answer{"", closes};
  }};
  Transport transport{options_for(server)};
  const auto before = transport.epoch();
  const auto replies =
      transport.run(std::vector<Call>{command({"FIRST"}), command({"SECOND"}), command({"THIRD"})});
  REQUIRE(replies.size() == 3);
  CHECK(replies[0].as_integer() == 1);
  for (const auto index : {1u, 2u}) {
    CHECK(replies[index].error_code() == lost_code);
    CHECK(errc_of(replies[index]) == Errc::unavailable);
  }
  CHECK(transport.epoch() > before);
}

TEST_CASE("a repeated script whose reply is lost has an unknown outcome", "[redis][transport]") {
  std::atomic<int> asked{0};
  FakeServer server{[&](const FakeServer::Command& request) {
    if (auto login = login_answer(request)) return *login;
    if (request[0] == "SCRIPT") return FakeServer::Answer{"+OK\r\n"};
    if (request[0] == "PING") return FakeServer::Answer{"+PONG\r\n"};
    if (++asked == 1) return FakeServer::Answer{"-NOSCRIPT No matching script.\r\n"};
    return FakeServer::Answer{"", true};
  }};
  Transport transport{options_for(server)};
  const auto replies = transport.run(std::vector<Call>{add_to("k", 1), command({"PING"})});
  CHECK(asked == 2);
  CHECK(replies[0].error_code() == lost_code);
  CHECK(replies[1].as_string() == "PONG");
}

TEST_CASE("a redirection by a server that is not in a cluster is not followed",
          "[redis][transport]") {
  FakeServer server{always({"-MOVED 1 127.0.0.1:1\r\n"})};
  Transport transport{options_for(server)};
  CHECK(errc_of(transport.run(std::vector<Call>{command({"PING"})})[0]) == Errc::unavailable);
}

TEST_CASE("garbage instead of a reply is a protocol error", "[redis][transport]") {
  FakeServer server{always({"garbage\r\n"})};
  Transport transport{options_for(server)};
  const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"PING"})}); });
  REQUIRE(error);
  CHECK(error->errc() == Errc::protocol);
}

TEST_CASE("a server that hangs costs one timeout, and is used again when it continues",
          "[redis][transport]") {
  RedisServer server{{.tcp = GENERATE(false, true)}};
  auto options = options_for(server);
  options.connect_timeout = 200ms;
  options.command_timeout = 200ms;
  Transport transport{options};
  transport.run(std::vector<Call>{command({"PING"})});
  const auto before = transport.epoch();
  server.pause();
  for (int i = 0; i < 3; ++i) {
    const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"PING"})}); });
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
  }
  server.resume();
  CHECK(transport.epoch() > before);
  CHECK(comes_back(transport, command({"PING"})));
}

TEST_CASE("WAIT tells how many replicas have a write", "[redis][transport]") {
  RedisServer server{{.tcp = true}};
  Transport transport{options_for(server)};
  const std::vector<Call> calls{command({"SET", "k", "v"}), command({"LPUSH", "k", "x"}),
                                add_to("n", 1)};
  SECTION("no replica") {
    const auto waited = transport.run_and_wait(calls, 1, 20ms);
    CHECK(waited.replies[0].as_string() == "OK");
    CHECK(waited.replicas == std::vector<int>{0, 0, 0});
  }
  SECTION("a replica") {
    RedisServer replica{
        {.tcp = true, .arguments = {"--replicaof", "127.0.0.1 " + std::to_string(server.port())}}};
    REQUIRE(eventually([&] { return replica.info("replication", "master_link_status") == "up"; }));
    const auto waited = transport.run_and_wait(calls, 1, 3s);
    CHECK(waited.replicas == std::vector<int>{1, 0, 1});  // nothing was written by the refused call
    CHECK(replica.command({"GET", "n"}).as_string() == "1");
  }
}

TEST_CASE("a server whose settings may lose tasks is warned about once", "[redis][transport]") {
  const bool allowed = GENERATE(true, false);
  const bool careful = GENERATE(true, false);
  RedisServer server;
  server.command({"CONFIG", "SET", "maxmemory-policy", careful ? "noeviction" : "allkeys-lru"});
  if (careful) server.command({"CONFIG", "SET", "save", "3600 1"});
  server.command({"ACL", "SETUSER", "u", "on", ">secret", "~*", "+@all", "-config", "-info"});
  Log log;
  auto options = options_for(server);
  options.logger = log.logger();
  if (!allowed) options.user = "u";
  if (!allowed) options.password = "secret";
  Transport transport{options};
  for (int i = 0; i < 3; ++i) {
    transport.run(std::vector<Call>{command({"PING"})});
    server.command({"CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"});
  }
  CHECK(log.count("allkeys-lru") == (allowed && !careful ? 1 : 0));
  CHECK(log.count("loses all tasks") == (allowed && !careful ? 1 : 0));
  CHECK(log.count("warning") == (allowed && !careful ? 2 : 0));
}

TEST_CASE("a dedicated connection is outside the pool", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  const auto connection = transport.dedicate(transport.node_of("any"));
  connection->send(Commands{}.add({"SUBSCRIBE", "c"}), transport.command_deadline());
  REQUIRE(connection->receive(transport.command_deadline()));
  transport.run(std::vector<Call>{command({"PUBLISH", "c", "hello"})});
  REQUIRE(connection->receive(transport.command_deadline()));
  CHECK(transport.node_of("a") == transport.node_of("b"));

  const auto before = transport.epoch();
  transport.report_lost(*connection, "the test says so");
  CHECK(transport.epoch() > before);
}

TEST_CASE("many threads share few connections", "[redis][transport]") {
  constexpr int threads = 8;
  constexpr int runs = 200;
  RedisServer server;
  auto options = options_for(server);
  options.max_idle_connections = 3;
  Transport transport{options};
  std::atomic<int> failures{0};
  {
    std::vector<std::jthread> all;
    for (int i = 0; i < threads; ++i)
      all.emplace_back([&] {
        for (int run = 0; run < runs; ++run) {
          const auto replies =
              transport.run(std::vector<Call>{add_to("k", 1), command({"PING"}), add_to("k", 1)});
          if (!replies[0].is_integer() || replies[1].as_string() != "PONG") ++failures;
        }
      });
  }
  CHECK(failures == 0);
  CHECK(server.command({"GET", "k"}).as_string() == std::to_string(threads * runs * 2));
  // The idle connections, and the test's own.
  CHECK(eventually([&] { return std::stoi(server.info("clients", "connected_clients")) <= 4; }));
}

TEST_CASE("a server that comes and goes under many threads loses no thread", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  std::atomic<int> answered{0};
  std::atomic<int> failed{0};
  std::atomic<bool> done{false};
  {
    std::vector<std::jthread> all;
    for (int i = 0; i < 4; ++i)
      all.emplace_back([&] {
        while (!done) {
          try {
            transport.run(std::vector<Call>{add_to("k", 1)});
            ++answered;
          } catch (const Error&) {
            ++failed;
          }
        }
      });
    for (int round = 0; round < 3; ++round) {
      const int seen = answered;
      CHECK(eventually([&] { return answered > seen + 100; }));
      server.kill();
      const int before = failed;
      CHECK(eventually([&] { return failed > before; }));
      server.start();
    }
    done = true;
  }
  CHECK(comes_back(transport, add_to("k", 1)));
}

TEST_CASE("a server of the wrong kind is refused with the URL to use", "[redis][transport]") {
  RedisServer node{{.tcp = true, .arguments = {"--cluster-enabled", "yes"}}};
  RedisServer plain{{.tcp = true}};
  RedisSentinel sentinel{{.master_port = plain.port()}};
  const auto refused = [](const std::string& url, const std::string& hint) {
    Transport transport{parse_redis_url(url)};
    const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"GET", "k"})}); });
    REQUIRE(error);
    CAPTURE(error->what());
    CHECK(error->errc() == Errc::invalid_argument);
    CHECK(contains(*error, hint));
  };
  refused(node.url(), "redis-cluster://");
  refused("redis://127.0.0.1:" + std::to_string(sentinel.port()), "redis-sentinel://");
  refused("redis-cluster://127.0.0.1:" + std::to_string(plain.port()), "not a node");
}

TEST_CASE("a Valkey server of the wrong kind is refused, too", "[redis][transport]") {
  const auto error_from = [](const std::string& scheme, const std::string& mode) {
    FakeServer server{[&mode](const FakeServer::Command& asked) {
      if (asked[0] == "INFO")
        return FakeServer::Answer{
            bulk("# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\n"
                 "valkey_version:8.0.1\r\nserver_mode:" +
                 mode + "\r\nrun_id:abc\r\n")};
      return login_answer(asked).value_or(FakeServer::Answer{"$-1\r\n"});
    }};
    Transport transport{parse_redis_url(scheme + "://127.0.0.1:" + std::to_string(server.port()))};
    return thrown_by([&] { transport.run(std::vector<Call>{command({"GET", "k"})}); });
  };
  const auto refused = [&](const std::string& mode, const std::string& scheme) {
    const auto error = error_from(scheme, mode);
    return error && error->errc() == Errc::invalid_argument;
  };
  CHECK(refused("cluster", "redis"));
  CHECK(refused("sentinel", "redis"));
  CHECK(refused("standalone", "redis-cluster"));
  CHECK_FALSE(error_from("redis", "standalone"));
}

TEST_CASE("a transport can be used only in the process that made it", "[redis][transport]") {
  RedisServer server;
  Transport transport{options_for(server)};
  transport.run(std::vector<Call>{command({"PING"})});
  const auto child = fork();
  if (child == 0) {
    const auto error = thrown_by([&] { transport.run(std::vector<Call>{command({"INCR", "k"})}); });
    _exit(error && error->errc() == Errc::forked ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(transport.run(std::vector<Call>{command({"INCR", "k"})})[0].as_integer() == 1);
}
