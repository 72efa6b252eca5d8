// The operation in integers on a random problem, by every instruction set, against plain loops: the
// very same numbers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "parallel.h"
#include "problem.h"
#include "problems.h"
#include "quantized.h"

namespace sepconv::testing {

// Operands in heap memory of exactly their size.
struct QuantizedOperands {
  std::vector<std::int8_t> x, k, w;
  std::vector<std::int32_t> bias;
  std::vector<float> m1, m2;
  bool each1, each2;
  std::int32_t zero_x, zero_h, zero_y;
  float low, high;
};

inline std::vector<std::int8_t> random_bytes(Random& random, std::int64_t n) {
  // Of some arrays all are extreme.
  const bool extreme = random.percent(15);
  std::vector<std::int8_t> bytes(static_cast<std::size_t>(n));
  for (std::int8_t& byte : bytes)
    byte = static_cast<std::int8_t>(extreme ? random.one_of({-128, -127, 127}) : random.between(-128, 127));
  return bytes;
}

// Multipliers about which sums of so many terms fill int8; now and then what is no usual number.
inline std::vector<float> random_multipliers(Random& random, std::int64_t n, std::int64_t terms) {
  std::vector<float> all(static_cast<std::size_t>(n));
  const float usual = 1.0f / (60.0f * std::sqrt(static_cast<float>(std::max<std::int64_t>(1, terms))));
  for (float& m : all) {
    m = usual * static_cast<float>(1 + 0.9 * random.value());
    if (random.percent(1)) m = 0.5f;  // Sums end half-way.
    if (random.percent(1)) m *= 1e12f;
    if (random.between(1, 300) == 1) m = std::numeric_limits<float>::quiet_NaN();
    if (random.between(1, 300) == 1) m = -std::numeric_limits<float>::infinity();
  }
  return all;
}

inline QuantizedOperands random_quantized(Random& random, const Problem& p, std::int64_t filters) {
  QuantizedOperands in;
  const auto zero = [&] {
    return static_cast<std::int32_t>(random.percent(30) ? 0 : random.between(-128, 127));
  };
  in.zero_x = zero(), in.zero_h = zero(), in.zero_y = zero();
  in.x = random_bytes(random, p.batch * p.length * p.channels);
  in.k = random_bytes(random, p.taps * p.lanes());
  in.w = random_bytes(random, p.lanes() * filters);
  in.each1 = random.percent(30), in.each2 = random.percent(30);
  in.m1 = random_multipliers(random, p.lanes() * (in.each1 ? p.batch : 1), 127 * p.taps);
  in.m2 = random_multipliers(random, filters * (in.each2 ? p.batch : 1), 127 * p.lanes());
  for (std::int64_t f = 0; f < std::max(filters, p.lanes()); ++f)
    in.bias.push_back(static_cast<std::int32_t>(random.between(-20000, 20000)));
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  in.low = random.percent(50) ? -kInfinity : 0;
  in.high = random.percent(70) ? kInfinity : static_cast<float>(random.between(0, 100));
  return in;
}

// Sums wrap; so they are made without a sign.
inline std::int32_t as_signed(std::uint32_t sum) { return static_cast<std::int32_t>(sum); }

inline std::vector<std::int32_t> depthwise_sums(const Problem& p, const QuantizedOperands& in) {
  std::vector<std::int32_t> sums;
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t l = 0; l < p.output_length; ++l)
      for (std::int64_t j = 0; j < p.lanes(); ++j) {
        std::uint32_t sum = 0;
        for (std::int64_t i = 0; i < p.taps; ++i) {
          const std::int64_t row = l * p.stride + i * p.dilation - p.pad_low;
          if (row < 0 || row >= p.length) continue;
          const std::int8_t whole = in.x[(b * p.length + row) * p.channels + j / p.multiplier];
          sum += static_cast<std::uint32_t>((whole - in.zero_x) * in.k[i * p.lanes() + j]);
        }
        sums.push_back(as_signed(sum));
      }
  return sums;
}

// clamp(rne(v), low, high), where NaN becomes the least.
inline std::int32_t rounded(float v, float low, float high) {
  if (!(v > low)) return static_cast<std::int32_t>(low);
  return static_cast<std::int32_t>(v < high ? std::nearbyint(v) : high);
}

template <typename R>
R ended(std::int32_t sum, float multiplier, const QuantizedOperands& in) {
  const float v = static_cast<float>(sum) * multiplier;
  if constexpr (std::is_same_v<R, float>) return v < in.low ? in.low : v > in.high ? in.high : v;
  const float low = std::max(in.low, static_cast<float>(-128 - in.zero_y));
  const float high = std::min(in.high, static_cast<float>(127 - in.zero_y));
  return static_cast<R>(rounded(v, low, high) + in.zero_y);
}

template <typename R>
std::vector<R> defined_quantized(const Problem& p, const QuantizedOperands& in, std::int64_t filters) {
  const std::vector<std::int32_t> sums = depthwise_sums(p, in);
  const std::int64_t lanes = p.lanes();
  std::vector<R> y;
  for (std::int64_t r = 0; r < p.batch * p.output_length; ++r) {
    const std::int64_t b = r / p.output_length;
    const float* const m1 = in.m1.data() + (in.each1 ? b * lanes : 0);
    if (filters < 0) {
      for (std::int64_t j = 0; j < lanes; ++j)
        y.push_back(ended<R>(as_signed(static_cast<std::uint32_t>(in.bias[j]) + sums[r * lanes + j]), m1[j], in));
      continue;
    }
    std::vector<std::int32_t> h;
    for (std::int64_t j = 0; j < lanes; ++j)
      h.push_back(rounded(static_cast<float>(sums[r * lanes + j]) * m1[j],
                          static_cast<float>(-128 - in.zero_h), static_cast<float>(127 - in.zero_h)));
    for (std::int64_t f = 0; f < filters; ++f) {
      auto sum = static_cast<std::uint32_t>(in.bias[f]);
      for (std::int64_t j = 0; j < lanes; ++j)
        sum += static_cast<std::uint32_t>(h[j] * in.w[j * filters + f]);
      y.push_back(ended<R>(as_signed(sum), in.m2[(in.each2 ? b * filters : 0) + f], in));
    }
  }
  return y;
}

template <typename R>
bool same_number(R a, R b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b) || (a == 0 && b == 0);
}

// The kernels' results; `filters` negative: of the depthwise stage alone.
template <typename R>
std::vector<R> computed_quantized(const QuantizedKernels& kernels, const Problem& p,
                                  const QuantizedOperands& operands, std::int64_t filters, Pool& pool) {
  const QuantizedOperands in = operands;  // Nothing that the kernels saw is alive behind the call.
  const std::int64_t columns = filters < 0 ? p.lanes() : filters;
  std::vector<R> y(static_cast<std::size_t>(p.batch * p.output_length * columns), R{77});
  const std::vector<std::int32_t> bias(in.bias.begin(), in.bias.begin() + columns);
  const QuantizedDepthwise depthwise{in.x.data(), in.k.data(), in.zero_x, {in.m1.data(), p.lanes(), in.each1}};
  const QuantizedPointwise pointwise{in.w.data(), filters, in.zero_h, {in.m2.data(), filters, in.each2}};
  const Ending ending{bias.data(), in.zero_y, in.low, in.high};
  if constexpr (std::is_same_v<R, float>) {
    if (filters < 0)
      kernels.depthwise_to_f32(p, depthwise, ending, y.data(), pool);
    else
      kernels.separable_to_f32(p, depthwise, pointwise, ending, y.data(), pool);
  } else {
    if (filters < 0)
      kernels.depthwise_to_int8(p, depthwise, ending, y.data(), pool);
    else
      kernels.separable_to_int8(p, depthwise, pointwise, ending, y.data(), pool);
  }
  return y;
}

template <typename R>
void same_as_defined(const std::string& name, const Problem& p, const QuantizedOperands& in,
                     std::int64_t filters, const std::vector<const QuantizedKernels*>& sets,
                     const std::vector<Pool*>& pools) {
  const std::vector<R> definition = defined_quantized<R>(p, in, filters);
  for (const QuantizedKernels* set : sets)
    for (Pool* pool : pools) {
      const std::vector<R> y = computed_quantized<R>(*set, p, in, filters, *pool);
      for (std::size_t i = 0; i < y.size(); ++i)
        if (!same_number(y[i], definition[i])) {
          std::fprintf(stderr, "FAILED: %s\n  in integers, %s, zeros %d %d %d, element %zu: %.9g, not %.9g\n",
                       name.c_str(), set->name, in.zero_x, in.zero_h, in.zero_y, i,
                       static_cast<double>(y[i]), static_cast<double>(definition[i]));
          std::fflush(stderr);
          std::_Exit(1);
        }
    }
}

// Both stages and the first alone, with both types of results.
inline void check_quantized(const std::string& name, Random& random, const Problem& p, std::int64_t filters,
                            const std::vector<const QuantizedKernels*>& sets,
                            const std::vector<Pool*>& pools) {
  const QuantizedOperands in = random_quantized(random, p, filters);
  for (const std::int64_t columns : {filters, std::int64_t{-1}}) {
    same_as_defined<std::int8_t>(name, p, in, columns, sets, pools);
    same_as_defined<float>(name, p, in, columns, sets, pools);
  }
}

}  // namespace sepconv::testing
