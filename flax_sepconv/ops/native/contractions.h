// One instruction set's contractions; included in its namespace.

#include "vector.h"
#include "sixteen_bits.h"
#include "activation.h"
#include "tiles.h"
#include "panels.h"
#include "correlation.h"
#include "tap_sums.h"
#include "kernel_gradient.h"
#include "product.h"
#include "few_rows.h"
#include "hidden.h"
#include "separable_output.h"
#include "gradients_plan.h"
#include "item_lanes.h"
#include "dh_window.h"
#include "weight_sums.h"
#include "gradients_item.h"
#include "separable_gradients.h"

template <typename T, typename R>
void output(const Problem& p, const T* x, const T* k, const Finish<T>& finish, R* y, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> in{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  const Rows<R> out{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  Correlation<T, R>(schedule, in, {k, p.taps, p.lanes(), finish.bias, finish.activation}, out.repeats, p.batch)
      .run(out, pool);
}

template <typename T, typename R>
void input_gradient(const Problem& p, const T* y, const T* k, R* x, Pool& pool) {
  const Schedule schedule = input_gradient_schedule(p);
  const Rows<const T> in{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  const Rows<R> out{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  Correlation<T, R>(schedule, in, {k, p.taps, p.lanes()}, out.repeats, p.batch).run(out, pool);
}

template <typename T, typename R>
void kernel_gradient(const Problem& p, const T* x, const T* y, R* k, Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> rows{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  const Rows<const T> cotangents{y, p.output_length, p.lanes(), p.lanes(), 1, 0, 0, p.y_parts};
  KernelGradient<T, R>(schedule, rows, cotangents, p.taps, p.batch, k).run(pool);
}

template <typename T>
void separable_output(const Problem& p, const T* x, const T* k, const Pointwise<const T*>& w, T* y,
                      Pool& pool) {
  const Schedule schedule = output_schedule(p);
  const Rows<const T> in{x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  SeparableOutput<T>(schedule, in, {k, p.taps, p.lanes()}, w, p.batch, p.y_parts, pool.threads())
      .run(y, pool);
}

#include "stream.h"

template <typename T>
void separable_step(const Problem& p, const T* before, const T* x, const T* k,
                    const Pointwise<const T*>& w, T* y, T* after, Pool& pool) {
  Stream<T>(p, before, x, k, w, y, after).run(pool);
}

template <typename T>
void separable_gradients(const Problem& p, const Separated<const T*>& in, const T* y,
                         const Separated<T*>& out, Pool& pool) {
  SeparableGradients<T>(p, in, y, out).run(pool);
}

template <typename T, typename R>
constexpr Contractions<T, R> kContractions = {output<T, R>, input_gradient<T, R>,
                                              kernel_gradient<T, R>};

template <typename T>
constexpr Separable<T> kSeparable = {separable_output<T>, separable_step<T>, separable_gradients<T>};

#if defined(SEPCONV_NAME)
constexpr Kernels kKernels = {SEPCONV_NAME,
                              kContractions<float, float>,
                              kContractions<double, double>,
                              kContractions<bfloat16, bfloat16>,
                              kContractions<bfloat16, float>,
                              kContractions<float16, float16>,
                              kContractions<float16, float>,
                              kSeparable<float>,
                              kSeparable<double>,
                              kSeparable<bfloat16>,
                              kSeparable<float16>};
#endif
