#include "redis/ops/runs.hpp"

#include <chrono>
#include <optional>
#include <string>

#include "support/test.hpp"

namespace taskmux::redis {
namespace {

using namespace std::chrono_literals;

constexpr Time noon{1767268800s};

TEST_CASE("facts of a task are decoded as they were encoded", "[redis]") {
  const auto [facts, text] = GENERATE(table<Facts, std::string>({
      {Facts{}, "0000000000000000 0 0"},
      {Facts{.enqueued_at = noon}, "1767268800000000 0 0"},
      {Facts{.enqueued_at = noon, .expires_at = noon + 1h, .crashes = 2},
       "1767268800000000 1767272400000000 2"},
      {Facts{.enqueued_at = Time{1us}, .expires_at = noon}, "0000000000000001 1767268800000000 0"},
  }));
  CHECK(to_text(facts) == text);
  const Facts again = parse_facts(text);
  CHECK(again.enqueued_at == facts.enqueued_at);
  CHECK(again.expires_at == facts.expires_at);
  CHECK(again.crashes == facts.crashes);
}

TEST_CASE("facts with only the time of enqueue are a number", "[redis]") {
  const Facts facts = parse_facts("1767268800000000");
  CHECK(facts.enqueued_at == noon);
  CHECK_FALSE(facts.expires_at);
  CHECK(facts.crashes == 0);
}

TEST_CASE("invalid facts count as unset", "[redis]") {
  const auto text = GENERATE(values<std::optional<std::string_view>>(
      {std::nullopt, "", " ", "x", "-5", "99999999999999999999 x -3", "0 0 0", "1e3  nan"}));
  CAPTURE(text.value_or("(none)"));
  const Facts facts = parse_facts(text);
  CHECK_FALSE(facts.enqueued_at);
  CHECK_FALSE(facts.expires_at);
  CHECK(facts.crashes == 0);
}

TEST_CASE("the number of crashes is bounded, whoever wrote it", "[redis]") {
  CHECK(parse_facts("0 0 9000000000000000000").crashes == 1'000'000);
}

TEST_CASE("when a run was taken is the last word of its fence", "[redis]") {
  CHECK(taken_at("0123456789abcdef 1767268810 1767268800000000", "1767268810") == noon);
  CHECK_FALSE(taken_at("0123456789abcdef 1767268810 1767268800000000", "1767268811"));
  CHECK_FALSE(taken_at("0123456789abcdef 1767268810 1767268800000000", std::nullopt));
  CHECK_FALSE(taken_at("0123456789abcdef 1767268810", "1767268810"));
  CHECK_FALSE(taken_at("", ""));
  CHECK_FALSE(taken_at(std::nullopt, std::nullopt));
}

}  // namespace
}  // namespace taskmux::redis
