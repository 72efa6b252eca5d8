// The operation in integers, and the functions that compute it, without XLA.
//
// All sums are exact: whatever adds them up, in whatever order, has the same bits.
#pragma once

#include <cstdint>
#include <vector>

#include "problem.h"

namespace sepconv {

// Multipliers of the columns of sums: a row of them for each example, or one for all.
struct Multipliers {
  const float* data;
  std::int64_t columns;
  bool of_examples;

  const float* row(std::int64_t example) const {
    return data + (of_examples ? example * columns : 0);
  }
};

// The depthwise stage: x (batch, length, channels), of which `zero` is taken off, and which is `zero`
// beyond the ends; k (taps, lanes).
struct QuantizedDepthwise {
  const std::int8_t *x, *k;
  std::int32_t zero;
  Multipliers multipliers;
};

// The pointwise stage: weights (lanes, filters); `zero` is that of h.
struct QuantizedPointwise {
  const std::int8_t* weights;
  std::int64_t filters;
  std::int32_t zero;
  Multipliers multipliers;
};

// What the last sums become: bias (columns) + sum, in float, multiplied; not below `low`, nor above
// `high`. As int8: rounded, and `zero` added; the bounds are whole numbers, and there are those of int8
// besides. NaN becomes the least int8.
struct Ending {
  const std::int32_t* bias;
  std::int32_t zero;
  float low, high;
};

// The same source compiled for one instruction set. Results are int8 or float:
// (batch, output_length, lanes), or, of both stages, (batch, output_length, filters).
struct QuantizedKernels {
  template <typename R>
  using Depthwise = void (*)(const Problem&, const QuantizedDepthwise&, const Ending&, R*, Pool&);
  template <typename R>
  using Separable = void (*)(const Problem&, const QuantizedDepthwise&, const QuantizedPointwise&,
                             const Ending&, R*, Pool&);
  const char* name;
  Depthwise<std::int8_t> depthwise_to_int8;
  Depthwise<float> depthwise_to_f32;
  Separable<std::int8_t> separable_to_int8;
  Separable<float> separable_to_f32;
};

}  // namespace sepconv
