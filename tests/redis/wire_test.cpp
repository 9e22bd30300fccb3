#include "redis/asynq/wire.hpp"

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "golden_vectors.hpp"
#include "support/test.hpp"
#include "taskmux/detail/base/utf8.hpp"
#include "taskmux/error.hpp"

using namespace std::chrono_literals;
using namespace taskmux;
using namespace taskmux::redis;
using namespace taskmux::test::golden;

namespace {

Time seconds_since_epoch(std::int64_t seconds) { return Time{std::chrono::seconds{seconds}}; }

WireMessage decoded(std::string_view hex) {
  auto result = decode_message(from_hex(hex));
  if (!result) FAIL("refused: " << result.error().text());
  return *std::move(result);
}

std::string rewritten(const WireMessage& wire) {
  return to_hex(encode_message(wire.message, wire.unknown));
}

DecodeError refusal(std::string_view hex) {
  const auto result = decode_message(from_hex(hex));
  if (result) FAIL("accepted: " << hex);
  return result.error();
}

TaskMessage plain_message() {
  TaskMessage message;
  message.task = {.type = "email:welcome", .payload = R"({"user_id":42})"};
  message.id = "0f8fad5b-d9cb-469f-a165-70867728950e";
  message.queue = "default";
  message.max_retry = 25;
  message.timeout = 1800s;
  return message;
}

TaskMessage failed_message() {
  TaskMessage message = plain_message();
  message.retried = 1;
  message.last_error = "boom";
  message.last_failed_at = seconds_since_epoch(1767225602);
  return message;
}

TaskMessage full_message() {
  TaskMessage message;
  message.task = {.type = "image:resize",
                  .payload = std::string{"\0\xff\x10\x80", 4},
                  .headers = {{"trace-id", "4bf92f35"}}};
  message.id = "task-7";
  message.queue = "critical";
  message.max_retry = 3;
  message.retried = 2;
  message.last_error =
      "\xc3\xa9"
      "chec \xe2\x9c\x97";
  message.timeout = 90s;
  message.deadline = seconds_since_epoch(1767225600);
  message.unique_key = "asynq:{critical}:unique:image:resize:738b5ac8f660204a368291e9c4e1e9de";
  message.last_failed_at = seconds_since_epoch(1767222000);
  message.retention = 86400s;
  return message;
}

TaskMessage completed_message() {
  TaskMessage message;
  message.task = {.type = "report:build", .headers = {{"empty", ""}}};
  message.id = "r-1";
  message.queue = "low";
  message.max_retry = 0;
  message.deadline = seconds_since_epoch(1893456000);
  message.unique_key = "asynq:{low}:unique:report:build:";
  message.retention = 3600s;
  message.completed_at = seconds_since_epoch(1767225601);
  return message;
}

TaskMessage two_header_message() {
  TaskMessage message;
  message.task = {.type = "t", .headers = {{"a", "1"}, {"b", "2"}}};
  message.id = "id-1";
  message.queue = "default";
  message.timeout = 1800s;
  return message;
}

TaskMessage negative_timeout_message() {
  TaskMessage message;
  message.task.type = "neg";
  message.id = "n";
  message.queue = "q";
  message.timeout = -1s;
  return message;
}

void check_equal(const TaskMessage& actual, const TaskMessage& expected) {
  CHECK(actual.id == expected.id);
  CHECK(actual.queue == expected.queue);
  CHECK(actual.task.type == expected.task.type);
  CHECK(actual.task.payload == expected.task.payload);
  CHECK(actual.task.headers == expected.task.headers);
  CHECK(actual.max_retry == expected.max_retry);
  CHECK(actual.retried == expected.retried);
  CHECK(actual.timeout == expected.timeout);
  CHECK(actual.retention == expected.retention);
  CHECK(actual.deadline == expected.deadline);
  CHECK(actual.last_failed_at == expected.last_failed_at);
  CHECK(actual.completed_at == expected.completed_at);
  CHECK(actual.last_error == expected.last_error);
  CHECK(actual.unique_key == expected.unique_key);
  CHECK(actual.enqueued_at == Time{});
  CHECK(actual.expires_at == Time{});
}

struct GoldenMessage {
  const char* name;
  std::string_view hex;
  TaskMessage message;
  std::string group;
};

std::vector<GoldenMessage> golden_messages() {
  return {{"A", plain, plain_message(), ""},
          {"A2", failed, failed_message(), ""},
          {"B", full, full_message(), ""},
          {"C", completed, completed_message(), "tenant-9"},
          {"D", two_headers, two_header_message(), ""},
          {"N", negative_timeout, negative_timeout_message(), ""}};
}

ServerInfo golden_server() {
  return {.host = "web-1",
          .pid = 4242,
          .id = "7d444840-9dc0-11d1-b245-5ffdce74fad2",
          .concurrency = 10,
          .queues = {{"default", 3}},
          .strict_priority = false,
          .status = ServerStatus::active,
          .started_at = seconds_since_epoch(1767225600) + 123456us,
          .workers = std::vector<WorkerInfo>(1)};
}

WorkerInfo golden_worker() {
  return {.task_id = "0f8fad5b-d9cb-469f-a165-70867728950e",
          .queue = "default",
          .task = {.type = "email:welcome", .payload = R"({"user_id":42})"},
          .started_at = seconds_since_epoch(1767225610) + 500ms,
          .deadline = seconds_since_epoch(1767227410)};
}

constexpr std::int64_t int64_max = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t int64_min = std::numeric_limits<std::int64_t>::min();

// Random values, with a liking for the edges.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : random_{seed} {}

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }

  std::int64_t int64() {
    switch (below(6)) {
      case 0: return 0;
      case 1: return static_cast<std::int64_t>(below(300)) - 150;
      case 2: return int64_max - static_cast<std::int64_t>(below(3));
      case 3: return int64_min + static_cast<std::int64_t>(below(3));
      case 4: return 1'700'000'000 + static_cast<std::int64_t>(below(200'000'000));
      default: return static_cast<std::int64_t>(random_() >> below(64));
    }
  }

  int int32() { return static_cast<std::int32_t>(static_cast<std::uint32_t>(int64())); }

  std::string bytes() {
    std::string text(below(4) == 0 ? below(400) : below(20), '\0');
    for (char& c : text) c = static_cast<char>(random_());
    return below(3) == 0 ? std::string{} : text;
  }

  std::string text() { return detail::repaired_utf8(bytes()); }

  Headers headers() {
    Headers headers;
    for (std::uint64_t i = below(4); i > 0; --i) headers[text()] = text();
    return headers;
  }

 private:
  std::mt19937_64 random_;
};

// One field of an unknown number, or of a known one with another wire type.
std::string unknown_field(Dice& dice) {
  switch (dice.below(5)) {
    case 0: return from_hex("8001") + from_hex("2a");    // 16, varint
    case 1: return from_hex("8a0103ff00fe");             // 17, bytes
    case 2: return from_hex("0d01020304");               // 1, but four bytes
    case 3: return from_hex("2a0161");                   // 5, but bytes
    default: return from_hex("a301a8010ba301a401a401");  // group 20 with another within
  }
}

WireMessage random_message(Dice& dice) {
  // By way of the wire, as a clamped value always comes with its original.
  WireMessage wire;
  wire.message.task = {.type = dice.text(), .payload = dice.bytes(), .headers = dice.headers()};
  wire.message.id = dice.text();
  wire.message.queue = dice.text();
  wire.message.max_retry = dice.int32();
  wire.message.retried = dice.int32();
  wire.message.last_error = dice.text();
  wire.message.unique_key = dice.text();
  wire.unknown.group = dice.text();
  for (std::uint64_t i = dice.below(3); i > 0; --i) wire.unknown.others += unknown_field(dice);
  wire.message.timeout = std::chrono::seconds{dice.int64()};
  wire.message.retention = std::chrono::seconds{dice.int64()};
  wire.message.deadline = Time{Duration{dice.int64()}};
  wire.message.last_failed_at = Time{Duration{dice.int64()}};
  wire.message.completed_at = Time{Duration{dice.int64()}};
  return wire;
}

// A seed of its own for each run; TASKMUX_TEST_SEED replays one.
std::uint64_t fresh_seed() {
  if (const char* seed = std::getenv("TASKMUX_TEST_SEED")) return std::stoull(seed);
  std::random_device device;
  return std::uint64_t{device()} << 32 | device();
}

}  // namespace

TEST_CASE("a golden TaskMessage is read field by field", "[redis][wire]") {
  for (const auto& golden : golden_messages()) {
    INFO("vector " << golden.name);
    const WireMessage wire = decoded(golden.hex);
    check_equal(wire.message, golden.message);
    CHECK(wire.unknown == UnknownFields{.group = golden.group});
  }
}

TEST_CASE("a golden TaskMessage is written byte for byte", "[redis][wire]") {
  for (const auto& golden : golden_messages()) {
    INFO("vector " << golden.name);
    CHECK(to_hex(encode_message(golden.message, {.group = golden.group})) == golden.hex);
    CHECK(rewritten(decoded(golden.hex)) == golden.hex);
  }
}

TEST_CASE("headers are read in any order and written sorted", "[redis][wire]") {
  check_equal(decoded(two_headers_reversed).message, two_header_message());
  CHECK(rewritten(decoded(two_headers_reversed)) == two_headers);
}

TEST_CASE("the last of a repeated header counts, and its missing parts are empty",
          "[redis][wire]") {
  const auto wire = decoded("7a060a01611201317a060a01611201327a031201337a030a016b");
  CHECK(wire.message.task.headers == Headers{{"", "3"}, {"a", "2"}, {"k", ""}});
}

TEST_CASE("within a header, unknown fields and wrong wire types are dropped", "[redis][wire]") {
  // key as varint, field 9 as four bytes, field 3 as bytes, then the key
  const auto wire = decoded("7a0d08014d000000001a01780a0161");
  CHECK(wire.message.task.headers == Headers{{"a", ""}});
  CHECK(wire.unknown == UnknownFields{});
}

TEST_CASE("an empty message has only defaults", "[redis][wire]") {
  const WireMessage wire = decoded("");
  TaskMessage expected;
  expected.max_retry = 0;
  check_equal(wire.message, expected);
  CHECK(pack_unknown(wire.unknown).empty());
  CHECK(encode_message(wire.message).empty());
}

TEST_CASE("fields are read in any order, and the last of a scalar counts", "[redis][wire]") {
  const auto wire = decoded(
      "4802"
      "2805"
      "1a0178"
      "2807"
      "0a0174"
      "4800"
      "1a0179");
  CHECK(wire.message.deadline == Time{});
  CHECK(wire.message.max_retry == 7);
  CHECK(wire.message.id == "y");
  CHECK(wire.message.task.type == "t");
  CHECK(rewritten(wire) == "0a01741a01792807");
}

TEST_CASE("unknown fields are preserved by a rewrite, after the known ones", "[redis][wire]") {
  const auto wire = decoded(
      "800101"
      "0a0174"
      "8a0103ff00fe"
      "2805"
      "0b0c");
  CHECK(to_hex(wire.unknown.others) == "8001018a0103ff00fe0b0c");
  CHECK(rewritten(wire) ==
        "0a01742805"
        "8001018a0103ff00fe0b0c");
  CHECK(rewritten(decoded(rewritten(wire))) == rewritten(wire));
}

TEST_CASE("a known field of another wire type counts as unknown", "[redis][wire]") {
  const std::string_view hex = GENERATE("0801", "0d01020304", "110102030405060708", "2a0161",
                                        "4500000000", "5a00", "7801", "7b7c");
  const auto wire = decoded(hex);
  TaskMessage expected;
  expected.max_retry = 0;
  check_equal(wire.message, expected);
  CHECK(to_hex(wire.unknown.others) == hex);
  CHECK(rewritten(wire) == hex);
}

TEST_CASE("the tag of an unknown field is written in its short form", "[redis][wire]") {
  CHECK(rewritten(decoded("8081002a")) == "80012a");
}

TEST_CASE("an int32 with more bits loses the upper ones, as in Go", "[redis][wire]") {
  CHECK(decoded("28ffffffffffffffffff01").message.max_retry == -1);
  CHECK(decoded("2881808080f0ffffffff01").message.max_retry == 1);
  CHECK(rewritten(decoded("28ffffffff0f")) == "28ffffffffffffffffff01");
}

TEST_CASE("an invalid message is refused with the reason", "[redis][wire]") {
  struct Case {
    std::string_view hex;
    DecodeError error;
  };
  const auto c = GENERATE(
      Case{invalid_utf8, {WireFault::invalid_utf8, 7}},
      Case{"0a01ff", {WireFault::invalid_utf8, 1}}, Case{"1a01ff", {WireFault::invalid_utf8, 3}},
      Case{"2202c328", {WireFault::invalid_utf8, 4}},
      Case{"5203eda080", {WireFault::invalid_utf8, 10}},
      Case{"720180", {WireFault::invalid_utf8, 14}},
      Case{"7a030a01ff", {WireFault::invalid_utf8, 15}},
      Case{"7a031201ff", {WireFault::invalid_utf8, 15}}, Case{"80", {WireFault::truncated, 0}},
      Case{"0a", {WireFault::truncated, 1}}, Case{"0a0561", {WireFault::truncated, 1}},
      Case{"12ffffffff0f", {WireFault::truncated, 2}},
      Case{"12ffffffffffffffffff01", {WireFault::truncated, 2}},
      Case{"28", {WireFault::truncated, 5}}, Case{"28ff", {WireFault::truncated, 5}},
      Case{"7a0561", {WireFault::truncated, 15}}, Case{"7a020a05", {WireFault::truncated, 15}},
      Case{"8d01010203", {WireFault::truncated, 17}},
      Case{"890101020304050607", {WireFault::truncated, 17}}, Case{"0b", {WireFault::truncated, 1}},
      Case{"2880808080808080808002", {WireFault::varint_too_long, 5}},
      Case{"28ffffffffffffffffffff01", {WireFault::varint_too_long, 5}},
      Case{"ffffffffffffffffff02", {WireFault::varint_too_long, 0}},
      Case{"00", {WireFault::bad_field_number, 0}},
      Case{"808080801000", {WireFault::bad_field_number, 0}},
      Case{"0b00", {WireFault::bad_field_number, 1}},
      Case{"7a020000", {WireFault::bad_field_number, 15}},
      Case{"0e00", {WireFault::bad_wire_type, 1}}, Case{"8f0100", {WireFault::bad_wire_type, 17}},
      Case{"0c", {WireFault::unbalanced_group, 1}}, Case{"0b14", {WireFault::unbalanced_group, 1}},
      Case{"0b0c0c", {WireFault::unbalanced_group, 1}});
  CAPTURE(c.hex);
  const DecodeError error = refusal(c.hex);
  CHECK(error.text() == c.error.text());
  CHECK(error == c.error);
}

TEST_CASE("a refusal names the fault and the field", "[redis][wire]") {
  CHECK(refusal(invalid_utf8).text() == "field 7: invalid UTF-8");
  CHECK(refusal("80").text() == "truncated");
}

TEST_CASE("groups are followed as deep as Go follows them", "[redis][wire]") {
  const auto nested = [](std::size_t depth) {
    return from_hex("8301") + std::string(depth - 1, '\x0b') + std::string(depth - 1, '\x0c') +
           from_hex("8401");
  };
  const auto result = decode_message(nested(10'001));
  REQUIRE(result);
  CHECK(result->unknown.others == nested(10'001));
  const auto deeper = decode_message(nested(10'002));
  REQUIRE_FALSE(deeper);
  CHECK(deeper.error() == DecodeError{WireFault::nested_too_deeply, 16});
}

TEST_CASE("a payload may hold any bytes", "[redis][wire]") {
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  TaskMessage message = plain_message();
  message.task.payload = every_byte;
  const auto result = decode_message(encode_message(message));
  REQUIRE(result);
  check_equal(result->message, message);
}

TEST_CASE("instants are written as whole seconds, rounded down", "[redis][wire]") {
  TaskMessage message = plain_message();
  message.deadline = seconds_since_epoch(1767225600) + 999'999us;
  message.last_failed_at = seconds_since_epoch(0) - 1us;
  const auto result = decode_message(encode_message(message));
  REQUIRE(result);
  CHECK(result->message.deadline == seconds_since_epoch(1767225600));
  CHECK(result->message.last_failed_at == seconds_since_epoch(-1));
}

TEST_CASE("seconds out of range are clamped, and preserved by a rewrite", "[redis][wire]") {
  using namespace std::chrono;
  const Time latest = sys_days{9999y / December / 31d} + 23h + 59min + 59s;
  const Time earliest = sys_days{1y / January / 1d};
  const seconds longest = duration_cast<seconds>(Limits::longest);

  SECTION("far in the future") {
    const std::string_view hex =
        "40ffffffffffffffff7f48ffffffffffffffff7f58ffffffffffffffff7f60ffffffffffffffff7f"
        "68ffffffffffffffff7f";
    const auto wire = decoded(hex);
    CHECK(wire.message.timeout == longest);
    CHECK(wire.message.deadline == latest);
    CHECK(wire.message.last_failed_at == latest);
    CHECK(wire.message.retention == longest);
    CHECK(wire.message.completed_at == latest);
    CHECK(rewritten(wire) == hex);
  }
  SECTION("far in the past") {
    const std::string_view hex =
        "408080808080808080800148808080808080808080015880808080808080808001608080808080808080"
        "80016880808080808080808001";
    const auto wire = decoded(hex);
    CHECK(wire.message.timeout == -longest);
    CHECK(wire.message.deadline == earliest);
    CHECK(wire.message.last_failed_at == earliest);
    CHECK(wire.message.retention == -longest);
    CHECK(wire.message.completed_at == earliest);
    CHECK(rewritten(wire) == hex);
  }
  SECTION("the edges themselves are exact") {
    TaskMessage message = plain_message();
    message.deadline = latest;
    message.completed_at = earliest;
    message.timeout = longest;
    const auto result = decode_message(encode_message(message));
    REQUIRE(result);
    check_equal(result->message, message);
    CHECK(result->unknown == UnknownFields{});
  }
  SECTION("a new value replaces the original") {
    auto wire = decoded("48ffffffffffffffff7f58ffffffffffffffff7f");
    wire.message.last_failed_at = seconds_since_epoch(1767225602);
    CHECK(rewritten(wire) == "48ffffffffffffffff7f5882f2d6ca06");
  }
  SECTION("a repeated field within range takes it back") {
    const auto wire = decoded("48ffffffffffffffff7f4801");
    CHECK(wire.message.deadline == seconds_since_epoch(1));
    CHECK(wire.unknown == UnknownFields{});
  }
}

TEST_CASE("unknown fields are packed into opaque bytes", "[redis][wire]") {
  SECTION("nothing is empty") {
    CHECK(pack_unknown({}).empty());
    REQUIRE(unpack_unknown(""));
    CHECK(*unpack_unknown("") == UnknownFields{});
  }
  SECTION("everything comes back") {
    const UnknownFields unknown{.group = "tenant-9",
                                .timeout = int64_max,
                                .deadline = int64_min,
                                .last_failed_at = 0,
                                .retention = -1,
                                .completed_at = 1,
                                .others = from_hex("8001012a01610b0c")};
    const auto unpacked = unpack_unknown(pack_unknown(unknown));
    REQUIRE(unpacked);
    CHECK(*unpacked == unknown);
  }
  SECTION("what pack_unknown() can't have made is refused") {
    CHECK(unpack_unknown(from_hex("0a0174")).error() == DecodeError{WireFault::misplaced_field, 1});
    CHECK(unpack_unknown(from_hex("2801")).error() == DecodeError{WireFault::misplaced_field, 5});
    CHECK(unpack_unknown(from_hex("7a00")).error() == DecodeError{WireFault::misplaced_field, 15});
    CHECK(unpack_unknown(from_hex("7201ff")).error() == DecodeError{WireFault::invalid_utf8, 14});
    CHECK(unpack_unknown(from_hex("8001")).error() == DecodeError{WireFault::truncated, 16});
  }
}

TEST_CASE("a string that is not UTF-8 is not written", "[redis][wire]") {
  const std::string bad = "bad\xff";
  TaskMessage message = plain_message();
  UnknownFields unknown;
  std::string name;
  SECTION("type") {
    message.task.type = bad;
    name = "type";
  }
  SECTION("id") {
    message.id = bad;
    name = "id";
  }
  SECTION("queue") {
    message.queue = bad;
    name = "queue";
  }
  SECTION("unique key") {
    message.unique_key = bad;
    name = "unique key";
  }
  SECTION("header key") {
    message.task.headers[bad] = "x";
    name = "header key";
  }
  SECTION("header") {
    message.task.headers["x"] = bad;
    name = "header";
  }
  SECTION("group") {
    unknown.group = bad;
    name = "group";
  }
  try {
    encode_message(message, unknown);
    FAIL("written");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::invalid_argument);
    CHECK(error.what() == "encode task: its " + name + " is not valid UTF-8");
    CHECK(error.task_id() == message.id);
  }
}

TEST_CASE("an error text is repaired and bounded", "[redis][wire]") {
  TaskMessage message = plain_message();
  message.last_error = "what() = \xff\xfe";
  const auto result = decode_message(encode_message(message));
  REQUIRE(result);
  CHECK(result->message.last_error == "what() = \xef\xbf\xbd\xef\xbf\xbd");

  CHECK(error_text("boom\xff") == "boom\xef\xbf\xbd");
  const std::string bounded =
      error_text(std::string(Limits::error_text_bytes - 1, 'x') + "\xc3\xa9");
  CHECK(bounded == std::string(Limits::error_text_bytes - 1, 'x'));
}

TEST_CASE("a rewrite does not truncate the long error text of a Go worker", "[redis][wire]") {
  TaskMessage message = plain_message();
  message.last_error = std::string(3 * Limits::error_text_bytes, 'x');
  const auto result = decode_message(encode_message(message));
  REQUIRE(result);
  CHECK(result->message.last_error == message.last_error);
}

TEST_CASE("the status of a server is read as it was written, or as unknown", "[redis][wire]") {
  const ServerStatus status = GENERATE(ServerStatus::active, ServerStatus::stopped,
                                       ServerStatus::closed, ServerStatus::unknown);
  const auto read = decode_server(encode_server({.status = status}));
  REQUIRE(read);
  CHECK(read->server.status == status);
  // asynq has a word for a server that has not begun yet.
  const auto fresh = decode_server(from_hex("3a036e6577"));
  REQUIRE(fresh);
  CHECK(fresh->server.status == ServerStatus::unknown);
}

TEST_CASE("a golden ServerInfo is read and written", "[redis][wire]") {
  const auto read = decode_server(from_hex(server));
  REQUIRE(read);
  const ServerInfo expected = golden_server();
  CHECK(read->server.host == expected.host);
  CHECK(read->server.pid == expected.pid);
  CHECK(read->server.id == expected.id);
  CHECK(read->server.concurrency == expected.concurrency);
  CHECK(read->server.queues == expected.queues);
  CHECK(read->server.strict_priority == expected.strict_priority);
  CHECK(read->server.status == expected.status);
  CHECK(read->server.started_at == expected.started_at);
  CHECK(read->active_workers == 1);

  // The vector's nanoseconds, 123456789, are 123456000 in ours.
  std::string written{server};
  const std::string nanos = "10959aef3a";
  written.replace(written.find(nanos), nanos.size(), "108094ef3a");
  CHECK(to_hex(encode_server(expected)) == written);
}

TEST_CASE("a golden WorkerInfo is read and written", "[redis][wire]") {
  const auto read = decode_worker(from_hex(worker));
  REQUIRE(read);
  const WorkerInfo expected = golden_worker();
  CHECK(read->host == "web-1");
  CHECK(read->pid == 4242);
  CHECK(read->server_id == "7d444840-9dc0-11d1-b245-5ffdce74fad2");
  CHECK(read->worker.task_id == expected.task_id);
  CHECK(read->worker.queue == expected.queue);
  CHECK(read->worker.task.type == expected.task.type);
  CHECK(read->worker.task.payload == expected.task.payload);
  CHECK(read->worker.started_at == expected.started_at);
  CHECK(read->worker.deadline == expected.deadline);
  CHECK(to_hex(encode_worker(golden_server(), expected)) == worker);
}

TEST_CASE("timestamps are written even when unset", "[redis][wire]") {
  CHECK(to_hex(encode_server({})) == "3a066163746976654200");
  CHECK(to_hex(encode_worker({}, {})) == "42004a00");
}

TEST_CASE("any timestamp is read as an instant", "[redis][wire]") {
  const auto started_at = [](std::string_view hex) {
    const auto read = decode_server(from_hex(hex));
    if (!read) FAIL("refused: " << read.error().text());
    return read->server.started_at;
  };
  CHECK(started_at("") == Time{});
  CHECK(started_at("4200") == Time{});
  CHECK(started_at("420b088092b8c398feffffff01") == Time{});        // Go's zero time
  CHECK(started_at("4202080142020802") == seconds_since_epoch(2));  // the last counts
  CHECK(started_at("4202080142031087"
                   "68") == seconds_since_epoch(1) + 13us);       // merged; 13319 ns
  CHECK(started_at("420b10ffffffffffffffffff01") == Time{-1us});  // -1 ns
  CHECK(started_at("420a08ffffffffffffffff7f") == seconds_since_epoch(253'402'300'799));
  CHECK(started_at("420b0880808080808080808001") == Time{});  // long before it
  CHECK_FALSE(decode_server(from_hex("420208ff")));
}

TEST_CASE("a timestamp beyond the years 1 to 9999 is clamped when written", "[redis][wire]") {
  ServerInfo info;
  info.started_at = Time::max();
  CHECK(decode_server(encode_server(info))->server.started_at ==
        seconds_since_epoch(253'402'300'799));
  info.started_at = Time::min() + 1us;
  CHECK(to_hex(encode_server(info)) == "3a06616374697665420b088092b8c398feffffff01");
}

TEST_CASE("a record of a server is always written as valid UTF-8", "[redis][wire]") {
  ServerInfo info = golden_server();
  info.host = "caf\xe9";
  info.queues = {{"q\xff", 1}, {"none", 0}, {"less", -1}, {"z", 2}};
  info.strict_priority = true;
  const auto read = decode_server(encode_server(info));
  REQUIRE(read);
  CHECK(read->server.host == "caf\xef\xbf\xbd");
  CHECK(read->server.queues == std::map<std::string, int>{{"q\xef\xbf\xbd", 1}, {"z", 2}});
  CHECK(read->server.strict_priority);

  WorkerInfo busy = golden_worker();
  busy.task.type = "t\xff";
  busy.task.payload = "p\xff";
  const auto worker_read = decode_worker(encode_worker(info, busy));
  REQUIRE(worker_read);
  CHECK(worker_read->worker.task.type == "t\xef\xbf\xbd");
  CHECK(worker_read->worker.task.payload == "p\xff");
}

TEST_CASE("a worker's long payload is truncated, at a character boundary if it is text",
          "[redis][wire]") {
  const auto written = [](const std::string& payload) {
    WorkerInfo busy = golden_worker();
    busy.task.payload = payload;
    const auto read = decode_worker(encode_worker(golden_server(), busy));
    REQUIRE(read);
    return read->worker.task.payload;
  };
  const std::string longest(4096, 'x');
  CHECK(written(longest) == longest);
  CHECK(written(longest + "y") == longest);
  CHECK(written(longest.substr(2) + "\xe2\x9c\x97") == longest.substr(2));
  const std::string binary(5000, '\x80');
  CHECK(written(binary) == binary.substr(0, 4096));
  CHECK(written(binary.substr(0, 9)) == binary.substr(0, 9));
}

TEST_CASE("records with invalid strings or priorities are refused with the reason",
          "[redis][wire]") {
  CHECK(decode_server(from_hex("0a01ff")).error() == DecodeError{WireFault::invalid_utf8, 1});
  CHECK(decode_server(from_hex("2a030a01ff")).error() == DecodeError{WireFault::invalid_utf8, 5});
  CHECK(decode_worker(from_hex("2a01ff")).error() == DecodeError{WireFault::invalid_utf8, 5});
  const auto read =
      decode_server(from_hex("2a060a0161120131"
                             "2a03"
                             "0a0162"));
  REQUIRE(read);
  CHECK(read->server.queues == std::map<std::string, int>{{"a", 0}, {"b", 0}});
}

TEST_CASE("any message is decoded as it was encoded", "[redis][wire]") {
  const std::uint64_t seed = fresh_seed();
  CAPTURE(seed);
  Dice dice{seed};
  for (int i = 0; i < 2000; ++i) {
    const WireMessage original = random_message(dice);
    const std::string bytes = encode_message(original.message, original.unknown);
    auto read = decode_message(bytes);
    REQUIRE(read);
    REQUIRE(read->message.task.type == original.message.task.type);
    REQUIRE(read->message.task.payload == original.message.task.payload);
    REQUIRE(read->message.task.headers == original.message.task.headers);
    REQUIRE(read->message.id == original.message.id);
    REQUIRE(read->message.queue == original.message.queue);
    REQUIRE(read->message.max_retry == original.message.max_retry);
    REQUIRE(read->message.retried == original.message.retried);
    REQUIRE(read->message.last_error == original.message.last_error);
    REQUIRE(read->message.unique_key == original.message.unique_key);
    REQUIRE(read->unknown.group == original.unknown.group);
    REQUIRE(read->unknown.others == original.unknown.others);

    const auto unknown = unpack_unknown(pack_unknown(read->unknown));
    REQUIRE(unknown);
    REQUIRE(*unknown == read->unknown);
    REQUIRE(encode_message(read->message, *unknown) == bytes);
  }
}

TEST_CASE("a damaged message is refused, or decoded as another one", "[redis][wire]") {
  const std::uint64_t seed = fresh_seed();
  CAPTURE(seed);
  Dice dice{seed};
  for (int i = 0; i < 2000; ++i) {
    const WireMessage original = random_message(dice);
    std::string bytes = encode_message(original.message, original.unknown);
    if (bytes.empty()) continue;
    if (dice.below(2) == 0) {
      bytes.resize(dice.below(bytes.size()));
    } else {
      bytes[dice.below(bytes.size())] = static_cast<char>(dice.below(256));
    }
    const auto read = decode_message(bytes);
    if (!read) continue;
    const std::string once = encode_message(read->message, read->unknown);
    const auto again = decode_message(once);
    REQUIRE(again);
    REQUIRE(encode_message(again->message, again->unknown) == once);
  }
}
