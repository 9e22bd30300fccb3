#include "taskmux/detail/engine/look_scope.hpp"

#include "support/test.hpp"

using namespace taskmux;
using namespace taskmux::detail;
using namespace std::chrono_literals;

namespace {

using Names = std::vector<std::string>;
const SteadyTime start{1h};

}  // namespace

TEST_CASE("a scope is all queues until the watch is armed, and then those that hints name",
          "[scope]") {
  LookScope scope;
  CHECK(scope.is_all());
  CHECK(scope.includes("a"));
  scope.add(Names{"a"}, start);
  CHECK(scope.is_all());
  scope.set_none();
  CHECK(scope.is_none());
  CHECK_FALSE(scope.includes("a"));
  scope.add(Names{"a"}, start);
  scope.add(Names{"b"}, start);
  CHECK_FALSE(scope.is_none());
  CHECK(scope.includes("a"));
  CHECK(scope.includes("b"));
  CHECK_FALSE(scope.includes("c"));
  scope.add(std::nullopt, start);
  CHECK(scope.is_all());
}

TEST_CASE("a narrow scope holds for two looks, unless one finds a task for each worker",
          "[scope]") {
  LookScope scope;
  scope.set_none();
  scope.add(Names{"a"}, start);
  scope.looked(false);
  CHECK_FALSE(scope.is_all());
  scope.looked(GENERATE(false, true));
  CHECK(scope.is_all());

  scope.set_none();
  scope.looked(true);
  CHECK(scope.is_all());
}

TEST_CASE("a narrow scope expires some time after its first hint", "[scope]") {
  LookScope scope;
  scope.set_none();
  scope.expire(start + 24h);
  CHECK(scope.is_none());
  scope.add(Names{"a"}, start + 24h);
  scope.add(Names{"b"}, start + 24h + 50ms);
  scope.expire(start + 24h + 99ms);
  CHECK_FALSE(scope.is_all());
  scope.expire(start + 24h + 100ms);
  CHECK(scope.is_all());
}
