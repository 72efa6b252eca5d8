// Ragged batches: what is behind the end of a sequence is not read, nor, but for zeros, written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "problem.h"
#include "schedule.h"
#include "tails.h"

namespace sepconv {

// A batch of sequences as a problem, from the problem that it would be if all were whole.
//
// With "same" every sequence has TensorFlow's number of zeros in front of it, by its own length.
// The least of these numbers is the problem's; a sequence is shifted by what it has more.
class Ragged {
 public:
  Ragged(const Problem& whole, const std::int32_t* lengths, bool same)
      : problem_(whole), x_(whole.batch), y_(whole.batch) {
    Problem& p = problem_;
    const std::int64_t reach = (p.taps - 1) * p.dilation;
    std::int64_t least = p.pad_low, most = p.pad_low;
    bool any = false;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      const std::int64_t n = std::clamp<std::int64_t>(lengths[b], 0, p.length);
      std::int64_t low = p.pad_low, steps = ceil_div(n + low - reach, p.stride);
      if (same) {
        steps = ceil_div(n, p.stride);
        low = std::max<std::int64_t>(0, (steps - 1) * p.stride + reach + 1 - n) / 2;
      }
      steps = std::clamp<std::int64_t>(steps, 0, p.output_length);
      x_[b] = {low, n};
      y_[b] = {0, steps};
      if (steps == 0) continue;
      least = any ? std::min(least, low) : low;
      most = any ? std::max(most, low) : low;
      any = true;
    }
    // One without an output step has only to be somewhere.
    for (Part& part : x_) part.shift = std::clamp(part.shift, least, most) - least;
    p.pad_low = least;
    p.spread = most - least;
    p.x_parts = x_.data();
    p.y_parts = y_.data();
  }
  Ragged(const Ragged&) = delete;
  Ragged& operator=(const Ragged&) = delete;

  const Problem& problem() const { return problem_; }

  // Zeros behind the ends in x, or in y with so many columns.
  template <typename A>
  void clear_x(A* x, Pool& pool) const {
    clear(x, problem_.length, problem_.channels, x_, pool);
  }
  template <typename A>
  void clear_y(A* y, std::int64_t columns, Pool& pool) const {
    clear(y, problem_.output_length, columns, y_, pool);
  }

 private:
  template <typename A>
  void clear(A* data, std::int64_t steps, std::int64_t columns, const std::vector<Part>& parts,
             Pool& pool) const {
    const auto step = static_cast<std::int64_t>(sizeof(A)) * columns;
    const auto end = [&parts](std::int64_t row) { return parts[row].count; };
    clear_tails({reinterpret_cast<char*>(data), problem_.batch, steps, step}, end, pool);
  }

  Problem problem_;
  std::vector<Part> x_, y_;
};

}  // namespace sepconv
