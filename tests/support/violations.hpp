#pragma once

#include <mutex>
#include <string>
#include <vector>

namespace taskmux::test {

/// Collects failures on other threads than the test's own, where Catch2's assertions may not be
/// used. Check `all().empty()` (or compare all() with {}) on the test's thread. Thread-safe.
class Violations {
 public:
  void expect(bool holds, const std::string& what) {
    if (holds) return;
    const std::lock_guard lock{mutex_};
    violations_.push_back(what);
  }

  std::vector<std::string> all() const {
    const std::lock_guard lock{mutex_};
    return violations_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> violations_;
};

}  // namespace taskmux::test
