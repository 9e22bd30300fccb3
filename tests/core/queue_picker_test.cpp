#include "taskmux/detail/engine/queue_picker.hpp"

#include <cstdint>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;

namespace {

std::size_t sum(const std::vector<QueueQuota>& quotas) {
  return std::accumulate(quotas.begin(), quotas.end(), std::size_t{0},
                         [](std::size_t n, const QueueQuota& q) { return n + q.count; });
}

}  // namespace

TEST_CASE("with strict priority, all slots go to the first queue, and the rest in order",
          "[picker]") {
  QueuePicker picker{{{"low", 1}, {"critical", 6}, {"default", 3}}, true};
  const std::vector<QueueQuota> quotas = picker.share(5);
  REQUIRE(quotas.size() == 3);
  CHECK(quotas[0].queue == "critical");
  CHECK(quotas[0].count == 5);
  CHECK(quotas[1].queue == "default");
  CHECK(quotas[1].count == 0);
  CHECK(quotas[2].queue == "low");
}

TEST_CASE("a single queue gets all slots", "[picker]") {
  QueuePicker picker{{{"only", 7}}, false};
  const std::vector<QueueQuota> quotas = picker.share(3);
  REQUIRE(quotas.size() == 1);
  CHECK(quotas[0].count == 3);
}

TEST_CASE("with weights, each call distributes all slots over all queues", "[picker]") {
  QueuePicker picker{{{"a", 6}, {"b", 3}, {"c", 1}}, false, Random{1}};
  for (const std::size_t slots : {1u, 2u, 9u, 10u, 11u, 1000u}) {
    const std::vector<QueueQuota> quotas = picker.share(slots);
    CHECK(quotas.size() == 3);
    CHECK(sum(quotas) == slots);
  }
}

TEST_CASE("with weights, queues get their share of the slots and of the first places", "[picker]") {
  QueuePicker picker{{{"a", 6}, {"b", 3}, {"c", 1}}, false, Random{GENERATE(1u, 2u, 3u)}};
  std::map<std::string, std::size_t> slots;
  std::map<std::string, std::size_t> first;
  constexpr std::size_t rounds = 10'000;
  for (std::size_t i = 0; i < rounds; ++i) {
    const std::vector<QueueQuota> quotas = picker.share(1);
    for (const QueueQuota& quota : quotas) slots[quota.queue] += quota.count;
    ++first[quotas.front().queue];
  }
  for (auto& counts : {slots, first}) {
    CHECK(counts.at("a") > rounds * 57 / 100);
    CHECK(counts.at("a") < rounds * 63 / 100);
    CHECK(counts.at("c") > rounds * 8 / 100);
    CHECK(counts.at("c") < rounds * 12 / 100);
  }
}

TEST_CASE("a tree of weights finds what stands at a point, also once weights are gone",
          "[picker]") {
  Random random{7};
  for (std::size_t count = 1; count <= 33; ++count) {
    std::vector<std::uint64_t> weights;
    WeightTree tree;
    for (std::size_t i = 0; i < count; ++i) {
      weights.push_back(1 + random.below(4));
      tree.push_back(weights.back());
    }
    for (std::size_t left = count; left > 0; --left) {
      std::size_t last = 0;
      std::uint64_t point = 0;
      for (std::size_t i = 0; i < count; ++i) {
        for (std::uint64_t unit = 0; unit < weights[i]; ++unit) {
          last = tree.find(point++);
          CHECK(last == i);
        }
      }
      tree.remove(last, std::exchange(weights[last], 0));
      const std::size_t other = static_cast<std::size_t>(random.below(count));
      tree.remove(other, std::exchange(weights[other], 0));
    }
  }
}
