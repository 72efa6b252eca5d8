// Which rows meet which positions through which taps, in integers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "problem.h"

namespace sepconv {

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

// Taps tap, tap + tap_step, ... (`count` of them). The first one meets position 0 of its class in
// row `row`; every further tap, and every further position of the class, is `row_step` rows on.
struct Run {
  std::int64_t row, tap, tap_step, count;
};

// Positions (of the result) fall into classes i, i + classes, i + 2 * classes, ...: within a class
// positions and taps advance through the rows (of the operand) by the same step.
struct Schedule {
  std::int64_t rows, positions;  // lengths of operand and result
  std::int64_t classes, row_step;
  std::int64_t reach_first, reach_last, row_stride, position_stride;  // of the interior, below
  std::vector<std::vector<Run>> runs;          // of each class

  // Between these positions taps meet rows from `first` up to `last` alone.
  std::int64_t interior_first(std::int64_t first) const {
    return ceil_div(first * row_stride + reach_first, position_stride);
  }
  std::int64_t interior_last(std::int64_t last) const {
    return ceil_div(last * row_stride + reach_last, position_stride);
  }

  // Cut positions [first, last) of an example that has rows [begin, end): call f(low, high) for its
  // interior, and for each position before and behind.
  template <typename F>
  void each_part(std::int64_t begin, std::int64_t end, std::int64_t first, std::int64_t last,
                 F f) const {
    const std::int64_t low = std::clamp(interior_first(begin), first, last);
    const std::int64_t high = std::clamp(interior_last(end), low, last);
    for (std::int64_t position = first; position < low; ++position) f(position, position + 1);
    if (low < high) f(low, high);
    for (std::int64_t position = high; position < last; ++position) f(position, position + 1);
  }

  // The most rows, in or out of range, that trimmed runs of so many neighbouring positions meet.
  std::int64_t rows_met(std::int64_t count) const {
    return rows + 2 * (ceil_div(count, classes) - 1) * row_step;
  }

  // The part of a run that positions [first, first + count) of a class meet within rows [begin, end).
  Run trimmed(const Run& run, std::int64_t first, std::int64_t count, std::int64_t begin,
              std::int64_t end) const {
    const std::int64_t row = run.row + first * row_step;
    const std::int64_t low = std::max<std::int64_t>(0, ceil_div(begin - row, row_step) - (count - 1));
    const std::int64_t high = std::min(run.count, ceil_div(end - row, row_step));
    return {row + low * row_step, run.tap + low * run.tap_step, run.tap_step,
            std::max<std::int64_t>(0, high - low)};
  }
};

// Positions, of so many classes, that are computed together: about `wanted`, in full tiles.
inline std::int64_t block_positions(std::int64_t classes, std::int64_t wanted) {
  const std::int64_t full_tiles = 8 * classes;
  return full_tiles <= 1024 ? ceil_div(wanted, full_tiles) * full_tiles : 1024;
}

// From x to y: position l meets row l * S + i * D - pad_low.
inline Schedule output_schedule(const Problem& p) {
  const std::int64_t common = std::gcd(p.stride, p.dilation);
  const std::int64_t reach = (p.taps - 1) * p.dilation;
  Schedule s;
  s.rows = p.length + p.spread;
  s.positions = p.output_length;
  s.classes = p.dilation / common;
  s.row_step = p.stride * s.classes;
  s.reach_first = p.pad_low;
  s.reach_last = p.pad_low - reach;
  s.row_stride = 1;
  s.position_stride = p.stride;
  const std::int64_t tap_step = p.stride / common;
  for (std::int64_t i = 0; i < s.classes; ++i) {
    s.runs.emplace_back();
    for (std::int64_t tap = 0; tap < std::min(tap_step, p.taps); ++tap)
      s.runs.back().push_back({i * p.stride + tap * p.dilation - p.pad_low, tap, tap_step,
                               ceil_div(p.taps - tap, tap_step)});
  }
  return s;
}

// From y to x: position p meets row (p + pad_low - i * D) / S, where that is whole.
inline Schedule input_gradient_schedule(const Problem& p) {
  const std::int64_t common = std::gcd(p.stride, p.dilation);
  const std::int64_t reach = (p.taps - 1) * p.dilation;
  Schedule s;
  s.rows = p.output_length;
  s.positions = p.length + p.spread;
  s.classes = p.stride / common * p.dilation;
  s.row_step = p.dilation / common;
  s.reach_first = reach - p.pad_low;
  s.reach_last = -p.pad_low;
  s.row_stride = p.stride;
  s.position_stride = 1;
  const std::int64_t tap_step = p.stride / common;
  for (std::int64_t i = 0; i < s.classes; ++i) {
    s.runs.emplace_back();
    for (std::int64_t tap = 0; tap < std::min(tap_step, p.taps); ++tap) {
      const std::int64_t meets = i + p.pad_low - tap * p.dilation;
      if (meets % p.stride != 0) continue;
      // Higher taps meet earlier rows: the run goes backwards through the taps.
      const std::int64_t count = ceil_div(p.taps - tap, tap_step);
      s.runs.back().push_back({meets / p.stride - (count - 1) * s.row_step,
                               tap + (count - 1) * tap_step, -tap_step, count});
      break;
    }
  }
  return s;
}

}  // namespace sepconv
