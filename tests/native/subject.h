// One operation on one problem by one instruction set, and what must hold of its results.
#pragma once

#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "operations.h"
#include "parallel.h"
#include "problem.h"
#include "reference.h"

namespace sepconv::testing {

template <typename T>
using Arrays = std::vector<std::vector<T>>;

template <typename T, typename R>
struct Subject {
  const std::string& problem;  // in words
  const char* types;
  const Kernels& kernels;
  const Operation<T, R>& operation;

  // Nothing of what the kernels saw is alive when this returns. The results begin as NaN.
  Arrays<R> compute(const Arrays<T>& operands, Pool& pool) const {
    const Arrays<T> own(operands);
    Arrays<R> results;
    std::vector<const T*> in;
    std::vector<R*> out;
    for (const Shape& shape : operation.results)
      results.emplace_back(shape.size(), narrow<R>(std::numeric_limits<double>::quiet_NaN()));
    for (const auto& operand : own) in.push_back(operand.empty() ? nullptr : operand.data());
    for (auto& result : results) out.push_back(result.empty() ? nullptr : result.data());
    operation.compute(kernels, in, out, pool);
    return Arrays<R>(results);
  }

  void expect_close(const Arrays<R>& results, const std::vector<Sums>& definition) const {
    each_element(results, [&](std::size_t r, std::size_t i, double value) {
      const Sum& sum = definition[r][i];
      if (std::abs(value - sum.value) <= tolerance<T, R>(sum, operation.between)) return;
      fail("%s is %.17g, not %.17g (to within %.3g; %lld terms)", place(r, i).c_str(), value,
           sum.value, tolerance<T, R>(sum, operation.between), static_cast<long long>(sum.terms));
    });
  }

  // Where the definition is not finite the result is not; elsewhere it is close, but where padding
  // makes the definition not finite the result may be so too.
  void expect_close(const Arrays<R>& results, const std::vector<Sums>& definition,
                    const std::vector<Sums>& with_padding) const {
    each_element(results, [&](std::size_t r, std::size_t i, double value) {
      const Sum& sum = definition[r][i];
      if (!std::isfinite(sum.value)) {
        if (std::isfinite(value)) fail("%s is %g, not NaN", place(r, i).c_str(), value);
      } else if (std::isfinite(value) || std::isfinite(with_padding[r][i].value)) {
        if (!(std::abs(value - sum.value) <= tolerance<T, R>(sum, operation.between)))
          fail("%s is %g, not %g: it sees a NaN or infinity elsewhere", place(r, i).c_str(), value,
               sum.value);
      }
    });
  }

  void expect_same(const Arrays<R>& results, const Arrays<R>& others, const char* pool) const {
    each_element(results, [&](std::size_t r, std::size_t i, double value) {
      if (std::memcmp(&results[r][i], &others[r][i], sizeof(R)) != 0)
        fail("%s is %.17g alone, %.17g with %s", place(r, i).c_str(), value, widen(others[r][i]),
             pool);
    });
  }

 private:
  template <typename F>
  static void each_element(const Arrays<R>& results, F f) {
    for (std::size_t r = 0; r < results.size(); ++r)
      for (std::size_t i = 0; i < results[r].size(); ++i) f(r, i, widen(results[r][i]));
  }

  std::string place(std::size_t result, std::size_t at) const {
    const Shape& shape = operation.results[result];
    const auto i = static_cast<std::int64_t>(at), row = i / shape.columns;
    return "result " + std::to_string(result) + " [" + std::to_string(row / shape.rows) + ", " +
           std::to_string(row % shape.rows) + ", " + std::to_string(i % shape.columns) + "]";
  }

  [[noreturn]] void fail(const char* format, ...) const __attribute__((format(printf, 2, 3))) {
    std::fprintf(stderr, "FAILED: %s\n  %s, %s, %s: ", problem.c_str(), kernels.name, types,
                 operation.name);
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
    std::fflush(stderr);
    std::_Exit(1);
  }
};

}  // namespace sepconv::testing
