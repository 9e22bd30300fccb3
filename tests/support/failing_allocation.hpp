#pragma once

namespace taskmux::test {

/// Makes operator new fail on threads that request it. The program must link
/// failing_allocation.cpp, which replaces operator new.
class FailingAllocation {
 public:
  /// From now on, every `period`-th allocation of the affected threads throws std::bad_alloc.
  static void begin(long period);
  /// The `number`-th allocation of the affected threads throws, and no other.
  static void fail_once(long number);
  static void end();
  /// Returns how many allocations have failed since the last begin() or fail_once().
  static long failures();

  /// Sets whether the calling thread is affected; false by default.
  static void concern_this_thread(bool concerned);
};

}  // namespace taskmux::test
