#include "taskmux/detail/memory/pool.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/builders.hpp"
#include "support/test.hpp"
#include "taskmux/memory/memory_broker.hpp"

using namespace taskmux;
using detail::MemoryPool;

namespace {

using PoolPtr = std::unique_ptr<MemoryPool, MemoryPool::Close>;

}  // namespace

TEST_CASE("a returned block is reused", "[memory]") {
  const PoolPtr pool{new MemoryPool};
  void* const block = pool->take(64);
  pool->give(block);
  CHECK(pool->take(64) == block);
  pool->give(block);
}

TEST_CASE("a pool accepts more blocks than it keeps", "[memory]") {
  const PoolPtr pool{new MemoryPool};
  std::vector<void*> blocks;
  for (int i = 0; i < 10'000; ++i) blocks.push_back(pool->take(64));
  for (void* const block : blocks) pool->give(block);
}

TEST_CASE("a closed pool lives until its last block is returned", "[memory]") {
  PoolPtr pool{new MemoryPool};
  MemoryPool& open = *pool;
  void* const one = pool->take(64);
  void* const other = pool->take(64);
  pool.reset();
  open.give(one);
  open.give(other);  // A sanitizer would report a leak or an early release.
}

TEST_CASE("a run's message outlives its broker", "[memory]") {
  auto broker = std::make_unique<MemoryBroker>();
  test::enqueue(*broker, test::message("t1"));
  const std::vector<QueueQuota> quotas{{"default", 1}};
  ExchangeReply reply = broker->exchange({.quotas = quotas});
  REQUIRE(reply.runs.size() == 1);
  const Run run = std::move(reply.runs.front());
  reply.runs.clear();
  broker.reset();
  CHECK(run.message->id == "t1");
}
