#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "taskmux/detail/base/mutex.hpp"

namespace taskmux {
inline namespace v0 {
namespace detail {

/// A pool of blocks of one size that are exchanged between the threads that make tasks and the one
/// that frees them. (A general allocator would make these threads wait for each other at every
/// task.) Keeps a bounded number of free blocks. Lives until it is closed and the last block was
/// returned: a hanging handler may keep a block for long. Thread-safe.
class MemoryPool {
 public:
  MemoryPool() = default;
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Returns a block of `size` bytes; `size` must be the same in every call. Throws std::bad_alloc.
  void* take(std::size_t size) TASKMUX_EXCLUDES(taking_, giving_) {
    MutexLock lock{taking_};
    if (ready_ == nullptr) ready_ = take_returned();
    void* const block =
        ready_ != nullptr ? std::exchange(ready_, ready_->next) : ::operator new(size);
    ++taken_;
    return block;
  }

  void give(void* block) noexcept TASKMUX_EXCLUDES(giving_) {
    bool last = false;
    {
      MutexLock lock{giving_};
      ++given_;
      if (kept_ < most_kept) {
        returned_ = ::new (block) Free{returned_};
        ++kept_;
        return;
      }
      last = given_ == awaited_;
    }
    ::operator delete(block);
    if (last) delete this;
  }

  /// Closes the pool; take() must not be called afterwards. Frees the free blocks, and the pool
  /// itself with the last block.
  struct Close {
    void operator()(MemoryPool* pool) const noexcept { pool->close(); }
  };

 private:
  struct Free {
    Free* next;
  };
  static constexpr std::size_t most_kept = 4096;

  ~MemoryPool() = default;

  Free* take_returned() TASKMUX_EXCLUDES(giving_) {
    MutexLock lock{giving_};
    kept_ = 0;
    return std::exchange(returned_, nullptr);
  }

  static void free_all(Free* block) noexcept {
    while (block != nullptr) ::operator delete(std::exchange(block, block->next));
  }

  void close() noexcept TASKMUX_EXCLUDES(taking_, giving_) {
    std::uint64_t taken = 0;
    {
      MutexLock taking{taking_};
      free_all(std::exchange(ready_, nullptr));
      taken = taken_;
    }
    // Once giving_ is released, the thread that returns the last block may free the pool.
    bool last = false;
    {
      MutexLock giving{giving_};
      free_all(std::exchange(returned_, nullptr));
      kept_ = most_kept;  // From now on, no block is kept.
      awaited_ = taken;
      last = given_ == awaited_;
    }
    if (last) delete this;
  }

  Mutex taking_;
  Free* ready_ TASKMUX_GUARDED_BY(taking_) = nullptr;
  std::uint64_t taken_ TASKMUX_GUARDED_BY(taking_) = 0;

  Mutex giving_;
  Free* returned_ TASKMUX_GUARDED_BY(giving_) = nullptr;
  std::size_t kept_ TASKMUX_GUARDED_BY(giving_) = 0;
  std::uint64_t given_ TASKMUX_GUARDED_BY(giving_) = 0;
  std::uint64_t awaited_ TASKMUX_GUARDED_BY(giving_) = ~std::uint64_t{0};  ///< Set by close().
};

/// Allocates single objects from a MemoryPool; only for std::allocate_shared of one type.
template <typename T>
class MemoryPoolAllocator {
 public:
  using value_type = T;

  explicit MemoryPoolAllocator(MemoryPool& pool) noexcept : pool_{&pool} {}
  template <typename U>
  explicit MemoryPoolAllocator(const MemoryPoolAllocator<U>& other) noexcept
      : pool_{other.pool()} {}

  T* allocate(std::size_t) { return static_cast<T*>(pool_->take(sizeof(T))); }
  void deallocate(T* object, std::size_t) noexcept { pool_->give(object); }

  MemoryPool* pool() const noexcept { return pool_; }
  template <typename U>
  bool operator==(const MemoryPoolAllocator<U>& other) const noexcept {
    return pool_ == other.pool();
  }

 private:
  MemoryPool* pool_;
};

}  // namespace detail
}  // namespace v0
}  // namespace taskmux
