#include "support/large_allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <limits>
#include <new>

namespace {

constexpr std::size_t none = std::numeric_limits<std::size_t>::max();
std::atomic<std::size_t> large{none};
std::atomic<long> counted{0};

void* allocate(std::size_t size) {
  if (size >= large) ++counted;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (!memory) throw std::bad_alloc{};
  return memory;
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace taskmux::test {

LargeAllocations::LargeAllocations(std::size_t least) {
  counted = 0;
  large = least;
}
LargeAllocations::~LargeAllocations() { large = none; }
long LargeAllocations::count() const { return counted; }

}  // namespace taskmux::test
