// Where sequences begin and end in the rows of a batch: what lies beyond is not read, nor, but for
// zeros, written.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "parallel.h"
#include "problem.h"
#include "schedule.h"
#include "tails.h"

namespace sepconv {

// The values are those that __init__.py gives.
enum class Limit : std::int64_t { kWhole = 0, kLengths = 1, kSegments = 2 };

// `numbers` are lengths (batch), or the ids of segments (batch, length). With `same` each sequence
// has TensorFlow's number of zeros in front of it, by its own length; else all have the problem's in
// front, and so many behind.
struct Limits {
  Limit limit;
  const std::int32_t* numbers;
  bool same;
  std::int64_t behind;
};

// Results are y, or everything that is added up over y; or they are x.
enum class Wanted { kForward, kInputGradient };

// The problem of a batch under limits, from the one that it would be if its rows were whole.
class Sequences {
 public:
  Sequences(const Problem& whole, const Limits& limits, Wanted wanted)
      : problem_(whole), limit_(limits.limit) {
    if (limit_ == Limit::kLengths) stop_at(limits);
    if (limit_ == Limit::kSegments) cut_into_pieces(limits.numbers, wanted);
    if (limit_ == Limit::kWhole) return;
    problem_.x_parts = x_.data();
    problem_.y_parts = y_.data();
  }
  Sequences(const Sequences&) = delete;
  Sequences& operator=(const Sequences&) = delete;

  const Problem& problem() const { return problem_; }

  // Zeros behind the ends in x, or in y, with so many bytes a step.
  void clear_x(void* x, std::int64_t step, Pool& pool) const {
    clear(x, problem_.length, step, x_, pool);
  }
  void clear_y(void* y, std::int64_t step, Pool& pool) const {
    clear(y, problem_.output_length, step, y_, pool);
  }

 private:
  std::int64_t reach() const { return (problem_.taps - 1) * problem_.dilation; }

  // The least number of zeros in front is the problem's; a sequence is shifted by what it has more.
  void stop_at(const Limits& limits) {
    Problem& p = problem_;
    x_.resize(p.batch);
    y_.resize(p.batch);
    std::int64_t least = p.pad_low, most = p.pad_low;
    bool any = false;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      const std::int64_t n = std::clamp<std::int64_t>(limits.numbers[b], 0, p.length);
      std::int64_t low = p.pad_low, steps = ceil_div(n + low + limits.behind - reach(), p.stride);
      if (limits.same) {
        steps = ceil_div(n, p.stride);
        low = std::max<std::int64_t>(0, (steps - 1) * p.stride + reach() + 1 - n) / 2;
      }
      steps = n == 0 ? 0 : std::clamp<std::int64_t>(steps, 0, p.output_length);
      x_[b] = {low, n, b * p.length};
      y_[b] = {0, steps, b * p.output_length};
      if (steps == 0) continue;
      least = any ? std::min(least, low) : low;
      most = any ? std::max(most, low) : low;
      any = true;
    }
    // One without an output step has only to be somewhere.
    for (Part& part : x_) part.shift = std::clamp(part.shift, least, most) - least;
    p.pad_low = least;
    p.spread = most - least;
  }

  // Neighbouring steps with one id are a segment. A piece of one is an example: some positions of
  // the result, and those rows of the operand that its taps meet and its segment has. For stride 1
  // and as many output steps as input steps.
  void cut_into_pieces(const std::int32_t* ids, Wanted wanted) {
    Problem& p = problem_;
    const bool forward = wanted == Wanted::kForward;
    const std::int64_t rows = p.batch * p.length, piece = block_positions(p.dilation, 128);
    const std::int64_t before = forward ? p.pad_low : reach() - p.pad_low;
    std::vector<Part>& results = forward ? y_ : x_;
    std::vector<Part>& operands = forward ? x_ : y_;
    for (std::int64_t begin = 0, end; begin < rows; begin = end) {
      const std::int64_t row_end = (begin / p.length + 1) * p.length;
      for (end = begin + 1; end < row_end && ids[end] == ids[begin];) ++end;
      for (std::int64_t first = begin; first < end; first += piece) {
        const std::int64_t count = std::min(piece, end - first), window = first - before;
        const std::int64_t low = std::max(begin, window);
        const std::int64_t high = std::min(end, window + count + reach());
        results.push_back({0, count, first});
        operands.push_back({low - window, high - low, low});
      }
    }
    p.batch = static_cast<std::int64_t>(results.size());
    p.length = forward ? piece + reach() : piece;
    p.output_length = forward ? piece : piece + reach();
    p.pad_low = forward ? 0 : reach();
  }

  void clear(void* data, std::int64_t length, std::int64_t step, const std::vector<Part>& parts,
             Pool& pool) const {
    if (limit_ != Limit::kLengths) return;
    const auto end = [&parts](std::int64_t row) { return parts[row].count; };
    clear_tails({static_cast<char*>(data), problem_.batch, length, step}, end, pool);
  }

  Problem problem_;
  const Limit limit_;
  std::vector<Part> x_, y_;
};

}  // namespace sepconv
