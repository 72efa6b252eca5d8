// Zeros behind the ends of the sequences of a batch, in place; nothing else is touched.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace sepconv {

// `rows` rows of `length` steps of `step` bytes.
struct Steps {
  char* data;
  std::int64_t rows, length, step;
};

// Threads share the tails by so many bytes; fewer are not worth waking one.
constexpr std::int64_t kTailShare = 1 << 18;

// Row b keeps its first end(b) steps. Throws bad_alloc.
template <typename F>
void clear_tails(const Steps& steps, F end, Pool& pool) {
  const auto bytes = [&](std::int64_t row) {
    return (steps.length - std::clamp<std::int64_t>(end(row), 0, steps.length)) * steps.step;
  };
  std::int64_t total = 0;
  for (std::int64_t row = 0; row < steps.rows; ++row) total += bytes(row);
  // All tails, one after the other, are a line, of which an item clears a part.
  parallel_for(pool, (total + kTailShare - 1) / kTailShare, 0, [&](std::int64_t item, void*) {
    const std::int64_t from = item * kTailShare, to = from + kTailShare;
    std::int64_t begin = 0;
    for (std::int64_t row = 0; row < steps.rows && begin < to; ++row) {
      const std::int64_t last = begin + bytes(row);
      const std::int64_t low = std::max(from, begin), high = std::min(to, last);
      char* const row_end = steps.data + (row + 1) * steps.length * steps.step;
      if (low < high) std::memset(row_end - (last - low), 0, high - low);
      begin = last;
    }
  });
}

}  // namespace sepconv
