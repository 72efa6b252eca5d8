// What all handlers of XLA's calls use.
#pragma once

#include <cstdint>
#include <functional>
#include <new>
#include <optional>
#include <utility>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace sepconv {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;
using Numbers = ffi::Buffer<ffi::S32>;
using Limited = std::optional<Numbers>;

class XlaPool : public Pool {
 public:
  explicit XlaPool(ffi::ThreadPool& pool) : pool_(pool) {}
  std::int64_t threads() const override { return pool_.num_threads(); }
  void schedule(std::function<void()> task) override { pool_.Schedule(std::move(task)); }

 private:
  ffi::ThreadPool& pool_;
};

template <typename A>
A* data(const Buffer& buffer) {
  return buffer.element_count() == 0 ? nullptr : static_cast<A*>(buffer.untyped_data());
}

inline std::int64_t count(const Buffer& buffer) {
  return static_cast<std::int64_t>(buffer.element_count());
}

inline ffi::Error wrong_shapes() {
  return ffi::Error::InvalidArgument("shapes that do not belong together");
}

// Run with the threads of a call, which may find no memory.
template <typename Run>
ffi::Error with_pool(ffi::ThreadPool& threads, Run run) {
  XlaPool pool(threads);
  try {
    return run(pool);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
}

}  // namespace sepconv
