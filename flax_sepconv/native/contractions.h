// One instruction set's contractions; included in its namespace.

#include "vector.h"
#include "tiles.h"
#include "panels.h"
#include "correlation.h"
#include "kernel_gradient.h"

template <typename T, typename R>
void output(const Problem& p, const T* x, const T* k, R* y, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> in{x, p.length, p.channels, p.multiplier};
  const Rows<R> out{y, p.output_length, p.lanes(), 1};
  Correlation<T, R>(schedule, in, k, p.taps, out, p.batch).run(pool);
}

template <typename T, typename R>
void input_gradient(const Problem& p, const T* y, const T* k, R* x, Pool& pool) {
  const Schedule schedule = input_gradient_schedule(p);
  const Rows<const T> in{y, p.output_length, p.lanes(), 1};
  const Rows<R> out{x, p.length, p.channels, p.multiplier};
  Correlation<T, R>(schedule, in, k, p.taps, out, p.batch).run(pool);
}

template <typename T, typename R>
void kernel_gradient(const Problem& p, const T* x, const T* y, R* k, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> rows{x, p.length, p.channels, p.multiplier};
  const Rows<const T> cotangents{y, p.output_length, p.lanes(), 1};
  KernelGradient<T, R>(schedule, rows, cotangents, p.taps, p.batch, k).run(pool);
}

template <typename T, typename R>
constexpr Contractions<T, R> kContractions = {output<T, R>, input_gradient<T, R>,
                                              kernel_gradient<T, R>};

constexpr Kernels kKernels = {SEPCONV_NAME, kContractions<float, float>,
                              kContractions<double, double>, kContractions<bfloat16, bfloat16>,
                              kContractions<bfloat16, float>};
