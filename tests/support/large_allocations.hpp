#pragma once

#include <cstddef>

namespace taskmux::test {

/// Counts the allocations of at least `least` bytes while it lives, of all threads. Each is room for
/// a copy of a payload of that size. One at a time. The program must link large_allocations.cpp,
/// which replaces operator new.
class LargeAllocations {
 public:
  explicit LargeAllocations(std::size_t least);
  ~LargeAllocations();
  LargeAllocations(const LargeAllocations&) = delete;
  LargeAllocations& operator=(const LargeAllocations&) = delete;

  long count() const;
};

}  // namespace taskmux::test
