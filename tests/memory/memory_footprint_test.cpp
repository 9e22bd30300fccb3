#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "support/test.hpp"
#include "taskmux/memory/memory_broker.hpp"

namespace {

/// Returns the bytes that operator new holds: the sizes reserved by malloc, including a word before
/// each block.
std::size_t allocated = 0;

void* counted(std::size_t size) {
  void* memory = std::malloc(size);
  if (!memory) throw std::bad_alloc{};
  allocated += ::malloc_usable_size(memory) + sizeof(std::size_t);
  return memory;
}

void give_back(void* memory) noexcept {
  if (!memory) return;
  allocated -= ::malloc_usable_size(memory) + sizeof(std::size_t);
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { give_back(memory); }
void operator delete[](void* memory) noexcept { give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { give_back(memory); }
void operator delete[](void* memory, std::size_t) noexcept { give_back(memory); }

namespace taskmux {
namespace {

constexpr std::size_t payload_bytes = 100;

std::vector<EnqueueRequest> batch(std::size_t from, std::size_t to) {
  std::vector<EnqueueRequest> batch(to - from);
  for (EnqueueRequest& request : batch) {
    const std::string number = std::to_string(from++);
    std::string id(36, '0');  // as long as a UUID
    id.replace(36 - number.size(), number.size(), number);
    request.message.id = std::move(id);
    request.message.queue = "default";
    request.message.task = {.type = "email:welcome", .payload = std::string(payload_bytes, 'x')};
  }
  return batch;
}

/// Returns the memory of a broker with a number of pending tasks.
std::size_t bytes_of(std::size_t count) {
  const std::size_t before = allocated;
  MemoryBroker broker;
  for (std::size_t i = 0; i < count; i += 100) broker.enqueue(batch(i, std::min(count, i + 100)));
  return allocated - before;
}

TEST_CASE("a pending task costs at most 500 bytes in addition to its payload", "[memory]") {
  // Just before and just after the table of ids grows.
  for (const std::size_t count : {std::size_t{65'536}, std::size_t{65'537}}) {
    const double each = static_cast<double>(bytes_of(count)) / static_cast<double>(count);
    CAPTURE(count, each);
    CHECK(each - static_cast<double>(payload_bytes) <= 500.0);
  }
}

TEST_CASE("a remembered id costs at most 100 bytes, and nothing after it has expired", "[memory]") {
  const auto clock = std::make_shared<ManualClock>();
  MemoryBroker broker{{.clock = clock}};
  constexpr std::size_t count = 65'537;
  for (std::size_t i = 0; i < count; i += 1000) {
    std::vector<EnqueueRequest> requests = batch(i, std::min(count, i + 1000));
    for (EnqueueRequest& request : requests) request.idempotent_for = std::chrono::seconds{10};
    broker.enqueue(std::move(requests));
    broker.act_all("default", TaskAction::remove, TaskState::pending, 1000);
  }
  // The memory of the table of tasks and of the pool of free blocks does not count.
  const std::size_t with_ids = allocated;
  clock->advance(std::chrono::seconds{11});
  const std::string queue = "default";
  while (broker.upkeep({.queues = std::span{&queue, 1}, .limit = 100}).more) {
  }
  const double each = static_cast<double>(with_ids - allocated) / static_cast<double>(count);
  CAPTURE(each);
  CHECK(each >= 50.0);
  CHECK(each <= 100.0);
}

TEST_CASE("a destroyed memory broker frees all memory", "[memory]") {
  const std::size_t before = allocated;
  bytes_of(1000);
  const std::size_t after = allocated;
  CHECK(after == before);
}

}  // namespace
}  // namespace taskmux
