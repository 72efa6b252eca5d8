// What is computed, by its definition: loops over all terms, summed in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "problem.h"

namespace sepconv::testing {

struct Sum {
  double value = 0, magnitude = 0;
  std::int64_t terms = 0;

  void add(double product) {
    value += product;
    magnitude += std::abs(product);
    ++terms;
  }
  void add(const Sum& factor, double other) {
    value += factor.value * other;
    magnitude += factor.magnitude * std::abs(other);
    terms += factor.terms + 1;
  }
};
using Sums = std::vector<Sum>;
using Values = std::vector<double>;

inline double activated(double sum, Activation activation) {
  switch (activation) {
    case Activation::kNone: return sum;
    case Activation::kRelu: return sum < 0 ? 0 : sum;
    case Activation::kRelu6: return sum < 0 ? 0 : sum > 6 ? 6 : sum;
    case Activation::kSilu: return sum / (1 + std::exp(-sum));
  }
  return sum;
}

enum class Contraction { kOutput, kInputGradient, kKernelGradient };

inline void add(Sum& sum, double a, double b) { sum.add(a * b); }
inline void add(Sum& sum, const Sum& a, double b) { sum.add(a, b); }

// The trilinear form: of x and k, of k and y, of x and y. With `padding`, steps beyond the ends are zeros that are multiplied and added
// like others, which shows where NaN and infinities of the other factor may come out.
template <typename Value>
Sums contract(Contraction which, const Problem& p, const Values& a, const std::vector<Value>& b,
              bool padding) {
  const std::int64_t lanes = p.lanes(), reach = (p.taps - 1) * p.dilation;
  const std::int64_t columns = which == Contraction::kInputGradient ? p.channels : lanes;
  const std::int64_t rows = which == Contraction::kOutput          ? p.batch * p.output_length
                            : which == Contraction::kInputGradient ? p.batch * p.length
                                                                   : p.taps;
  Sums sums(static_cast<std::size_t>(rows * columns));
  const std::int64_t first = padding ? -reach / p.stride : 0;
  const std::int64_t met = (p.length + p.pad_low) / p.stride + 1;
  const std::int64_t last = padding ? std::max(p.output_length, met) : p.output_length;
  for (std::int64_t l = first; l < last; ++l)
    for (std::int64_t i = 0; i < p.taps; ++i) {
      const std::int64_t step = l * p.stride + i * p.dilation - p.pad_low;
      const bool has_x = step >= 0 && step < p.length, has_y = l >= 0 && l < p.output_length;
      if (!(has_x && has_y) && !(padding && (has_x || has_y))) continue;
      for (std::int64_t batch = 0; batch < p.batch; ++batch)
        for (std::int64_t lane = 0; lane < lanes; ++lane) {
          const std::int64_t x = (batch * p.length + step) * p.channels + lane / p.multiplier;
          const std::int64_t k = i * lanes + lane;
          const std::int64_t y = (batch * p.output_length + l) * lanes + lane;
          if (which == Contraction::kOutput && has_y) add(sums[y], b[k], has_x ? a[x] : 0);
          if (which == Contraction::kInputGradient && has_x)
            add(sums[x], has_y ? b[y] : Value{}, a[k]);
          if (which == Contraction::kKernelGradient && has_y) add(sums[k], b[y], has_x ? a[x] : 0);
        }
    }
  return sums;
}

// y = h weights + bias, activated, for h (rows, lanes); no bias where it is empty.
inline Sums pointwise(const Sums& h, const Values& weights, const Values& bias, std::int64_t lanes,
                      std::int64_t filters, Activation activation = Activation::kNone) {
  Sums y(h.size() / lanes * filters);
  for (std::size_t i = 0; i < y.size(); ++i) {
    const std::int64_t row = i / filters, f = i % filters;
    for (std::int64_t j = 0; j < lanes; ++j)
      y[i].add(h[row * lanes + j], weights[j * filters + f]);
    if (!bias.empty()) y[i].add(bias[f]);
    y[i].value = activated(y[i].value, activation);
  }
  return y;
}

// The cotangents of h: y, times the transpose of the weights.
inline Sums hidden_gradient(const Values& y, const Values& weights, std::int64_t lanes,
                            std::int64_t filters) {
  Sums h(y.size() / filters * lanes);
  for (std::size_t i = 0; i < h.size(); ++i) {
    const std::int64_t row = i / lanes, j = i % lanes;
    for (std::int64_t f = 0; f < filters; ++f)
      h[i].add(y[row * filters + f] * weights[j * filters + f]);
  }
  return h;
}

// weights = the transpose of h, times y.
inline Sums weight_gradient(const Sums& h, const Values& y, std::int64_t lanes,
                            std::int64_t filters) {
  Sums weights(static_cast<std::size_t>(lanes * filters));
  for (std::size_t i = 0; i < h.size(); ++i) {
    const std::int64_t row = i / lanes, j = i % lanes;
    for (std::int64_t f = 0; f < filters; ++f)
      weights[j * filters + f].add(h[i], y[row * filters + f]);
  }
  return weights;
}

// The sums of y's columns.
inline Sums bias_gradient(const Values& y, std::int64_t filters) {
  Sums bias(static_cast<std::size_t>(filters));
  for (std::size_t i = 0; i < y.size(); ++i) bias[i % filters].add(y[i]);
  return bias;
}

template <typename T>
double widen(T value) {
  return value;
}
template <>
inline double widen(bfloat16 value) {
  const std::uint32_t bits = std::uint32_t{value.bits} << 16;
  float wide;
  std::memcpy(&wide, &bits, sizeof wide);
  return wide;
}

template <>
inline double widen(float16 value) {
  const int exponent = value.bits >> 10 & 31, fraction = value.bits & 1023;
  double size = std::ldexp(exponent == 0 ? fraction : fraction + 1024, std::max(exponent, 1) - 25);
  if (exponent == 31)
    size = fraction == 0 ? std::numeric_limits<double>::infinity()
                         : std::numeric_limits<double>::quiet_NaN();
  return value.bits >> 15 ? -size : size;
}

// The operands' bfloat16 are cut off, not rounded: any values will do.
template <typename T>
T narrow(double value) {
  return static_cast<T>(value);
}
template <>
inline bfloat16 narrow(double value) {
  const float single = static_cast<float>(value);
  std::uint32_t bits;
  std::memcpy(&bits, &single, sizeof bits);
  return {static_cast<std::uint16_t>(bits >> 16)};
}

template <>
inline float16 narrow(double value) {
  const auto bits = [](double size) -> std::uint16_t {
    if (size == 0) return 0;
    if (std::isinf(size)) return 31 << 10;
    const int exponent = std::clamp(std::ilogb(size), -14, 15);
    const auto steps = static_cast<int>(std::ldexp(size, 10 - exponent));  // Cut off as well.
    return static_cast<std::uint16_t>(((exponent + 14) << 10) + steps);
  };
  if (std::isnan(value)) return {0x7e00};
  return {static_cast<std::uint16_t>(bits(std::abs(value)) | (std::signbit(value) ? 0x8000 : 0))};
}

// Half the distance between neighbouring numbers around 1.
template <typename T>
constexpr double kRoundoff = std::numeric_limits<T>::epsilon() / 2;
template <>
constexpr double kRoundoff<bfloat16> = 0x1p-8;
template <>
constexpr double kRoundoff<float16> = 0x1p-11;

template <typename T>
constexpr bool is_short = std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

// The type of a sum of products of T.
template <typename T>
using SumOf = std::conditional_t<is_short<T>, float, T>;

// How far from the reference a sum of products of T may lie, rounded to R at last. Errors of single
// additions are of either sign: they grow with the square root of their number. Factors that are
// sums themselves may have been rounded, by `between`, relatively.
template <typename T, typename R>
double tolerance(const Sum& sum, double between = 0) {
  using A = SumOf<T>;
  const double summed =
      (8 * std::sqrt(static_cast<double>(sum.terms)) * kRoundoff<A> + between) * sum.magnitude;
  const double least = std::is_same_v<R, float16> ? 0x1p-25 : 0;
  return summed + least +
         (std::is_same_v<R, A> ? 0 : kRoundoff<R> * (std::abs(sum.value) + summed));
}

}  // namespace sepconv::testing
