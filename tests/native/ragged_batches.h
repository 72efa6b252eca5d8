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
  const std::int64_t step = random.between(1, random.percent(20) ? Tails::kShare / 8 : 300);
  std::vector<std::int32_t> lengths;
  for (std::int64_t row = 0; row < rows; ++row)
    lengths.push_back(static_cast<std::int32_t>(random.between(-2, length + 2)));
  for (Pool* pool : pools) {
    std::vector<char> data(static_cast<std::size_t>(rows * length * step), 'x');
    Tails{data.data(), rows, length, step, lengths.data()}.clear(*pool);
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
  std::vector<std::int32_t> plan;
  std::vector<double> x, k, w, bias, y, h;

  RaggedBatch(Random& random, const Problem& problem, std::int64_t columns)
      : p(problem), filters(columns), plan(3 * problem.batch) {
    for (std::int64_t b = 0; b < p.batch; ++b) {
      plan[b] = static_cast<std::int32_t>(random.between(0, p.length));
      plan[p.batch + b] = static_cast<std::int32_t>(
          random.between(0, plan[b] == 0 ? 0 : p.output_length));
      plan[2 * p.batch + b] = static_cast<std::int32_t>(p.pad_low);
    }
    x = ragged(random, plan.data(), p.length, p.channels);
    y = ragged(random, plan.data() + p.batch, p.output_length, filters);
    h = ragged(random, plan.data() + p.batch, p.output_length, p.lanes());
    k = dense(random, p.taps * p.lanes());
    w = dense(random, p.lanes() * filters);
    bias = dense(random, filters);
  }

  Sequences sequences() const { return {p, plan.data()}; }
  Problem alone(std::int64_t b) const {
    Problem own = p;
    own.batch = 1, own.length = plan[b], own.output_length = plan[p.batch + b];
    return own;
  }
  Values row(const Values& all, std::int64_t b, std::int64_t steps, std::int64_t size,
             std::int64_t columns) const {
    const auto begin = all.begin() + b * size * columns;
    return Values(begin, begin + steps * columns);
  }
  Values x_of(std::int64_t b) const { return row(x, b, plan[b], p.length, p.channels); }
  Values h_of(std::int64_t b) const {
    return row(h, b, plan[p.batch + b], p.output_length, p.lanes());
  }
  Values y_of(std::int64_t b) const {
    return row(y, b, plan[p.batch + b], p.output_length, filters);
  }

 private:
  static Values dense(Random& random, std::int64_t size) {
    Values values(static_cast<std::size_t>(size));
    for (double& value : values) value = random.value();
    return values;
  }
  Values ragged(Random& random, const std::int32_t* lengths, std::int64_t steps,
                std::int64_t columns) const {
    Values values = dense(random, p.batch * steps * columns);
    for (std::int64_t b = 0; b < p.batch; ++b)
      std::fill(values.begin() + (b * steps + lengths[b]) * columns,
                values.begin() + (b + 1) * steps * columns,
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
  const Sequences s = r.sequences();
  expect_ragged(name + ", output", y, pools, [&](double* out, Pool& pool) {
    ragged_output<double>(s, kernels.separable_f64, r.x.data(), r.k.data(),
                          {r.w.data(), r.bias.data(), r.filters}, out, pool);
  });
  expect_ragged(name + ", input_gradient", dx, pools, [&](double* out, Pool& pool) {
    ragged_input_gradient<double>(s, kernels.f64, r.h.data(), r.k.data(), out, pool);
  });
  expect_ragged(name + ", kernel_gradient", dk, pools, [&](double* out, Pool& pool) {
    ragged_kernel_gradient<double>(s, kernels.f64, r.x.data(), r.h.data(), out, pool);
  });
  expect_ragged(name + ", pointwise_gradient", dw, pools, [&](double* out, Pool& pool) {
    ragged_pointwise_gradient<double>(s, kernels.separable_f64, r.x.data(), r.k.data(),
                                      r.y.data(), r.filters, true, out, pool);
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
