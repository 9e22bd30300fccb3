#pragma once

namespace taskmux::test {

/// Lets operator new fail on threads that ask for it. The program must link failing_allocation.cpp,
/// which replaces operator new.
class FailingAllocation {
 public:
  /// From now on, every `period`-th allocation of the threads concerned throws std::bad_alloc.
  static void begin(long period);
  /// The next `number`-th allocation of the threads concerned throws, and no other.
  static void fail_once(long number);
  static void end();
  /// How many have failed since the last begin() or fail_once().
  static long failures();

  /// Whether allocations of the calling thread are concerned; false at first.
  static void concern_this_thread(bool concerned);
};

}  // namespace taskmux::test
