#pragma once

#include <pthread.h>

#include <cstddef>
#include <stdexcept>

namespace taskmux::test {

/// While an object of this class lives, this process can start no thread, as if there were too
/// many: each would need a stack larger than the address space.
class NoThreads {
 public:
  NoThreads() {
    if (pthread_getattr_default_np(&before_) != 0) throw std::runtime_error{"no thread attributes"};
    pthread_attr_t huge = before_;
    if (pthread_attr_setstacksize(&huge, std::size_t{1} << 48) != 0 ||
        pthread_setattr_default_np(&huge) != 0)
      throw std::runtime_error{"can't set the stack size of threads"};
  }
  ~NoThreads() {
    pthread_setattr_default_np(&before_);
    pthread_attr_destroy(&before_);
  }
  NoThreads(const NoThreads&) = delete;
  NoThreads& operator=(const NoThreads&) = delete;

 private:
  pthread_attr_t before_;
};

}  // namespace taskmux::test
