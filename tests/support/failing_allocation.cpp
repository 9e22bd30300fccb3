#include "support/failing_allocation.hpp"

#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> period{0};   // 0: no failures
std::atomic<long> counted{0};  // since the last failure
std::atomic<long> failed{0};
std::atomic<bool> once{false};
thread_local bool concerned = false;

bool fails() {
  const long every = period;
  if (!concerned || every == 0 || counted.fetch_add(1) + 1 != every) return false;
  counted = 0;
  if (once) period = 0;
  ++failed;
  return true;
}

void* allocate_or_null(std::size_t size) noexcept {
  return fails() ? nullptr : std::malloc(size > 0 ? size : 1);
}

void* allocate(std::size_t size) {
  void* memory = allocate_or_null(size);
  if (!memory) throw std::bad_alloc{};
  return memory;
}

void start(long number, bool one) {
  period = 0;
  once = one;
  counted = 0;
  failed = 0;
  period = number;
}

}  // namespace

void* operator new(std::size_t size) { return allocate(size); }
void* operator new[](std::size_t size) { return allocate(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate_or_null(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return allocate_or_null(size);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace taskmux::test {

void FailingAllocation::begin(long every) { start(every, false); }
void FailingAllocation::fail_once(long number) { start(number, true); }
void FailingAllocation::end() { period = 0; }
long FailingAllocation::failures() { return failed; }
void FailingAllocation::concern_this_thread(bool is_concerned) { concerned = is_concerned; }

}  // namespace taskmux::test
