#include "redis/net/connection.hpp"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <string>
#include <thread>

#include "support/fake_server.hpp"
#include "support/no_threads.hpp"
#include "support/redis_server.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

SteadyTime in(std::chrono::milliseconds time) { return std::chrono::steady_clock::now() + time; }

Endpoint at(const FakeServer& server) { return {.host = "127.0.0.1", .port = server.port()}; }

/// What `call` throws; none if it does not.
template <typename Call>
std::optional<Error> thrown_by(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return std::nullopt;
}

std::optional<Error> login_error(const Endpoint& endpoint, const Login& login = {},
                                 std::chrono::milliseconds limit = 3s) {
  return thrown_by([&] { Connection{endpoint, login, in(limit)}; });
}

bool contains(const Error& error, std::string_view text) {
  return std::string_view{error.what()}.find(text) != std::string_view::npos;
}

}  // namespace

TEST_CASE("commands and replies may hold any bytes", "[redis][connection]") {
  RedisServer server{{.tcp = GENERATE(false, true)}};
  Connection connection{server.endpoint(), {}, in(3s)};
  std::string bytes;
  for (int i = 0; i < 1024; ++i) bytes.push_back(static_cast<char>(i));
  for (const auto& value : {bytes, std::string{}, std::string{"\r\n$5\r\n"}}) {
    CHECK(connection.command({"SET", bytes, value}, in(3s)).as_string() == "OK");
    CHECK(connection.command({"GET", bytes}, in(3s)).as_string() == value);
  }
  CHECK(connection.command({"GET", "none"}, in(3s)).is_nil());
}

TEST_CASE("a pipeline returns replies in order, including error replies", "[redis][connection]") {
  RedisServer server;
  Connection connection{server.endpoint(), {}, in(3s)};
  Commands commands;
  commands.add({"SET", "k", "text"}).add({"INCR", "k"}).add({"GET", "k"});
  const auto replies = connection.pipeline(commands, in(3s));
  REQUIRE(replies.size() == 3);
  CHECK(replies[0].as_string() == "OK");
  CHECK(errc_of(replies[1]) == Errc::protocol);
  CHECK(replies[2].as_string() == "text");
  CHECK(connection.healthy());

  const auto error = thrown_by([&] { connection.command({"INCR", "k"}, in(3s)); });
  REQUIRE(error);
  CHECK(error->errc() == Errc::protocol);
  CHECK(contains(*error, "INCR at " + server.socket_path()));
  CHECK(connection.healthy());
}

TEST_CASE("a pipeline larger than all buffers does not block itself", "[redis][connection]") {
  RedisServer server;
  Connection connection{server.endpoint(), {}, in(3s)};
  const std::string megabyte(1 << 20, 'x');
  Commands commands;
  for (int i = 0; i < 48; ++i) commands.add({"ECHO", megabyte});
  for (const auto& reply : connection.pipeline(commands, in(30s)))
    CHECK(reply.as_string().size() == megabyte.size());

  commands.clear();
  for (int i = 0; i < 100000; ++i) commands.add({"PING"});
  CHECK(connection.pipeline(commands, in(30s)).size() == 100000);
}

TEST_CASE("a login sets name and database, and reads the server's properties",
          "[redis][connection]") {
  RedisServer server;
  Connection connection{server.endpoint(), {.database = 3, .client_name = "tmx-test"}, in(3s)};
  CHECK(connection.command({"CLIENT", "GETNAME"}, in(3s)).as_string() == "tmx-test");
  CHECK(connection.command({"CLIENT", "ID"}, in(3s)).as_integer() == connection.client_id());
  connection.command({"SET", "k", "v"}, in(3s));
  CHECK(server.info("keyspace", "db3").starts_with("keys=1"));
  CHECK(connection.server().version == server.info("server", "redis_version"));
  CHECK(connection.server().run_id == server.info("server", "run_id"));
  CHECK(connection.server().mode == "standalone");
}

TEST_CASE("a refused login is reported without the password", "[redis][connection]") {
  RedisServer server{
      {.arguments = {"--requirepass", "right-secret"}, .admin = {.password = "right-secret"}}};
  server.command({"ACL", "SETUSER", "worker", "on", ">worker-secret", "~*", "+@all"});
  server.command({"ACL", "SETUSER", "narrow", "on", ">narrow-secret", "~*", "+get"});
  const auto endpoint = server.endpoint();

  Connection{endpoint, {.password = "right-secret"}, in(3s)};
  Connection{endpoint, {.user = "worker", .password = "worker-secret"}, in(3s)};
  // This user may neither set a name nor call INFO, which are optional.
  Connection narrow{
      endpoint, {.user = "narrow", .password = "narrow-secret", .client_name = "n"}, in(3s)};
  CHECK(narrow.command({"GET", "k"}, in(3s)).is_nil());
  CHECK_FALSE(narrow.server().version.empty());  // by HELLO
  const auto forbidden = thrown_by([&] { narrow.command({"SET", "k", "v"}, in(3s)); });
  REQUIRE(forbidden);
  CHECK(forbidden->errc() == Errc::unauthorized);

  for (const Login& login :
       {Login{}, Login{.password = "wrong-secret"},
        Login{.user = "worker", .password = "wrong-secret"},
        Login{.user = "nobody", .password = "wrong-secret"}, Login{.client_name = "n"}}) {
    const auto error = login_error(endpoint, login);
    REQUIRE(error);
    CHECK(error->errc() == Errc::unauthorized);
    CHECK_FALSE(contains(*error, "secret"));
  }
}

TEST_CASE("a password for a server that has none is refused", "[redis][connection]") {
  RedisServer server;
  const auto error = login_error(server.endpoint(), {.password = "secret"});
  // Since Redis 6, the default user without a password accepts any password if AUTH names the user.
  REQUIRE(error);
  CHECK(error->errc() == Errc::unauthorized);
  CHECK_FALSE(contains(*error, "secret"));
}

TEST_CASE("a database that does not exist is an invalid argument", "[redis][connection]") {
  RedisServer server;
  const auto error = login_error(server.endpoint(), {.database = 99});
  REQUIRE(error);
  CHECK(error->errc() == Errc::invalid_argument);
}

TEST_CASE("a password that a server repeats in its error is not reported", "[redis][connection]") {
  FakeServer server{[](const auto& command) {
    return FakeServer::Answer{"-ERR unknown command `" + command[0] +
                              "`, with args beginning with: `" +
                              (command.size() > 1 ? command[1] : "") + "`\r\n"};
  }};
  const auto error = login_error(at(server), {.password = "secret"});
  REQUIRE(error);
  CHECK_FALSE(contains(*error, "secret"));
  CHECK(contains(*error, "AUTH"));
}

TEST_CASE("a server that refuses CLIENT can be used", "[redis][connection]") {
  FakeServer server{[](const auto& command) {
    if (command[0] == "CLIENT") return FakeServer::Answer{"-ERR unknown command 'CLIENT'\r\n"};
    return *login_answer(command);
  }};
  Connection connection{at(server), {.client_name = "n"}, in(3s)};
  CHECK(connection.healthy());
}

TEST_CASE("a server older than 6.2 is refused", "[redis][connection]") {
  const auto [version, old] = GENERATE(table<std::string, bool>({{"2.8.24", true},
                                                                 {"5.0.14", true},
                                                                 {"6.0.16", true},
                                                                 {"6.2.0", false},
                                                                 {"7.0.15", false},
                                                                 {"10.1.0", false}}));
  FakeServer server{[v = version](const auto& command) { return *login_answer(command, v); }};
  const auto error = login_error(at(server));
  CHECK(error.has_value() == old);
  if (!error) return;
  CHECK(error->errc() == Errc::unsupported);
  CHECK(contains(*error, version));
  CHECK(contains(*error, "6.2"));
}

TEST_CASE("a peer that is not Redis is recognised", "[redis][connection]") {
  const auto [what, answer, greeting] = GENERATE(table<std::string, std::string, std::string>({
      {"a web server", "HTTP/1.1 400 Bad Request\r\n\r\n", ""},
      {"an SSH server", "", "SSH-2.0-OpenSSH_9.2\r\n"},
      {"one that says yes to everything", "+OK\r\n", ""},
      {"one that has numbers for everything", ":1\r\n", ""},
      {"one that knows no INFO", "-ERR unknown command\r\n", ""},
      {"one whose INFO is about something else", "$4\r\ntext\r\n", ""},
      {"an array that never ends nesting",
       "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", ""},
      {"an array of billions", "*2147483647\r\n", ""},
      {"a length that is no number", "$x\r\n", ""},
      {"a negative length", "$-5\r\n", ""},
  }));
  CAPTURE(what);
  FakeServer server{[reply = answer](const auto&) { return FakeServer::Answer{reply}; },
                    FakeServer::Answer{greeting}};
  const auto error = login_error(at(server));
  REQUIRE(error);
  CAPTURE(error->what());
  CHECK(error->errc() == Errc::protocol);
}

TEST_CASE("a server that refuses, closes or hangs during a login is unavailable in time",
          "[redis][connection]") {
  SECTION("nobody listens") {
    const auto error = login_error({.host = "127.0.0.1", .port = free_port()});
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
    CHECK(contains(*error, "connection refused"));
  }
  SECTION("no such socket") {
    const auto error = login_error({.socket_path = "/nowhere/redis.sock"});
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
  }
  SECTION("no such host") {
    const auto error = login_error({.host = "no-such-host.invalid", .port = 6379}, {}, 300ms);
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
    CHECK(contains(*error, "no-such-host.invalid:6379"));
  }
  SECTION("it closes at once") {
    FakeServer server{[](const auto&) { return FakeServer::Answer{}; },
                      FakeServer::Answer{.close_after = true}};
    const auto error = login_error(at(server));
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
  }
  SECTION("it never answers") {
    FakeServer server{[](const auto&) { return FakeServer::Answer{}; }};
    const auto error = login_error(at(server), {}, 100ms);
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
    CHECK(contains(*error, "no answer in time"));
  }
  SECTION("it takes no connection") {
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    REQUIRE(::bind(listener, reinterpret_cast<sockaddr*>(&address), length) == 0);
    REQUIRE(::listen(listener, 0) == 0);
    REQUIRE(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) == 0);
    const Endpoint endpoint{.host = "127.0.0.1", .port = ntohs(address.sin_port)};
    std::optional<Error> error;
    // The first ones fill the queue, and wait for a reply instead.
    for (int i = 0; i < 3; ++i) error = login_error(endpoint, {}, 100ms);
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
    ::close(listener);
  }
}

TEST_CASE("a host is unavailable if no thread can be started to resolve it",
          "[redis][connection]") {
  const Endpoint named{.host = "localhost", .port = 1};
  const NoThreads none;
  const auto error = login_error(named);
  REQUIRE(error);
  CHECK(error->errc() == Errc::unavailable);
  CHECK(contains(*error, "localhost:1: can't start a thread"));
}

TEST_CASE("a server with too many clients is reported as unavailable", "[redis][connection]") {
  RedisServer server{{.tcp = true, .arguments = {"--maxclients", "2"}}};
  server.command({"PING"});
  Connection one{server.endpoint(), {}, in(3s)};
  const auto error = login_error(server.endpoint());
  REQUIRE(error);
  CHECK(error->errc() == Errc::unavailable);
}

TEST_CASE("a missing, truncated or invalid reply breaks the connection", "[redis][connection]") {
  const auto [what, bytes, closes, errc] = GENERATE(table<std::string, std::string, bool, Errc>({
      {"silence", "", false, Errc::unavailable},
      {"half an answer, then silence", "$10\r\nhalf", false, Errc::unavailable},
      {"no answer, closed", "", true, Errc::unavailable},
      {"half an answer, closed", "$10\r\nhalf", true, Errc::unavailable},
      {"garbage", "garbage\r\n", false, Errc::protocol},
      {"garbage, closed", "\r\n\r\n", true, Errc::protocol},
  }));
  CAPTURE(what);
  FakeServer server{[text = bytes, close = closes](const auto& command) {
    if (auto answer = login_answer(command)) return *answer;
    if (command[0] == "PING") return FakeServer::Answer{"+PONG\r\n"};
    if (command[0] == "GET") return FakeServer::Answer{text, close};
    return FakeServer::Answer{};
  }};
  Connection connection{at(server), {}, in(3s)};
  std::vector<Reply> replies;
  Commands commands;
  commands.add({"PING"}).add({"GET", "k"}).add({"TIME"});
  const auto error = thrown_by([&] { connection.pipeline(commands, replies, in(150ms)); });
  REQUIRE(error);
  CHECK(error->errc() == errc);
  CHECK(contains(*error, connection.endpoint().to_string()));
  REQUIRE(replies.size() == 1);  // earlier replies are kept
  CHECK(replies[0].as_string() == "PONG");

  CHECK_FALSE(connection.healthy());
  const auto again = thrown_by([&] { connection.command({"PING"}, in(3s)); });
  REQUIRE(again);
  CHECK(again->errc() == Errc::unavailable);
}

TEST_CASE("a connection that the server closed is noticed, and raises no signal",
          "[redis][connection]") {
  RedisServer server{{.tcp = GENERATE(false, true)}};
  Connection connection{server.endpoint(), {}, in(3s)};
  CHECK(connection.healthy());
  server.kill();
  CHECK(eventually([&] { return !connection.healthy(); }));
  // Writes twice to a closed connection: by default, SIGPIPE would end this process.
  for (int i = 0; i < 2; ++i) CHECK_THROWS_AS(connection.command({"PING"}, in(3s)), Error);
}

TEST_CASE("a request of which nothing was sent is reported as such", "[redis][connection]") {
  RedisServer server;
  Connection connection{server.endpoint(), {}, in(3s)};
  server.kill();
  CHECK_THROWS_AS(connection.command({"PING"}, in(3s)), NothingSent);
}

TEST_CASE("a connection with unexpected data is not healthy", "[redis][connection]") {
  FakeServer server{[](const auto& command) {
    if (auto answer = login_answer(command)) return *answer;
    return FakeServer::Answer{"+PONG\r\n+PONG\r\n"};
  }};
  Connection connection{at(server), {}, in(3s)};
  connection.command({"PING"}, in(3s));
  CHECK(eventually([&] { return !connection.healthy(); }));
}

TEST_CASE("pushed messages are received until a wake-up or the deadline", "[redis][connection]") {
  RedisServer server;
  Connection connection{server.endpoint(), {}, in(3s)};
  connection.send(Commands{}.add({"SUBSCRIBE", "one", "two"}), in(3s));
  for (const auto* channel : {"one", "two"}) {
    const auto reply = connection.receive(in(3s));
    REQUIRE(reply);
    CHECK((*reply)[0].as_string() == "subscribe");
    CHECK((*reply)[1].as_string() == channel);
  }

  SECTION("a message") {
    server.command({"PUBLISH", "two", "hello"});
    const auto reply = connection.receive(in(3s));
    REQUIRE(reply);
    CHECK((*reply)[2].as_string() == "hello");
  }
  SECTION("nothing until the deadline") { CHECK_FALSE(connection.receive(in(20ms))); }
  SECTION("woken from another thread") {
    std::thread waker{[&] { connection.wake(); }};
    CHECK_FALSE(connection.receive(SteadyTime::max()));
    waker.join();
    CHECK_FALSE(connection.receive(in(20ms)));
  }
  SECTION("woken before it waits") {
    connection.wake();
    connection.wake();
    CHECK_FALSE(connection.receive(SteadyTime::max()));
    server.command({"PUBLISH", "one", "still there"});
    CHECK(connection.receive(in(3s)));
  }
  SECTION("the server goes away") {
    server.kill();
    const auto error = thrown_by([&] { connection.receive(SteadyTime::max()); });
    REQUIRE(error);
    CHECK(error->errc() == Errc::unavailable);
  }
}

TEST_CASE("a tracking connection notifies another one of changes, in RESP2",
          "[redis][connection]") {
  RedisServer server;
  Connection listener{server.endpoint(), {}, in(3s)};
  Connection asker{server.endpoint(), {}, in(3s)};
  listener.send(Commands{}.add({"SUBSCRIBE", "__redis__:invalidate"}), in(3s));
  REQUIRE(listener.receive(in(3s)));
  asker.command({"CLIENT", "TRACKING", "ON", "REDIRECT", std::to_string(listener.client_id())},
                in(3s));
  CHECK(asker.command({"LLEN", "list"}, in(3s)).as_integer() == 0);
  server.command({"LPUSH", "list", "x"});
  const auto notice = listener.receive(in(3s));
  REQUIRE(notice);
  CHECK((*notice)[2][0].as_string() == "list");
}

TEST_CASE("an IPv6 address is a host", "[redis][connection]") {
  const Endpoint endpoint{.host = "::1", .port = free_port()};
  CHECK(endpoint.to_string() == "[::1]:" + std::to_string(endpoint.port));
  const auto error = login_error(endpoint);
  REQUIRE(error);
  CHECK(error->errc() == Errc::unavailable);
}
