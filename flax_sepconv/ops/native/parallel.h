// Share work items between the caller and the threads of a pool.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>

namespace sepconv {

class Pool {
 public:
  virtual ~Pool() = default;
  virtual std::int64_t threads() const = 0;
  virtual void schedule(std::function<void()> task) = 0;
};

// Memory of one participant, aligned to a cache line.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes)
      : data_(std::aligned_alloc(64, (bytes + 127) / 64 * 64)) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  void* data() const { return data_; }

 private:
  void* data_;
};

using Work = std::function<void(std::int64_t item, void* scratch)>;

namespace internal {

// Outlives the call: a task that starts late finds no item left, and leaves.
struct Shared {
  Shared(std::int64_t items, std::size_t bytes, Work work)
      : items(items), bytes(bytes), work(std::move(work)) {}

  // Do items until none is left to begin.
  void take_part(void* scratch) {
    for (;;) {
      const std::int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= items) return;
      try {
        work(item, scratch);
      } catch (const std::bad_alloc&) {
        out_of_memory.store(true, std::memory_order_relaxed);
      }
      if (finished.fetch_add(1, std::memory_order_acq_rel) + 1 == items) {
        std::lock_guard<std::mutex> lock(mutex);
        all_finished.notify_all();
      }
    }
  }

  void help() {
    if (next.load(std::memory_order_relaxed) >= items) return;
    try {
      Scratch scratch(bytes);
      take_part(scratch.data());
    } catch (const std::bad_alloc&) {
      // Nothing was begun: the others do it.
    }
  }

  bool done() const { return finished.load(std::memory_order_acquire) == items; }

  void wait() {
    for (int spin = 0; spin < 4096; ++spin) {
      if (done()) return;
    }
    std::unique_lock<std::mutex> lock(mutex);
    all_finished.wait(lock, [this] { return done(); });
  }

  const std::int64_t items;
  const std::size_t bytes;
  const Work work;
  std::atomic<std::int64_t> next{0};
  std::atomic<std::int64_t> finished{0};
  std::atomic<bool> out_of_memory{false};
  std::mutex mutex;
  std::condition_variable all_finished;
};

}  // namespace internal

// Do all items, each once, with `bytes` of scratch memory for each participant. Throws bad_alloc.
//
// The caller takes part and waits only for items that somebody has begun, never for a task to be
// scheduled: it cannot deadlock, even when every thread of the pool is such a caller.
inline void parallel_for(Pool& pool, std::int64_t items, std::size_t bytes, Work work) {
  Scratch scratch(bytes);
  const std::int64_t helpers = std::min(pool.threads(), items) - 1;
  if (helpers <= 0) {
    for (std::int64_t item = 0; item < items; ++item) work(item, scratch.data());
    return;
  }
  auto shared = std::make_shared<internal::Shared>(items, bytes, std::move(work));
  try {
    for (std::int64_t i = 0; i < helpers; ++i) pool.schedule([shared] { shared->help(); });
  } catch (const std::bad_alloc&) {
    // Fewer hands; nobody may leave while those that came are at work.
  }
  shared->take_part(scratch.data());
  shared->wait();
  if (shared->out_of_memory.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

}  // namespace sepconv
