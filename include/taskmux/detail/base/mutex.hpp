#pragma once

#include <condition_variable>
#include <mutex>

// Clang's thread-safety annotations state which mutex guards which data; the tidy preset checks
// them (-Wthread-safety).
#if defined(__clang__)
#define TASKMUX_THREAD_ANNOTATION(x) __attribute__((x))
#else
#define TASKMUX_THREAD_ANNOTATION(x)
#endif
#define TASKMUX_CAPABILITY(x) TASKMUX_THREAD_ANNOTATION(capability(x))
#define TASKMUX_SCOPED_CAPABILITY TASKMUX_THREAD_ANNOTATION(scoped_lockable)
#define TASKMUX_GUARDED_BY(x) TASKMUX_THREAD_ANNOTATION(guarded_by(x))
#define TASKMUX_REQUIRES(...) TASKMUX_THREAD_ANNOTATION(requires_capability(__VA_ARGS__))
#define TASKMUX_EXCLUDES(...) TASKMUX_THREAD_ANNOTATION(locks_excluded(__VA_ARGS__))
#define TASKMUX_ACQUIRE(...) TASKMUX_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define TASKMUX_RELEASE(...) TASKMUX_THREAD_ANNOTATION(release_capability(__VA_ARGS__))

namespace taskmux {
inline namespace v0 {
namespace detail {

/// std::mutex with annotations, so that the compiler can check that it is held.
class TASKMUX_CAPABILITY("mutex") Mutex {
 public:
  void lock() TASKMUX_ACQUIRE() { mutex_.lock(); }
  void unlock() TASKMUX_RELEASE() { mutex_.unlock(); }
  /// For a std::condition_variable, only through MutexLock.
  std::mutex& native() noexcept { return mutex_; }

 private:
  std::mutex mutex_;
};

/// Holds a Mutex for a scope; can be released early and acquired again.
class TASKMUX_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) TASKMUX_ACQUIRE(mutex) : lock_{mutex.native()} {}
  ~MutexLock() TASKMUX_RELEASE() = default;
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

  void lock() TASKMUX_ACQUIRE() { lock_.lock(); }
  void unlock() TASKMUX_RELEASE() { lock_.unlock(); }

  /// Waits for a notification of `condition`; may return without one. The mutex is held again
  /// afterwards.
  void wait(std::condition_variable& condition) { condition.wait(lock_); }

  /// As wait(), until `deadline` at the latest.
  template <typename TimePoint>
  void wait_until(std::condition_variable& condition, TimePoint deadline) {
    condition.wait_until(lock_, deadline);
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
