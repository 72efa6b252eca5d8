// Zeros behind the ends of the sequences of a batch, in place; nothing else is touched.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "parallel.h"

namespace sepconv {

// Rows of `length` steps of `step` bytes; row b keeps its first lengths[b] steps. Throws bad_alloc.
struct Tails {
  // Threads share the tails by so many bytes; fewer are not worth waking one.
  static constexpr std::int64_t kShare = 1 << 18;

  char* data;
  std::int64_t rows, length, step;
  const std::int32_t* lengths;

  void clear(Pool& pool) const {
    std::int64_t total = 0;
    for (std::int64_t row = 0; row < rows; ++row) total += bytes(row);
    parallel_for(pool, (total + kShare - 1) / kShare, 0, [tails = *this](std::int64_t item, void*) {
      tails.clear_between(item * kShare, (item + 1) * kShare);
    });
  }

 private:
  std::int64_t bytes(std::int64_t row) const {
    return (length - std::clamp<std::int64_t>(lengths[row], 0, length)) * step;
  }

  // All tails, one after the other, are a line; clear what lies on it from one place to another.
  void clear_between(std::int64_t from, std::int64_t to) const {
    std::int64_t begin = 0;
    for (std::int64_t row = 0; row < rows && begin < to; ++row) {
      const std::int64_t end = begin + bytes(row);
      const std::int64_t first = std::max(from, begin), last = std::min(to, end);
      char* const row_end = data + (row + 1) * length * step;
      if (first < last) std::memset(row_end - (end - first), 0, last - first);
      begin = end;
    }
  }
};

}  // namespace sepconv
