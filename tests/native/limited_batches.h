// Batches under limits, of random sequences, shared by pools of every temper: tails, and all
// contractions.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "limits.h"
#include "pools.h"
#include "problems.h"
#include "reference.h"
#include "tails.h"

namespace sepconv::testing {

[[noreturn]] inline void fail_limited(const std::string& what, std::size_t at) {
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
      if (data[i] != (kept ? 'x' : 0)) fail_limited(name + ", tails", i);
    }
  }
}

// A sequence as a problem of its own, and its first rows among those of all x and all y.
struct Sequence {
  Problem alone;
  std::int64_t x_row, y_row;
};

// A batch under limits, and what its sequences give one by one. What no sequence has is NaN.
struct LimitedBatch {
  Problem p;
  std::int64_t filters;
  Limit limit;
  bool same = false;
  std::int64_t behind = 0;
  std::vector<std::int32_t> numbers;
  std::vector<Sequence> sequences;
  Values x, k, w, bias, y, h;

  LimitedBatch(Random& random, const Problem& problem, std::int64_t columns, Limit limited)
      : p(problem), filters(columns), limit(limited) {
    if (limit == Limit::kLengths) draw_lengths(random);
    if (limit == Limit::kSegments) draw_segments(random);
    x = dense(random, p.batch * p.length, p.channels, &Sequence::x_row, &Problem::length);
    y = dense(random, p.batch * p.output_length, filters, &Sequence::y_row,
              &Problem::output_length);
    h = dense(random, p.batch * p.output_length, p.lanes(), &Sequence::y_row,
              &Problem::output_length);
    k = values(random, p.taps * p.lanes());
    w = values(random, p.lanes() * filters);
    bias = values(random, filters);
  }

  Sequences limited(Wanted wanted) const {
    return {p, {limit, numbers.data(), same, behind}, wanted};
  }
  Values x_of(const Sequence& s) const { return part(x, s.x_row, s.alone.length, p.channels); }
  Values h_of(const Sequence& s) const { return part(h, s.y_row, s.alone.output_length, p.lanes()); }
  Values y_of(const Sequence& s) const { return part(y, s.y_row, s.alone.output_length, filters); }

 private:
  // Beyond what is possible, now and then.
  void draw_lengths(Random& random) {
    same = random.percent(50);
    if (same) {
      p.output_length = (p.length + p.stride - 1) / p.stride;
    } else if (random.percent(60)) {
      behind = random.one_of({1, reach(p) / 2, reach(p), 2 * reach(p) + 3});
      const std::int64_t spare = p.length + p.pad_low + behind - reach(p) - 1;
      if (spare >= 0) p.output_length = std::max(p.output_length, spare / p.stride + 1);
    }
    for (std::int64_t b = 0; b < p.batch; ++b) {
      const std::int64_t drawn =
          random.percent(20) ? p.length : random.between(-2, p.length + 2);
      numbers.push_back(static_cast<std::int32_t>(drawn));
      const Problem alone = ending(std::clamp<std::int64_t>(drawn, 0, p.length));
      if (alone.length > 0) sequences.push_back({alone, b * p.length, b * p.output_length});
    }
  }
  // With "same" padded as TensorFlow does, else with as many zeros behind its end as all.
  Problem ending(std::int64_t length) const {
    Problem own = p;
    own.batch = 1, own.length = length, own.output_length = 0;
    if (length == 0) return own;
    std::int64_t zeros = p.pad_low + behind;
    if (same) {
      const std::int64_t rest = length % p.stride, last = rest == 0 ? p.stride : rest;
      zeros = std::max<std::int64_t>(0, reach(p) + 1 - last);
      own.pad_low = zeros / 2;
    }
    for (std::int64_t row = 0; row + reach(p) < length + zeros; row += p.stride)
      own.output_length += own.output_length < p.output_length;
    return own;
  }
  // Of few steps, or of many; ids that come again; neighbouring rows that share one.
  void draw_segments(Random& random) {
    p.stride = 1;
    p.output_length = p.length;
    p.pad_low = random.percent(50) ? reach(p) / 2 : reach(p);
    const std::int64_t most = random.one_of({3, 20, 400});
    std::int64_t left = 0;
    for (std::int64_t row = 0; row < p.batch * p.length; ++row) {
      const bool begins = row % p.length == 0 || left == 0;
      if (left == 0) left = random.between(1, most);
      if (begins) {
        const std::int32_t last = numbers.empty() ? 0 : numbers.back();
        const bool may_stay = row % p.length == 0;
        sequences.push_back({p, row, row});
        sequences.back().alone.batch = 1;
        sequences.back().alone.length = 0;
        numbers.push_back(may_stay && random.percent(50) ? last : 1 - last);
      } else {
        numbers.push_back(numbers.back());
      }
      Problem& alone = sequences.back().alone;
      alone.output_length = ++alone.length;
      --left;
    }
  }

  static Values values(Random& random, std::int64_t size) {
    Values drawn(static_cast<std::size_t>(size));
    for (double& value : drawn) value = random.value();
    return drawn;
  }
  Values dense(Random& random, std::int64_t rows, std::int64_t columns,
               std::int64_t Sequence::*first, std::int64_t Problem::*count) const {
    Values all(static_cast<std::size_t>(rows * columns), std::numeric_limits<double>::quiet_NaN());
    for (const Sequence& s : sequences)
      for (std::int64_t i = 0; i < s.alone.*count * columns; ++i)
        all[s.*first * columns + i] = random.value();
    return all;
  }
  static Values part(const Values& all, std::int64_t row, std::int64_t rows,
                     std::int64_t columns) {
    const auto begin = all.begin() + row * columns;
    return Values(begin, begin + rows * columns);
  }
};

// Compare what is computed with every pool with sums that are zero where nothing is added.
template <typename F>
void expect_limited(const std::string& name, const Sums& definition,
                   const std::vector<Pool*>& pools, F compute) {
  Values first;
  for (Pool* pool : pools) {
    Values result(definition.size(), std::numeric_limits<double>::quiet_NaN());
    compute(result.data(), *pool);
    if (first.empty()) first = result;
    for (std::size_t i = 0; i < result.size(); ++i) {
      // A margin for the sum over sequences, which is a sum of rounded sums.
      const double allowed = 2 * tolerance<double, double>(definition[i]);
      if (!(std::abs(result[i] - definition[i].value) <= allowed)) fail_limited(name, i);
      if (result[i] != first[i]) fail_limited(name + ", by threads", i);
    }
  }
}

inline void put(Sums& all, const Sums& own, std::int64_t at) {
  std::copy(own.begin(), own.end(), all.begin() + at);
}

inline void add(Sums& all, const Sums& own, std::size_t from = 0) {
  for (std::size_t i = 0; i < own.size(); ++i) {
    all[from + i].value += own[i].value;
    all[from + i].magnitude += own[i].magnitude;
    all[from + i].terms += own[i].terms;
  }
}

inline void check_contractions(const std::string& name, const LimitedBatch& r,
                               const Kernels& kernels, const std::vector<Pool*>& pools) {
  const Problem& p = r.p;
  Sums y(r.y.size()), dx(r.x.size()), dk(r.k.size()), dw(r.w.size() + r.bias.size());
  Sums all_dx(r.x.size()), all_dk(r.k.size());
  for (const Sequence& s : r.sequences) {
    const Problem& own = s.alone;
    if (own.output_length == 0) continue;
    const Sums h = contract(Contraction::kOutput, own, r.x_of(s), r.k, false);
    put(y, pointwise(h, r.w, r.bias, p.lanes(), r.filters), s.y_row * r.filters);
    put(dx, contract(Contraction::kInputGradient, own, r.k, r.h_of(s), false),
        s.x_row * p.channels);
    const Sums dh = hidden_gradient(r.y_of(s), r.w, p.lanes(), r.filters);
    put(all_dx, contract(Contraction::kInputGradient, own, r.k, dh, false), s.x_row * p.channels);
    add(all_dk, contract(Contraction::kKernelGradient, own, r.x_of(s), dh, false));
    add(dk, contract(Contraction::kKernelGradient, own, r.x_of(s), r.h_of(s), false));
    add(dw, weight_gradient(h, r.y_of(s), p.lanes(), r.filters));
    add(dw, bias_gradient(r.y_of(s), r.filters), r.w.size());
  }
  const Sequences forward = r.limited(Wanted::kForward);
  const Sequences backward = r.limited(Wanted::kInputGradient);
  expect_limited(name + ", output", y, pools, [&](double* out, Pool& pool) {
    kernels.separable_f64.output(forward.problem(), r.x.data(), r.k.data(),
                                 {r.w.data(), r.bias.data(), r.filters}, out, pool);
    forward.clear_y(out, sizeof(double) * r.filters, pool);
  });
  expect_limited(name + ", input_gradient", dx, pools, [&](double* out, Pool& pool) {
    kernels.f64.input_gradient(backward.problem(), r.h.data(), r.k.data(), out, pool);
    backward.clear_x(out, sizeof(double) * p.channels, pool);
  });
  expect_limited(name + ", kernel_gradient", dk, pools, [&](double* out, Pool& pool) {
    kernels.f64.kernel_gradient(forward.problem(), r.x.data(), r.h.data(), out, pool);
  });
  // Of both stages; that of x over whole rows and those that end.
  Sums all = r.limit == Limit::kSegments ? Sums() : all_dx;
  const std::size_t from_k = all.size(), from_w = from_k + all_dk.size();
  all.insert(all.end(), all_dk.begin(), all_dk.end());
  all.insert(all.end(), dw.begin(), dw.end());
  expect_limited(name + ", gradients", all, pools, [&](double* out, Pool& pool) {
    double* const x = from_k == 0 ? nullptr : out;
    double* const w = out + from_w;
    kernels.separable_f64.gradients(
        forward.problem(), {r.x.data(), r.k.data(), r.w.data(), nullptr, r.filters}, r.y.data(),
        {x, out + from_k, w, w + r.w.size(), r.filters}, pool);
    if (x != nullptr) forward.clear_x(x, sizeof(double) * p.channels, pool);
  });
}

inline void check_limited(std::uint64_t seed, const std::vector<const Kernels*>& sets,
                          ThreadPool& one, ThreadPool& seven, Watchdog& watchdog) {
  Random random(seed);
  const Problem p = random_problem(random, false);
  const std::string name = "limited, seed " + std::to_string(seed) + ": " + describe(p);
  watchdog.hear(name);
  ImmediatePool immediate;
  IdlePool late;
  const std::vector<Pool*> pools{&one, &seven, &immediate, &late};
  check_tails(random, name, pools);
  for (const Limit limit : {Limit::kLengths, Limit::kSegments}) {
    const LimitedBatch batch(random, p, random_filters(random, p, false), limit);
    const std::string kind = limit == Limit::kLengths ? ", lengths" : ", segments";
    for (const Kernels* set : sets) check_contractions(name + kind, batch, *set, pools);
  }
  late.run_all();
}

}  // namespace sepconv::testing
