// Zeros behind the ends of the sequences of a batch, in place; nothing else is touched.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "parallel.h"

namespace sepconv {

// Tails are cut into pieces of so many bytes, which threads share.
constexpr std::int64_t kTailPiece = 1 << 17;

// Rows of `length` steps of `step` bytes; row b keeps its first lengths[b] steps. Throws bad_alloc.
inline void zero_tails(char* data, std::int64_t rows, std::int64_t length, std::int64_t step,
                       const std::int32_t* lengths, Pool& pool) {
  struct Piece {
    char* begin;
    std::int64_t bytes;
  };
  std::vector<Piece> pieces;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t kept = std::clamp<std::int64_t>(lengths[row], 0, length) * step;
    char* const begin = data + row * length * step;
    for (std::int64_t at = kept; at < length * step; at += kTailPiece)
      pieces.push_back({begin + at, std::min(kTailPiece, length * step - at)});
  }
  parallel_for(pool, static_cast<std::int64_t>(pieces.size()), 0,
               [&pieces](std::int64_t item, void*) {
                 std::memset(pieces[item].begin, 0, pieces[item].bytes);
               });
}

}  // namespace sepconv
