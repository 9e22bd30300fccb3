#include "taskmux/json.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/run.hpp"
#include "support/test.hpp"
#include "taskmux/memory/memory_broker.hpp"

// A user-defined conversion for optional fields.
namespace nlohmann {
template <typename T>
struct adl_serializer<std::optional<T>> {
  static void to_json(json& document, const std::optional<T>& value) {
    if (value) {
      document = *value;
    } else {
      document = nullptr;
    }
  }
  static void from_json(const json& document, std::optional<T>& value) {
    value = document.is_null() ? std::nullopt : std::optional<T>{document.get<T>()};
  }
};
}  // namespace nlohmann

namespace {

struct Address {
  std::string street{};
  std::uint16_t number = 0;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Address, street, number)

struct Email {
  std::string to{};
  int user_id = 0;
  Address address{};
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Email, to, user_id, address)

struct Shapes {
  std::vector<Address> list{};
  std::map<std::string, Address> map{};
  std::optional<Address> maybe{};
  std::array<std::uint8_t, 2> pair{};
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(Shapes, list, map, maybe, pair)

template <typename T>
struct One {
  T n{};
};
template <typename T>
void to_json(nlohmann::json& document, const One<T>& value) {
  document = {{"n", value.n}};
}
template <typename T>
void from_json(const nlohmann::json& document, One<T>& value) {
  document.at("n").get_to(value.n);
}

/// Reads fields in non-alphabetical order, and one only sometimes.
struct Backwards {
  int z = 0;
  int m = 0;
  int a = 0;
};
void to_json(nlohmann::json& document, const Backwards& value) {
  document = {{"z", value.z}, {"m", value.m}, {"a", value.a}};
}
void from_json(const nlohmann::json& document, Backwards& value) {
  value.z = document.at("z").get<int>();
  value.a = document.value("a", 7);
  value.m = document.at("m").get<int>();
}

struct Picky {
  int n = 0;
};
void to_json(nlohmann::json& document, const Picky& value) { document = {{"n", value.n}}; }
void from_json(const nlohmann::json& document, Picky& value) {
  document.at("n").get_to(value.n);
  if (value.n == 1) throw std::runtime_error{"n must not be 1"};
  if (value.n == 2) throw 2;
  if (value.n == 3) throw std::bad_alloc{};
  if (value.n == 4) throw taskmux::RevokeTask{};
}

}  // namespace

using namespace taskmux;
using namespace taskmux::test;
using namespace std::chrono_literals;

namespace {

/// Returns the error of from_json_text<T>() for `text`, without its prefix; "fine" if there is
/// none.
template <typename T>
std::string verdict(std::string_view text) {
  try {
    static_cast<void>(from_json_text<T>(text));
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::malformed);
    const std::string what = error.what();
    const std::string_view operation = "read JSON: ";
    REQUIRE(what.starts_with(operation));
    return what.substr(operation.size());
  }
  return "fine";
}

template <typename T>
std::string number_verdict(const std::string& number) {
  return verdict<One<T>>("{\"n\": " + number + "}");
}

const std::string good_email = to_json_text(Email{"a@b.c", 7, {"Main St", 12}});

}  // namespace

TEST_CASE("a value is preserved by its JSON text", "[json]") {
  const Shapes shapes{.list = {{"a", 1}, {"b", 2}},
                      .map = {{"home", {"c", 3}}},
                      .maybe = Address{"d", 4},
                      .pair = {5, 6}};
  const Shapes back = from_json_text<Shapes>(to_json_text(shapes));
  CHECK(back.list.at(1).street == "b");
  CHECK(back.map.at("home").number == 3);
  CHECK(back.maybe.value().number == 4);
  CHECK(back.pair == std::array<std::uint8_t, 2>{5, 6});
  CHECK_FALSE(from_json_text<Shapes>("{}").maybe);
  CHECK_FALSE(from_json_text<Shapes>(R"({"maybe": null})").maybe);
  CHECK(from_json_text<nlohmann::json>("[1, 300.5]").size() == 2);
}

TEST_CASE("fields that a type does not know are ignored", "[json]") {
  CHECK(verdict<Address>(R"({"street": "a", "number": 1, "more": {"number": 1e300}})") == "fine");
}

TEST_CASE("a missing field is reported with its place", "[json]") {
  CHECK(verdict<Email>("{}") == "missing field /to");
  CHECK(verdict<Email>(R"({"to": "a", "address": {}})") == "missing field /user_id");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": 1})") == "missing field /address");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": 1, "address": {"street": "x"}})") ==
        "missing field /address/number");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": 1, "address": {"number": 1, "to": 1}})") ==
        "missing field /address/street");
  CHECK(verdict<Shapes>(R"({"list": [{"street": "x", "number": 1}, {"street": "x"}]})") ==
        "missing field /list/1/number");
  CHECK(
      verdict<Shapes>(R"({"map": {"a/b": {"street": "x", "number": 1}, "c~d": {"number": 1}}})") ==
      "missing field /map/c~0d/street");
  CHECK(verdict<Shapes>(R"({"maybe": {"street": "x"}})") == "missing field /maybe/number");
  CHECK(verdict<std::vector<Email>>("[{}]") == "missing field /0/to");
}

TEST_CASE("a value of a wrong type is reported with its place", "[json]") {
  CHECK(verdict<Email>(R"({"to": 5, "user_id": 1, "address": {}})") ==
        "/to: type must be string, but is number");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": "1", "address": {}})") ==
        "/user_id: type must be number, but is string");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": null, "address": {}})") ==
        "/user_id: type must be number, but is null");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": 1, "address": {"street": "x", "number": []}})") ==
        "/address/number: type must be number, but is array");
  CHECK(verdict<Email>(R"({"to": "a", "user_id": 1, "address": "x"})") ==
        "/address: type must be object or array, but is string");
  CHECK(
      verdict<Shapes>(R"({"list": [{"street": "x", "number": 1}, {"street": 2, "number": 1}]})") ==
      "/list/1/street: type must be string, but is number");
  CHECK(verdict<Shapes>(R"({"map": {"a/b": {"street": "x", "number": ""}}, "pair": 1})") ==
        "/map/a~1b/number: type must be number, but is string");
  CHECK(verdict<Shapes>(R"({"list": {}})") == "/list: type must be array, but is object");
  CHECK(verdict<Shapes>(R"({"pair": [1]})") == "/pair: array index 1 is out of range");
  CHECK(verdict<Shapes>(R"({"pair": []})") == "/pair: array index 0 is out of range");
  CHECK(verdict<Shapes>(R"({"pair": [1, "2"]})") == "/pair/1: type must be number, but is string");
  CHECK(verdict<Email>("[]") == "the whole: type must be object, but is array");
  CHECK(verdict<std::vector<int>>("7") == "the whole: type must be array, but is number");
  CHECK(verdict<Address>("[1]") == "the whole: type must be object, but is array");
  CHECK(verdict<Address>("null") == "the whole: type must be object or array, but is null");
  CHECK(verdict<std::vector<Address>>("[[]]") == "/0: type must be object, but is array");
}

TEST_CASE("the reported place does not depend on the order of reading", "[json]") {
  const std::string good = GENERATE("1", "2");
  CHECK(verdict<Backwards>("{\"a\": \"\", \"m\": 1, \"z\": " + good + "}") ==
        "/a: type must be number, but is string");
  CHECK(verdict<Backwards>("{\"a\": 1, \"m\": \"\", \"z\": " + good + "}") ==
        "/m: type must be number, but is string");
  CHECK(verdict<Backwards>("{\"m\": \"\", \"z\": " + good + "}") ==
        "/m: type must be number, but is string");
  CHECK(verdict<Backwards>(R"({"a": 1, "m": [], "z": ""})") ==
        "/z: type must be number, but is string");
  CHECK(verdict<Backwards>("{\"a\": 1, \"z\": " + good + "}") == "missing field /m");
}

TEST_CASE("a number that does not fit its type is refused", "[json]") {
  const auto refused = [](const std::string& number) {
    return "/n: " + number + " does not fit its type";
  };
  SECTION("whole numbers") {
    CHECK(number_verdict<std::uint8_t>("255") == "fine");
    CHECK(number_verdict<std::uint8_t>("256") == refused("256"));
    CHECK(number_verdict<std::uint8_t>("300") == refused("300"));
    CHECK(number_verdict<std::uint8_t>("-1") == refused("-1"));
    CHECK(number_verdict<std::int8_t>("-128") == "fine");
    CHECK(number_verdict<std::int8_t>("-129") == refused("-129"));
    CHECK(number_verdict<unsigned>("-1") == refused("-1"));
    CHECK(number_verdict<unsigned>("4294967296") == refused("4294967296"));
    CHECK(number_verdict<int>("2147483648") == refused("2147483648"));
    CHECK(number_verdict<std::uint64_t>("18446744073709551615") == "fine");
    CHECK(number_verdict<std::uint64_t>("-1") == refused("-1"));
    CHECK(number_verdict<std::int64_t>("9223372036854775807") == "fine");
    CHECK(number_verdict<std::int64_t>("-9223372036854775808") == "fine");
    CHECK(number_verdict<std::int64_t>("9223372036854775808") == refused("9223372036854775808"));
    CHECK(number_verdict<std::int64_t>("18446744073709551615") == refused("18446744073709551615"));
  }
  SECTION("fractions and large numbers for whole ones") {
    CHECK(number_verdict<int>("1.0") == "fine");
    CHECK(number_verdict<int>("1e3") == "fine");
    CHECK(number_verdict<int>("-0.0") == "fine");
    CHECK(number_verdict<int>("1.5") == refused("1.5"));
    CHECK(number_verdict<int>("-0.5") == refused("-0.5"));
    CHECK(number_verdict<int>("16777216.5") == refused("16777216.5"));
  }
  SECTION("floating-point numbers") {
    CHECK(number_verdict<double>("0.1") == "fine");
    CHECK(number_verdict<double>("5") == "fine");
    CHECK(number_verdict<double>("1e300") == "fine");
    CHECK(number_verdict<double>("9007199254740993") == refused("9007199254740993"));
    CHECK(number_verdict<float>("0.1") == "fine");
    CHECK(number_verdict<float>("-3.3e38") == "fine");
    CHECK(number_verdict<float>("1e-60") == "fine");
    CHECK(number_verdict<float>("16777216") == "fine");
    CHECK(number_verdict<float>("16777217") == refused("16777217"));
  }
  SECTION("truth values") {
    CHECK(number_verdict<bool>("true") == "fine");
    CHECK(number_verdict<int>("true") == refused("true"));
    CHECK(number_verdict<int>("false") == refused("false"));
    CHECK(number_verdict<bool>("1") == "/n: type must be boolean, but is number");
  }
  SECTION("beyond a double") {
    CHECK(number_verdict<double>("1e400").find("number overflow parsing '1e400'") !=
          std::string::npos);
  }
}

// nlohmann_json itself converts these with a cast that a sanitizer reports.
TEST_CASE("a number far beyond its type is refused", "[json]") {
  CHECK(number_verdict<float>("1e300") == "/n: 1e+300 does not fit its type");
  CHECK(number_verdict<int>("1e300") == "/n: 1e+300 does not fit its type");
  CHECK(number_verdict<std::uint8_t>("300.0") == "/n: 300.0 does not fit its type");
  CHECK(number_verdict<std::uint64_t>("18446744073709551616") ==
        "/n: 1.8446744073709552e+19 does not fit its type");
  CHECK(number_verdict<std::int64_t>("9223372036854775808.0") ==
        "/n: 9.223372036854776e+18 does not fit its type");
}

TEST_CASE("a number that does not fit is found in any place", "[json]") {
  CHECK(verdict<Email>(R"({"to": "", "user_id": 1, "address": {"street": "", "number": 65536}})") ==
        "/address/number: 65536 does not fit its type");
  CHECK(
      verdict<Shapes>(R"({"list": [{"street": "", "number": 1}, {"street": "", "number": -1}]})") ==
      "/list/1/number: -1 does not fit its type");
  CHECK(verdict<Shapes>(R"({"map": {"a/b": {"street": "", "number": 1.5}}})") ==
        "/map/a~1b/number: 1.5 does not fit its type");
  CHECK(verdict<Shapes>(R"({"maybe": {"street": "", "number": 70000}})") ==
        "/maybe/number: 70000 does not fit its type");
  CHECK(verdict<Shapes>(R"({"pair": [1, 256]})") == "/pair/1: 256 does not fit its type");
  CHECK(verdict<Shapes>(R"({"pair": [1, 2, 3]})") == "/pair/2: 3 does not fit its type");
  CHECK(verdict<std::map<std::string, std::vector<std::int8_t>>>(
            R"({"a": [1], "b": [1, 2, 128]})") == "/b/2: 128 does not fit its type");
}

TEST_CASE("sets may change their order and drop duplicates", "[json]") {
  using Small = std::set<std::uint8_t>;
  CHECK(verdict<Small>("[3, 1, 2]") == "fine");
  CHECK(verdict<Small>("[3, 3, 1.0]") == "fine");
  CHECK(verdict<Small>("[3, 1, 257]") == "/2: 257 does not fit its type");
  CHECK(verdict<Small>("[1, 257]") == "/1: 257 does not fit its type");
  CHECK(verdict<std::set<std::int64_t>>("[18446744073709551615, -5]") ==
        "/0: 18446744073709551615 does not fit its type");
  CHECK(verdict<std::set<std::string>>(R"(["b", "a", "b"])") == "fine");
  CHECK(verdict<std::unordered_map<int, std::uint8_t>>("[[9, 1], [5, 2], [7, 3]]") == "fine");
  CHECK(verdict<std::unordered_map<int, std::uint8_t>>("[[9, 1], [5, 2], [7, 300]]")
            .ends_with("does not fit its type"));
}

TEST_CASE("text that is not JSON is refused, with the position", "[json]") {
  CHECK(verdict<Email>("").find("line 1, column 1") != std::string::npos);
  CHECK(verdict<Email>("{\"to\":\n oops}").find("line 2, column 2") != std::string::npos);
  CHECK(verdict<Email>("{} {}").find("line 1, column 4") != std::string::npos);
  CHECK(verdict<Email>("\"\xff\"").find("ill-formed UTF-8") != std::string::npos);
  CHECK(verdict<Email>(std::string("\0\x01", 2)).find("parse error") != std::string::npos);
  CHECK(verdict<Email>('"' + std::string(1'000'000, 'a')).size() < 2000);
}

TEST_CASE("deep nesting is refused before it is parsed", "[json]") {
  const auto nested = [](std::size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  const std::string refusal = "nested deeper than 512 levels";
  CHECK(verdict<nlohmann::json>(nested(512)) == "fine");
  CHECK(verdict<nlohmann::json>(nested(513)) == refusal);
  CHECK(verdict<nlohmann::json>(nested(5'000'000)) == refusal);
  CHECK(verdict<Email>(std::string(5'000'000, '[')) == refusal);
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK(verdict<Email>(objects) == refusal);
  CHECK(verdict<std::string>('"' + std::string(1000, '[') + "\\\"" + '"') == "fine");
  nlohmann::json deep;
  for (int i = 0; i < 600; ++i) deep = nlohmann::json::array({std::move(deep)});
  CHECK(error_of([&] { to_json_text(deep); }) == Errc::invalid_argument);
}

TEST_CASE("an error in a large document is located", "[json]") {
  std::string list;
  for (int i = 0; i < 50'000; ++i) {
    list += i == 31'234 ? R"({"street": 1, "number": 1},)" : R"({"street": "a", "number": 1},)";
  }
  list.pop_back();
  CHECK(verdict<std::vector<Address>>('[' + list + ']') ==
        "/31234/street: type must be string, but is number");
}

TEST_CASE("an error among very many fields is reported in bounded time, with the known place",
          "[json]") {
  std::string fields;
  for (int i = 0; i < 20'000; ++i) fields += "\"f" + std::to_string(i) + "\": 1,";
  fields.pop_back();
  CHECK(verdict<std::map<std::string, int>>('{' + fields + ", \"f7\": \"\"}") ==
        "/f7: type must be number, but is string");
  CHECK(verdict<Address>('{' + fields + ", \"street\": \"\"}") == "missing field /number");
}

TEST_CASE("an exception from a user's from_json is reported", "[json]") {
  CHECK(verdict<Picky>(R"({"n": 0})") == "fine");
  CHECK(verdict<Picky>(R"({"n": 1})") == "n must not be 1");
  CHECK(verdict<Picky>(R"({"n": 2})") ==
        "from_json() threw something that is not a std::exception, of type int");
  CHECK(verdict<Picky>(R"({"n": 4})") == "revoke task");
  CHECK_THROWS_AS(from_json_text<Picky>(R"({"n": 3})"), std::bad_alloc);
}

TEST_CASE("a value that JSON can't represent is refused before it is enqueued", "[json]") {
  using Doubles = std::map<std::string, std::vector<double>>;
  const auto text_of = [](const auto& value) -> std::string {
    try {
      return to_json_text(value);
    } catch (const Error& error) {
      CHECK(error.errc() == Errc::invalid_argument);
      return error.what();
    }
  };
  CHECK(text_of(Doubles{{"a", {1.5}}}) == R"({"a":[1.5]})");
  CHECK(text_of(Doubles{{"a", {1, std::numeric_limits<double>::infinity()}}}) ==
        "write JSON: /a/1: a number that is not finite");
  CHECK(text_of(One<float>{std::numeric_limits<float>::quiet_NaN()}) ==
        "write JSON: /n: a number that is not finite");
  CHECK(text_of(Address{"\xff", 1}).find("invalid UTF-8 byte") != std::string::npos);
}

TEST_CASE("a task with a JSON payload reaches its handler as a value", "[json]") {
  MemoryBroker broker;
  Client client{broker};
  const EnqueueResult result = enqueue_json(
      client, "email:send", Email{"a@b.c", 7, {"Main St", 12}}, {.queue = "mail", .retention = 1h});
  CHECK(result.queue == "mail");
  const Run run = take_one(broker, "mail");
  CHECK(run.message->task.payload == good_email);

  ServeMux mux;
  std::optional<Email> got;
  handle_json<Email>(mux, "email:send", [&](Context& context, const Email& email) {
    got = email;
    set_json_result(context, email.address);
  });
  OneRun t{run.message->task};
  CHECK(mux.handle(t.context, run.message->task).kind() == Outcome::Kind::success);
  REQUIRE(got);
  CHECK(got->to == "a@b.c");
  CHECK(got->address.number == 12);

  settle(broker, completed(run, t.state->take_result().value()));
  const auto stored = broker.find("mail", result.id);
  REQUIRE(stored);
  CHECK(json_result<Address>(*stored).value().street == "Main St");
  CHECK_FALSE(json_result<Address>(TaskInfo{}));
  try {
    static_cast<void>(json_result<Email>(*stored));
    FAIL("no Error");
  } catch (const Error& error) {
    CHECK(error.errc() == Errc::malformed);
    CHECK(error.task_id() == result.id);
    CHECK(error.what() ==
          "result of task " + result.id + " (queue \"mail\"): missing field /to");
  }
}

TEST_CASE("a JSON task carries its headers", "[json]") {
  const Task task = json_task("email:send", std::vector<int>{1, 2}, {{"trace", "1"}});
  CHECK(task.type == "email:send");
  CHECK(task.payload == "[1,2]");
  CHECK(task.headers == Headers{{"trace", "1"}});
}

TEST_CASE("a task whose payload does not parse is archived without calling its handler", "[json]") {
  ServeMux mux;
  bool called = false;
  handle_json<Email>(mux, "email:", [&](Context&, const Email&) { called = true; });
  handle_json<Picky>(mux, "picky", [&](Context&, const Picky&) { called = true; });
  OneRun t{Task{}};
  const auto run = [&](std::string type, std::string payload) {
    return mux.handle(t.context, {.type = std::move(type), .payload = std::move(payload)});
  };
  const Outcome missing = run("email:send", R"({"to": "a"})");
  CHECK(missing.kind() == Outcome::Kind::skip_retry);
  CHECK(missing.error() == "payload of \"email:send\": missing field /user_id");
  CHECK(run("email:send", "").kind() == Outcome::Kind::skip_retry);
  CHECK(run("email:send", std::string(1'000'000, '{')).kind() == Outcome::Kind::skip_retry);
  CHECK(run("picky", R"({"n": 1})").kind() == Outcome::Kind::skip_retry);
  CHECK(run("picky", R"({"n": 2})").kind() == Outcome::Kind::skip_retry);
  CHECK(run("picky", R"({"n": 4})").kind() == Outcome::Kind::skip_retry);
  CHECK(run("picky", R"({"n": 300000000000})").kind() == Outcome::Kind::skip_retry);
  CHECK_FALSE(called);

  // Out of memory does not mean that the payload is invalid.
  CHECK(run("picky", R"({"n": 3})").kind() == Outcome::Kind::failure);
}

TEST_CASE("a JSON handler that returns void has failed if it was asked to stop", "[json]") {
  ServeMux mux;
  handle_json<int>(mux, "n", [](Context&, int) {});
  OneRun t{Task{}};
  CHECK(mux.handle(t.context, {.type = "n", .payload = "5"}).kind() == Outcome::Kind::success);
  t.state->request_stop(StopReason::timeout, t.clock->steady_now());
  CHECK(mux.handle(t.context, {.type = "n", .payload = "5"}).kind() == Outcome::Kind::failure);
}

TEST_CASE("return values and exceptions of a JSON handler count as those of any handler",
          "[json]") {
  ServeMux mux;
  handle_json<int>(mux, "snooze",
                   [](Context&, const int& n) { return Outcome::snooze(std::chrono::seconds{n}); });
  handle_json<int>(mux, "throw", [](Context&, int) { throw std::runtime_error{"no luck"}; });
  handle_json<int>(mux, "malformed", [](Context&, int) { from_json_text<int>("{}"); },
                   {.timeout = 5s});
  OneRun t{Task{}};
  CHECK(mux.handle(t.context, {.type = "snooze", .payload = "5"}).delay() == 5s);
  const Outcome thrown = mux.handle(t.context, {.type = "throw", .payload = "5"});
  CHECK(thrown.kind() == Outcome::Kind::failure);
  CHECK(thrown.error() == "no luck");
  CHECK(mux.handle(t.context, {.type = "malformed", .payload = "5"}).kind() ==
        Outcome::Kind::failure);
  CHECK(mux.route("malformed").timeout == Duration{5s});
  CHECK_THROWS_AS(handle_json<int>(mux, "throw", [](Context&, int) {}), std::invalid_argument);
}
