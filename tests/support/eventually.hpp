#pragma once

#include <chrono>
#include <thread>

namespace taskmux::test {

/// Waits until `done` returns true because of other threads; returns whether it did. Gives up after
/// a minute, so that a failing test ends.
template <typename Predicate>
bool eventually(Predicate done) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::minutes{1};
  while (!done()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    // A spinning thread would starve those that it waits for.
    std::this_thread::sleep_for(std::chrono::microseconds{200});
  }
  return true;
}

}  // namespace taskmux::test
