// Ragged batches: every sequence is a problem of its own, so that nothing behind its end is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>

#include "parallel.h"
#include "problem.h"

namespace sepconv {

// For work within an item that is one thread's own.
class SerialPool : public Pool {
 public:
  std::int64_t threads() const override { return 1; }
  void schedule(std::function<void()> task) override { task(); }
};

// A batch, and for each sequence its length, its output length and the zeros in front of it.
struct Sequences {
  Problem whole;
  const std::int32_t* plan;  // (3, batch)

  Problem alone(std::int64_t row) const {
    Problem p = whole;
    p.batch = 1;
    p.length = std::clamp<std::int64_t>(plan[row], 0, whole.length);
    p.output_length = std::clamp<std::int64_t>(plan[whole.batch + row], 0, whole.output_length);
    p.pad_low = plan[2 * whole.batch + row];
    if (p.length == 0) p.output_length = 0;
    return p;
  }
  std::int64_t x_size() const { return whole.length * whole.channels; }
  std::int64_t h_size() const { return whole.output_length * whole.lanes(); }
};

// Threads take items, or, where these are few, share the work of each. Throws bad_alloc.
template <typename F>
void parallel_items(Pool& pool, std::int64_t items, std::size_t bytes, F f) {
  if (items >= 2 * pool.threads()) {
    parallel_for(pool, items, bytes, [&f](std::int64_t item, void* scratch) {
      SerialPool alone;
      f(item, scratch, alone);
    });
  } else {
    const Scratch scratch(bytes);
    for (std::int64_t item = 0; item < items; ++item) f(item, scratch.data(), pool);
  }
}

// Compute rows of a result, of `size` elements each; compute(row, problem, out, pool) returns how
// many of them it has written. The rest is zero.
template <typename A, typename F>
void ragged_rows(const Sequences& s, A* result, std::int64_t size, Pool& pool, F compute) {
  parallel_items(pool, s.whole.batch, 0, [&](std::int64_t row, void*, Pool& own) {
    A* const out = result + row * size;
    const Problem p = s.alone(row);
    const std::int64_t written = p.output_length > 0 ? compute(row, p, out, own) : 0;
    std::memset(out + written, 0, sizeof(A) * (size - written));
  });
}

// Sum over sequences what compute(row, problem, out, pool) writes: by groups, then over groups, in
// an order that does not depend on the number of threads.
template <typename A, typename F>
void ragged_sum(const Sequences& s, A* result, std::int64_t size, Pool& pool, F compute) {
  constexpr std::int64_t kGroups = 16, kShare = 1 << 14;
  const std::int64_t batch = s.whole.batch, groups = std::min(batch, kGroups);
  const Scratch memory(sizeof(A) * groups * size);
  A* const sums = static_cast<A*>(memory.data());
  parallel_items(pool, groups, sizeof(A) * size, [&](std::int64_t g, void* scratch, Pool& own) {
    A* const sum = sums + g * size;
    A* const term = static_cast<A*>(scratch);
    std::fill(sum, sum + size, A{0});
    for (std::int64_t row = g; row < batch; row += groups) {
      const Problem p = s.alone(row);
      if (p.output_length == 0) continue;
      compute(row, p, term, own);
      for (std::int64_t i = 0; i < size; ++i) sum[i] += term[i];
    }
  });
  parallel_for(pool, (size + kShare - 1) / kShare, 0, [&](std::int64_t item, void*) {
    const std::int64_t first = item * kShare, last = std::min(size, first + kShare);
    std::fill(result + first, result + last, A{0});
    for (std::int64_t g = 0; g < groups; ++g)
      for (std::int64_t i = first; i < last; ++i) result[i] += sums[g * size + i];
  });
}

template <typename A>
void ragged_output(const Sequences& s, const Separable<A>& kernels, const A* x, const A* k,
                   const Pointwise<const A*>& w, A* y, Pool& pool) {
  ragged_rows(s, y, s.whole.output_length * w.filters, pool,
              [&](std::int64_t row, const Problem& p, A* out, Pool& own) {
                kernels.output(p, x + row * s.x_size(), k, w, out, own);
                return p.output_length * w.filters;
              });
}

template <typename A>
void ragged_input_gradient(const Sequences& s, const Contractions<A, A>& kernels, const A* h,
                           const A* k, A* x, Pool& pool) {
  ragged_rows(s, x, s.x_size(), pool,
              [&](std::int64_t row, const Problem& p, A* out, Pool& own) {
                kernels.input_gradient(p, h + row * s.h_size(), k, out, own);
                return p.length * p.channels;
              });
}

template <typename A>
void ragged_kernel_gradient(const Sequences& s, const Contractions<A, A>& kernels, const A* x,
                            const A* h, A* k, Pool& pool) {
  ragged_sum(s, k, s.whole.taps * s.whole.lanes(), pool,
             [&](std::int64_t row, const Problem& p, A* out, Pool& own) {
               kernels.kernel_gradient(p, x + row * s.x_size(), h + row * s.h_size(), out, own);
             });
}

// Weights and, behind them in the same memory, the bias if there is one.
template <typename A>
void ragged_pointwise_gradient(const Sequences& s, const Separable<A>& kernels, const A* x,
                               const A* k, const A* y, std::int64_t filters, bool bias, A* result,
                               Pool& pool) {
  const std::int64_t weights = s.whole.lanes() * filters;
  const std::int64_t y_size = s.whole.output_length * filters;
  ragged_sum(s, result, weights + (bias ? filters : 0), pool,
             [&](std::int64_t row, const Problem& p, A* out, Pool& own) {
               kernels.pointwise_gradient(p, x + row * s.x_size(), k, y + row * y_size,
                                          {out, bias ? out + weights : nullptr, filters}, own);
             });
}

}  // namespace sepconv
