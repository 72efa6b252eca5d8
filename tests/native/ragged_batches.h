// Ragged batches of random sequences, shared by pools of every temper: tails, and all contractions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "pools.h"
#include "problems.h"
#include "ragged.h"
#include "reference.h"
#include "tails.h"

namespace sepconv::testing {

[[noreturn]] inline void fail_ragged(const std::string& what, std::size_t at) {
  std::fprintf(stderr, "FAILED: %s: element %zu\n", what.c_str(), at);
  std::fflush(stderr);
  std::_Exit(1);
}

// In heap memory of exactly its size; lengths reach beyond what is possible.
inline void check_tails(Random& random, const std::string& name,
                        const std::vector<Pool*>& pools) {
  const std::int64_t rows = random.between(0, 20), length = random.between(0, 60);
  // Now and then tails of many shares.
  const std::int64_t step = random.between(1, random.percent(20) ? kTailShare / 8 : 300);
  std::vector<std::int32_t> lengths;
  for (std::int64_t row = 0; row < rows; ++row)
    lengths.push_back(static_cast<std::int32_t>(random.between(-2, length + 2)));
  for (Pool* pool : pools) {
    std::vector<char> data(static_cast<std::size_t>(rows * length * step), 'x');
    const auto end = [&](std::int64_t row) { return lengths[row]; };
    clear_tails({data.data(), rows, length, step}, end, *pool);
    for (std::size_t i = 0; i < data.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i), row = at / (length * step);
      const bool kept = at % (length * step) / step < lengths[row];
      if (data[i] != (kept ? 'x' : 0)) fail_ragged(name + ", tails", i);
    }
  }
}

// A ragged batch whose tails are NaN, and what its sequences give one by one.
struct RaggedBatch {
  Problem p;
  std::int64_t filters;
  bool same;
  std::vector<std::int32_t> lengths;  // beyond what is possible, now and then
  std::vector<std::int32_t> counts, steps;
  std::vector<double> x, k, w, bias, y, h;

  RaggedBatch(Random& random, const Problem& problem, std::int64_t columns)
      : p(problem), filters(columns), same(random.percent(50)) {
    if (same) p.output_length = (p.length + p.stride - 1) / p.stride;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      lengths.push_back(static_cast<std::int32_t>(random.between(-2, p.length + 2)));
      if (random.percent(20)) lengths.back() = static_cast<std::int32_t>(p.length);
      counts.push_back(std::clamp<std::int32_t>(lengths[b], 0, static_cast<std::int32_t>(p.length)));
      steps.push_back(static_cast<std::int32_t>(alone(b).output_length));
    }
    x = ragged(random, counts, p.length, p.channels);
    y = ragged(random, steps, p.output_length, filters);
    h = ragged(random, steps, p.output_length, p.lanes());
    k = dense(random, p.taps * p.lanes());
    w = dense(random, p.lanes() * filters);
    bias = dense(random, filters);
  }

  Ragged batch() const { return {p, lengths.data(), same}; }
  // A sequence as a problem: with "same" TensorFlow's, else without zeros behind its end.
  Problem alone(std::int64_t b) const {
    Problem own = p;
    own.batch = 1, own.length = counts[b], own.output_length = 0;
    if (own.length == 0) return own;
    std::int64_t zeros = p.pad_low;
    if (same) {
      const std::int64_t rest = own.length % p.stride, last = rest == 0 ? p.stride : rest;
      zeros = std::max<std::int64_t>(0, reach(p) + 1 - last);
      own.pad_low = zeros / 2;
    }
    for (std::int64_t row = 0; row + reach(p) < own.length + zeros; row += p.stride)
      own.output_length += own.output_length < p.output_length;
    return own;
  }
  Values row(const Values& all, std::int64_t b, std::int64_t steps, std::int64_t size,
             std::int64_t columns) const {
    const auto begin = all.begin() + b * size * columns;
    return Values(begin, begin + steps * columns);
  }
  Values x_of(std::int64_t b) const { return row(x, b, counts[b], p.length, p.channels); }
  Values h_of(std::int64_t b) const { return row(h, b, steps[b], p.output_length, p.lanes()); }
  Values y_of(std::int64_t b) const { return row(y, b, steps[b], p.output_length, filters); }

 private:
  static Values dense(Random& random, std::int64_t size) {
    Values values(static_cast<std::size_t>(size));
    for (double& value : values) value = random.value();
    return values;
  }
  Values ragged(Random& random, const std::vector<std::int32_t>& ends, std::int64_t length,
                std::int64_t columns) const {
    Values values = dense(random, p.batch * length * columns);
    for (std::int64_t b = 0; b < p.batch; ++b)
      std::fill(values.begin() + (b * length + ends[b]) * columns,
                values.begin() + (b + 1) * length * columns,
                std::numeric_limits<double>::quiet_NaN());
    return values;
  }
};

// Compare what is computed with every pool with sums that are zero where nothing is added.
template <typename F>
void expect_ragged(const std::string& name, const Sums& definition,
                   const std::vector<Pool*>& pools, F compute) {
  Values first;
  for (Pool* pool : pools) {
    Values result(definition.size(), std::numeric_limits<double>::quiet_NaN());
    compute(result.data(), *pool);
    if (first.empty()) first = result;
    for (std::size_t i = 0; i < result.size(); ++i) {
      // A margin for the sum over sequences, which is a sum of rounded sums.
      const double allowed = 2 * tolerance<double, double>(definition[i]);
      if (!(std::abs(result[i] - definition[i].value) <= allowed)) fail_ragged(name, i);
      if (result[i] != first[i]) fail_ragged(name + ", by threads", i);
    }
  }
}

inline void put(Sums& all, const Sums& own, std::int64_t row, std::int64_t size) {
  std::copy(own.begin(), own.end(), all.begin() + row * size);
}

inline void add(Sums& all, const Sums& own, std::size_t from = 0) {
  for (std::size_t i = 0; i < own.size(); ++i) {
    all[from + i].value += own[i].value;
    all[from + i].magnitude += own[i].magnitude;
    all[from + i].terms += own[i].terms;
  }
}

inline void check_contractions(const std::string& name, const RaggedBatch& r,
                               const Kernels& kernels, const std::vector<Pool*>& pools) {
  const Problem& p = r.p;
  const std::int64_t x_size = p.length * p.channels, y_size = p.output_length * r.filters;
  Sums y(p.batch * y_size), dx(p.batch * x_size), dk(r.k.size());
  Sums dw(r.w.size() + r.bias.size());
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const Problem own = r.alone(b);
    if (own.output_length == 0) continue;
    const Sums h = contract(Contraction::kOutput, own, r.x_of(b), r.k, false);
    put(y, pointwise(h, r.w, r.bias, p.lanes(), r.filters), b, y_size);
    put(dx, contract(Contraction::kInputGradient, own, r.h_of(b), r.k, false), b, x_size);
    add(dk, contract(Contraction::kKernelGradient, own, r.x_of(b), r.h_of(b), false));
    add(dw, weight_gradient(h, r.y_of(b), p.lanes(), r.filters));
    add(dw, bias_gradient(r.y_of(b), r.filters), r.w.size());
  }
  const Ragged batch = r.batch();
  const Problem& ragged = batch.problem();
  expect_ragged(name + ", output", y, pools, [&](double* out, Pool& pool) {
    kernels.separable_f64.output(ragged, r.x.data(), r.k.data(),
                                 {r.w.data(), r.bias.data(), r.filters}, out, pool);
    batch.clear_y(out, r.filters, pool);
  });
  expect_ragged(name + ", input_gradient", dx, pools, [&](double* out, Pool& pool) {
    kernels.f64.input_gradient(ragged, r.h.data(), r.k.data(), out, pool);
    batch.clear_x(out, pool);
  });
  expect_ragged(name + ", kernel_gradient", dk, pools, [&](double* out, Pool& pool) {
    kernels.f64.kernel_gradient(ragged, r.x.data(), r.h.data(), out, pool);
  });
  expect_ragged(name + ", pointwise_gradient", dw, pools, [&](double* out, Pool& pool) {
    kernels.separable_f64.pointwise_gradient(ragged, r.x.data(), r.k.data(), r.y.data(),
                                             {out, out + r.w.size(), r.filters}, pool);
  });
}

inline void check_ragged(std::uint64_t seed, const std::vector<const Kernels*>& sets,
                         ThreadPool& one, ThreadPool& seven, Watchdog& watchdog) {
  Random random(seed);
  const Problem p = random_problem(random, false);
  const std::string name = "ragged, seed " + std::to_string(seed) + ": " + describe(p);
  watchdog.hear(name);
  ImmediatePool immediate;
  IdlePool late;
  const std::vector<Pool*> pools{&one, &seven, &immediate, &late};
  check_tails(random, name, pools);
  const RaggedBatch batch(random, p, random_filters(random, p, false));
  for (const Kernels* set : sets) check_contractions(name, batch, *set, pools);
  late.run_all();
}

}  // namespace sepconv::testing
