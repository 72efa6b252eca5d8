// What is computed, and the functions that compute it, without XLA.
#pragma once

#include <cstdint>

namespace sepconv {

class Pool;

// 16-bit floats in memory; all sums of them are made in float.
struct bfloat16 {
  std::uint16_t bits;
};
struct float16 {
  std::uint16_t bits;
};

// What an example has of the rows of an array: `count` of them, from row `origin` of all examples'
// on. The schedule knows the first one as row `shift`. No other one is read or written.
struct Part {
  std::int64_t shift, count, origin;
  std::int64_t end() const { return shift + count; }
};

// The trilinear form of depthwise.py: input step p = l * stride + i * dilation - pad_low.
// Arrays are dense: x (batch, length, channels), k (taps, channels, multiplier),
// y (batch, output_length, channels * multiplier).
struct Problem {
  std::int64_t batch, length, channels, multiplier, taps;
  std::int64_t stride, dilation, pad_low, output_length;
  // Of each example in x and in y; null: all are whole. `spread` is the greatest shift.
  const Part* x_parts = nullptr;
  const Part* y_parts = nullptr;
  std::int64_t spread = 0;

  std::int64_t lanes() const { return channels * multiplier; }
};

// What an output is made of its sums, before it is rounded. Those of zero are zero; kSilu is for sums
// of type float.
enum class Activation : std::int64_t { kNone, kRelu, kRelu6, kSilu };

// What sums start from, one number for each lane, or null: zeros; and what they end as.
template <typename T>
struct Finish {
  const T* bias = nullptr;
  Activation activation = Activation::kNone;
};

// The three contractions for operands of type T and a result of type R.
template <typename T, typename R>
struct Contractions {
  using Operand = T;
  using Result = R;
  void (*output)(const Problem&, const T* x, const T* k, const Finish<T>&, R* y, Pool&);
  void (*input_gradient)(const Problem&, const T* y, const T* k, R* x, Pool&);
  void (*kernel_gradient)(const Problem&, const T* x, const T* y, R* k, Pool&);
};

// The pointwise stage: weights (lanes, filters), a bias (filters) or null, and what its sums end as.
template <typename P>
struct Pointwise {
  P weights, bias;
  std::int64_t filters;
  Activation activation = Activation::kNone;
};

// The arrays of both stages, or their gradients, of which those that are null are not wanted; that of
// the bias is with that of the weights alone.
template <typename P>
struct Separated {
  P x, k, weights, bias;
  std::int64_t filters;
};

// Both stages together: h, the depthwise output, never leaves the caches.
template <typename T>
struct Separable {
  // y (batch, output_length, filters) = h weights + bias, activated
  void (*output)(const Problem&, const T* x, const T* k, const Pointwise<const T*>& w, T* y, Pool&);
  // The same for a chunk of causal streams: of the problem's rows (batch, length, channels) the last
  // `output_length` are x and the others came before. Those that the next chunk needs, as many, are
  // the result `after`. The stride is 1, and there is no padding.
  void (*step)(const Problem&, const T* before, const T* x, const T* k, const Pointwise<const T*>& w,
               T* y, T* after, Pool&);
  // How the sum over all of (h weights + bias) y moves with each. The bias itself is not looked at.
  void (*gradients)(const Problem&, const Separated<const T*>& in, const T* y,
                    const Separated<T*>& out, Pool&);
};

// The same source compiled for one instruction set.
struct Kernels {
  const char* name;
  Contractions<float, float> f32;
  Contractions<double, double> f64;
  Contractions<bfloat16, bfloat16> bf16;
  Contractions<bfloat16, float> bf16_to_f32;
  Contractions<float16, float16> f16;
  Contractions<float16, float> f16_to_f32;
  Separable<float> separable_f32;
  Separable<double> separable_f64;
  Separable<bfloat16> separable_bf16;
  Separable<float16> separable_f16;
};

}  // namespace sepconv
