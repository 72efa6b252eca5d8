// What the kernels offer, and what defines it, in one form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "parallel.h"
#include "problem.h"
#include "reference.h"

namespace sepconv::testing {

struct Shape {
  std::int64_t outer, rows, columns;

  std::size_t size() const { return static_cast<std::size_t>(outer * rows * columns); }
};

// Operands of type T, in the order of the arguments, and results of type R. One of no size stands
// for a null pointer.
template <typename T, typename R>
struct Operation {
  const char* name;
  std::vector<Shape> operands, results;
  std::function<void(const Kernels&, const std::vector<const T*>&, const std::vector<R*>&, Pool&)>
      compute;
  std::function<std::vector<Sums>(const std::vector<Values>&, bool padding)> define;
  double between = 0;  // how factors that are sums may have been rounded, relatively
};

template <typename T, typename R>
std::vector<Operation<T, R>> contractions(const Problem& p, bool has_bias, Activation activation,
                                          Contractions<T, R> Kernels::*types) {
  const Shape x{p.batch, p.length, p.channels}, k{1, p.taps, p.lanes()};
  const Shape y{p.batch, p.output_length, p.lanes()};
  using Function = void (*Contractions<T, R>::*)(const Problem&, const T*, const T*, R*, Pool&);
  const auto contraction = [&](const char* name, Shape a, Shape b, Shape result,
                               Function function, Contraction which) {
    return Operation<T, R>{
        name, {a, b}, {result},
        [=](const Kernels& kernels, auto& operands, auto& results, Pool& pool) {
          (kernels.*types.*function)(p, operands[0], operands[1], results[0], pool);
        },
        [=](auto& operands, bool padding) {
          const bool back = which == Contraction::kInputGradient;
          return std::vector<Sums>{
              contract(which, p, operands[back ? 1 : 0], operands[back ? 0 : 1], padding)};
        }};
  };
  using All = Contractions<T, R>;
  const Operation<T, R> output{
      "output", {x, k, {1, 1, has_bias ? p.lanes() : 0}}, {y},
      [=](const Kernels& kernels, auto& in, auto& out, Pool& pool) {
        (kernels.*types).output(p, in[0], in[1], {in[2], activation}, out[0], pool);
      },
      [=](auto& in, bool padding) {
        Sums sums = contract(Contraction::kOutput, p, in[0], in[1], padding);
        for (std::size_t i = 0; has_bias && i < sums.size(); ++i)
          sums[i].add(in[2][i % p.lanes()]);
        for (Sum& sum : sums) sum.value = activated(sum.value, activation);
        return std::vector<Sums>{sums};
      }};
  return {output,
          contraction("input_gradient", y, k, x, &All::input_gradient,
                      Contraction::kInputGradient),
          contraction("kernel_gradient", x, y, k, &All::kernel_gradient,
                      Contraction::kKernelGradient)};
}

// Rows whose last steps are a chunk of causal streams, of few steps or some, by a problem's shape.
inline Problem chunk_of(Problem p) {
  p.output_length = 1 + (p.output_length - 1) % 12;
  p.length = p.output_length + (p.taps - 1) * p.dilation;
  p.stride = 1;
  p.pad_low = 0;
  return p;
}

// A chunk of streams, from the steps before it, which with it are the rows that define the results.
template <typename T>
Operation<T, T> separable_step(const Problem& problem, std::int64_t filters, bool has_bias,
                               Activation activation, double between,
                               Separable<T> Kernels::*types) {
  const Problem p = chunk_of(problem);
  const Shape before{p.batch, p.length - p.output_length, p.channels};
  const Shape x{p.batch, p.output_length, p.channels}, k{1, p.taps, p.lanes()};
  const Shape weights{1, p.lanes(), filters}, bias{1, 1, has_bias ? filters : 0};
  return {
      "separable step", {before, x, k, weights, bias}, {{p.batch, p.output_length, filters}, before},
      [=](const Kernels& kernels, auto& in, auto& out, Pool& pool) {
        (kernels.*types).step(p, in[0], in[1], in[2], {in[3], in[4], filters, activation}, out[0],
                              out[1], pool);
      },
      [=](auto& in, bool padding) {
        Values rows;
        Sums after;
        for (std::int64_t b = 0; b < p.batch; ++b) {
          for (const auto& [values, shape] : {std::pair(&in[0], before), std::pair(&in[1], x)}) {
            const auto first = values->begin() + b * shape.rows * shape.columns;
            rows.insert(rows.end(), first, first + shape.rows * shape.columns);
          }
          for (auto value = rows.end() - before.rows * before.columns; value != rows.end(); ++value) {
            after.emplace_back();
            after.back().add(*value);
          }
        }
        const Sums h = contract(Contraction::kOutput, p, rows, in[2], padding);
        return std::vector<Sums>{pointwise(h, in[3], in[4], p.lanes(), filters, activation), after};
      },
      between};
}

// Both stages, and their gradients, of which bits of `wanted` tell: x, k, the weights (with the bias,
// where there is one).
template <typename T>
std::vector<Operation<T, T>> separable(const Problem& p, std::int64_t filters, bool has_bias,
                                       Activation activation, std::int64_t wanted,
                                       Separable<T> Kernels::*types) {
  const Shape x{p.batch, p.length, p.channels}, k{1, p.taps, p.lanes()};
  const Shape y{p.batch, p.output_length, filters};
  const Shape weights{1, p.lanes(), filters}, bias{1, 1, has_bias ? filters : 0};
  const double between = std::is_same_v<T, bfloat16> ? kRoundoff<T> : 0;
  const auto hidden = [=](const std::vector<Values>& operands, bool padding) {
    return contract(Contraction::kOutput, p, operands[0], operands[1], padding);
  };
  const Operation<T, T> output{
      "separable output", {x, k, weights, bias}, {y},
      [=](const Kernels& kernels, auto& in, auto& out, Pool& pool) {
        (kernels.*types).output(p, in[0], in[1], {in[2], in[3], filters, activation}, out[0], pool);
      },
      [=](auto& in, bool padding) {
        return std::vector<Sums>{
            pointwise(hidden(in, padding), in[2], in[3], p.lanes(), filters, activation)};
      },
      between};
  std::vector<Shape> results{x, k, weights, bias};
  for (int i = 0; i < 4; ++i)
    if ((wanted >> std::min(i, 2) & 1) == 0) results[i] = {0, 0, 0};
  const Operation<T, T> gradients{
      "separable gradients", {x, k, weights, y}, results,
      [=](const Kernels& kernels, auto& in, auto& out, Pool& pool) {
        (kernels.*types).gradients(p, {in[0], in[1], in[2], nullptr, filters}, in[3],
                                   {out[0], out[1], out[2], out[3], filters}, pool);
      },
      [=](auto& in, bool padding) {
        const Sums dh = hidden_gradient(in[3], in[2], p.lanes(), filters);
        return std::vector<Sums>{contract(Contraction::kInputGradient, p, in[1], dh, padding),
                                 contract(Contraction::kKernelGradient, p, in[0], dh, padding),
                                 weight_gradient(hidden(in, padding), in[3], p.lanes(), filters),
                                 bias_gradient(in[3], filters)};
      },
      between};
  return {output, separable_step<T>(p, filters, has_bias, activation, between, types), gradients};
}

}  // namespace sepconv::testing
