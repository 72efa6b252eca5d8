// XLA's threads as a Pool, and short names for XLA's buffers.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>

#include "parallel.h"
#include "xla/ffi/api/ffi.h"

namespace sepconv {

namespace ffi = xla::ffi;
using Buffer = ffi::AnyBuffer;
using Result = ffi::Result<ffi::AnyBuffer>;

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

}  // namespace sepconv
