#include "redis/net/reply.hpp"

#include <string>

#include "redis/scripts/script.hpp"
#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::redis;

namespace {

Reply parsed(const std::string& bytes) {
  const std::unique_ptr<redisReader, decltype(&redisReaderFree)> reader{redisReaderCreate(),
                                                                        &redisReaderFree};
  void* reply = nullptr;
  redisReaderFeed(reader.get(), bytes.data(), bytes.size());
  redisReaderGetReply(reader.get(), &reply);
  return Reply{static_cast<redisReply*>(reply)};
}

template <typename Call>
bool is_protocol_error(Call&& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.errc() == Errc::protocol;
  }
  return false;
}

}  // namespace

TEST_CASE("a reply returns its value, and throws if another type is requested", "[redis][reply]") {
  const auto whole = parsed("*6\r\n:-5\r\n$4\r\na" + std::string(1, '\0') +
                            "b\n\r\n$-1\r\n+OK\r\n-ERR no\r\n$2\r\n42\r\n");
  REQUIRE(whole.is_array());
  REQUIRE(whole.size() == 6);
  CHECK(whole[0].as_integer() == -5);
  CHECK(whole[0].as_number() == -5);
  CHECK(whole[1].as_string() == std::string_view{"a\0b\n", 4});
  CHECK(whole[2].is_nil());
  CHECK_FALSE(whole[2].as_optional_string());
  CHECK(whole[3].as_string() == "OK");
  CHECK(whole[4].error_text() == "ERR no");
  CHECK(whole[5].as_number() == 42);

  CHECK(is_protocol_error([&] { whole[1].as_integer(); }));
  CHECK(is_protocol_error([&] { whole[1].as_number(); }));
  CHECK(is_protocol_error([&] { whole[0].as_string(); }));
  CHECK(is_protocol_error([&] { whole[2].as_string(); }));
  CHECK(is_protocol_error([&] { whole[4].as_string(); }));
  CHECK(is_protocol_error([&] { whole[0].size(); }));
  CHECK(is_protocol_error([&] { whole[6]; }));
  CHECK(is_protocol_error([&] { whole.expect_array(7); }));
  CHECK(is_protocol_error([&] { Reply{}.as_string(); }));
}

TEST_CASE("a moved-from reply has no type", "[redis][reply]") {
  auto reply = parsed(":7\r\n");
  auto other = std::move(reply);
  CHECK(reply.is_nothing());
  CHECK(other.as_integer() == 7);
  other = parsed(":8\r\n");
  CHECK(other.as_integer() == 8);
}

TEST_CASE("an error reply is recognised by its code, also inside an old server's script error",
          "[redis][reply]") {
  const auto [text, errc] = GENERATE(table<std::string, Errc>({
      {"LOADING Redis is loading the dataset in memory", Errc::unavailable},
      {"READONLY You can't write against a read only replica.", Errc::unavailable},
      {"MASTERDOWN Link with MASTER is down", Errc::unavailable},
      {"CLUSTERDOWN The cluster is down", Errc::unavailable},
      {"TRYAGAIN Multiple keys request during rehashing of slot", Errc::unavailable},
      {"MOVED 1 127.0.0.1:1", Errc::unavailable},
      {"BUSY Redis is busy running a script.", Errc::unavailable},
      {"MISCONF Redis is configured to save RDB snapshots", Errc::unavailable},
      {"NOREPLICAS Not enough good replicas to write.", Errc::unavailable},
      {"ERR max number of clients reached", Errc::unavailable},
      {"TMXLOST gone", Errc::unavailable},
      {"ERR Script attempted to access a non local key in a cluster node script: f_0, on "
       "@user_script:1.",
       Errc::unavailable},
      {"ERR Error running script (call to f_0): @user_script:1: @user_script: 1: Lua script "
       "attempted to access a non local key in a cluster node",
       Errc::unavailable},
      {"NOAUTH Authentication required.", Errc::unauthorized},
      {"WRONGPASS invalid username-password pair", Errc::unauthorized},
      {"NOPERM this user has no permissions", Errc::unauthorized},
      {"DENIED Redis is running in protected mode", Errc::unauthorized},
      {"ERR AUTH <password> called without any password configured", Errc::unauthorized},
      {"OOM command not allowed when used memory > 'maxmemory'.", Errc::queue_full},
      {"WRONGTYPE Operation against a key holding the wrong kind of value", Errc::protocol},
      {"NOSCRIPT No matching script.", Errc::protocol},
      {"ERR unknown command", Errc::protocol},
      {"no code at all", Errc::protocol},
      {"ERR Protocol error: invalid bulk length", Errc::payload_too_large},
      {"OOMPH is not OOM", Errc::protocol},
      {"ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -OOM command "
       "not allowed",
       Errc::queue_full},
      {"ERR Error running script (call to f_0): @user_script:1: @user_script: 1: -READONLY You "
       "can't",
       Errc::unavailable},
      {"ERR Error running script (call to f_0): @user_script:1: attempt to index a nil value",
       Errc::protocol},
      {"OOM command not allowed when used memory > 'maxmemory'. script: f_0, on @user_script:1.",
       Errc::queue_full},
  }));
  CAPTURE(text);
  const auto reply = parsed("-" + text + "\r\n");
  REQUIRE(reply.is_error());
  CHECK(errc_of(reply) == errc);
  CHECK(errc_of(std::string_view{text}) == errc);
  CHECK(met_moving_keys(reply) ==
        (text.starts_with("TRYAGAIN") || text.find("non local key") != std::string::npos));
}

TEST_CASE("an error names its operation, and its text is printable and bounded", "[redis][reply]") {
  const auto reply = parsed("-ERR bad \x01\xff" + std::string(1000, 'x') + "\r\n");
  const auto error = error_of("enqueue \"critical\"", reply);
  const std::string text = error.what();
  CHECK(text.starts_with("enqueue \"critical\": ERR bad ??xxx"));
  CHECK(text.size() < 400);
  CHECK(
      std::string{error_of("enqueue", make_error_reply(lost_code, "the server is gone")).what()} ==
      "enqueue: the server is gone");
  CHECK(std::string{error_of("take", "WRONGTYPE of \x01").what()} == "take: WRONGTYPE of ?");
  CHECK_THROWS_AS(throw_if_error("enqueue", reply), Error);
  throw_if_error("enqueue", parsed("+OK\r\n"));
}

TEST_CASE("a script's SHA-1 is the one that Redis computes", "[redis][script]") {
  CHECK(sha1_hex("") == "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  CHECK(sha1_hex("abc") == "a9993e364706816aba3e25717850c26c9cd0d89d");
  CHECK(sha1_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  CHECK(sha1_hex(std::string(1000000, 'a')) == "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
}
