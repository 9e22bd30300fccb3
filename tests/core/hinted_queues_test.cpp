#include "taskmux/detail/engine/hinted_queues.hpp"

#include <string>
#include <vector>

#include "support/test.hpp"

using taskmux::detail::HintedQueues;
using Names = std::vector<std::string>;

TEST_CASE("hints are collected by queue, each queue once, and taken once", "[hints]") {
  HintedQueues hints;
  CHECK_FALSE(hints.take(0).any);
  hints.add("a", 0);
  hints.add("b", 0);
  hints.add("a", 0);
  const HintedQueues::News news = hints.take(0);
  CHECK(news.any);
  CHECK(news.queues == Names{"a", "b"});
  CHECK_FALSE(hints.take(0).any);
}

TEST_CASE("a hint without a queue concerns all, and so do hints of too many", "[hints]") {
  HintedQueues hints;
  if (GENERATE(true, false)) {
    hints.add("a", 0);
    hints.add("", 0);
  } else {
    for (int i = 0; i < 9; ++i) hints.add("q" + std::to_string(i), 0);
  }
  const HintedQueues::News news = hints.take(0);
  CHECK(news.any);
  CHECK(news.queues == std::nullopt);
  hints.add("b", 0);
  CHECK(hints.take(0).queues == Names{"b"});
}

TEST_CASE("hints that the last report included are no news", "[hints]") {
  HintedQueues hints;
  hints.add("a", 3);
  CHECK_FALSE(hints.take(4).any);
  hints.add("a", 3);
  hints.add("b", 4);
  CHECK(hints.take(4).any);
  hints.add("a", 0);  // Its broker does not number its reports.
  CHECK(hints.take(4).any);
}
