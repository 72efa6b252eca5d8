// One instruction set's contractions; included in its namespace.

#include "vector.h"
#include "tiles.h"
#include "panels.h"
#include "correlation.h"
#include "kernel_gradient.h"
#include "matmul.h"
#include "few_rows.h"
#include "pointwise.h"

template <typename T, typename R>
void output(const Problem& p, const T* x, const T* k, R* y, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> in{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  const Rows<R> out{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  Correlation<T, R>(schedule, in, k, p.taps, out.repeats, p.batch).run(out, pool);
}

template <typename T, typename R>
void input_gradient(const Problem& p, const T* y, const T* k, R* x, Pool& pool) {
  const Schedule schedule = input_gradient_schedule(p);
  const Rows<const T> in{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  const Rows<R> out{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  Correlation<T, R>(schedule, in, k, p.taps, out.repeats, p.batch).run(out, pool);
}

template <typename T, typename R>
void kernel_gradient(const Problem& p, const T* x, const T* y, R* k, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> rows{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  const Rows<const T> cotangents{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  KernelGradient<T, R>(schedule, rows, cotangents, p.taps, p.batch, k).run(pool);
}

template <typename A>
void separable_output(const Problem& p, const A* x, const A* k, const Pointwise<const A*>& w, A* y,
                      Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const A> in{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  SeparableOutput<A>(schedule, in, k, p.taps, w, p.batch, p.y_parts).run(y, pool);
}

template <typename A>
void pointwise_gradient(const Problem& p, const A* x, const A* k, const A* y,
                        const Pointwise<A*>& w, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const A> in{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  PointwiseGradient<A>(schedule, in, k, p.taps, y, w, p.batch, p.y_parts).run(pool);
}

template <typename T, typename R>
constexpr Contractions<T, R> kContractions = {output<T, R>, input_gradient<T, R>,
                                              kernel_gradient<T, R>};

template <typename A>
constexpr Separable<A> kSeparable = {separable_output<A>, pointwise_gradient<A>};

constexpr Kernels kKernels = {SEPCONV_NAME, kContractions<float, float>,
                              kContractions<double, double>, kContractions<bfloat16, bfloat16>,
                              kContractions<bfloat16, float>, kSeparable<float>,
                              kSeparable<double>};
