#pragma once

#include <chrono>
#include <thread>

namespace taskmux::test {

/// Whether `done` comes true, which other threads are bringing about. Gives up after a minute, so
/// that a failure ends.
template <typename Predicate>
bool eventually(Predicate done) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes{1};
  while (!done()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    // A thread that spins would starve those that it waits for.
    std::this_thread::sleep_for(std::chrono::microseconds{200});
  }
  return true;
}

}  // namespace taskmux::test
