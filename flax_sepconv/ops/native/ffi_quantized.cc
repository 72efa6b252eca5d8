// What XLA calls for the operation in integers.
#include <cstdint>
#include <string>

#include "ffi_calls.h"
#include "instruction_sets.h"
#include "pages.h"
#include "quantized.h"

namespace sepconv {
namespace {

using Int8s = ffi::Buffer<ffi::S8>;
using F32s = ffi::Buffer<ffi::F32>;

ffi::Error refuse(const std::string& what) { return ffi::Error::InvalidArgument(what); }

std::string of_shape(const char* name, ffi::AnyBuffer::Dimensions shape) {
  std::string text = std::string(name) + " (";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + ")";
}

struct Geometry {
  std::int64_t stride, dilation, pad_low;
};

// The operands of both calls, and their result.
struct QuantizedCall {
  const Int8s &x, &k;
  const Numbers& bias;
  const F32s& multipliers;  // of the depthwise sums
  const Numbers& zero_points;
  const F32s& bounds;
  const Buffer& y;
  Geometry geometry;

  std::int64_t lanes() const { return k.dimensions()[1] * k.dimensions()[2]; }
  Problem problem() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return {a[0], a[1], a[2], b[2], b[0], geometry.stride, geometry.dilation, geometry.pad_low,
            y.dimensions()[1]};
  }
  static Multipliers rows(const F32s& m) {
    return {m.typed_data(), m.dimensions()[1], m.dimensions()[0] > 1};
  }
  QuantizedDepthwise depthwise() const {
    return {x.typed_data(), k.typed_data(), zero_points.typed_data()[0], rows(multipliers)};
  }
  Ending ending() const {
    const float* const limits = bounds.typed_data();
    return {bias.typed_data(), zero_points.typed_data()[zero_points.element_count() - 1], limits[0],
            limits[1]};
  }

  ffi::Error refuse_multipliers(const char* name, const F32s& m, std::int64_t columns) const {
    const auto shape = m.dimensions();
    if (shape.size() == 2 && (shape[0] == 1 || shape[0] == x.dimensions()[0]) && shape[1] == columns)
      return ffi::Error::Success();
    return refuse(of_shape(name, shape) + " must have 1 row or one for each example, of " +
                  std::to_string(columns));
  }

  // Of results with so many columns, and so many zero points.
  ffi::Error check(std::int64_t columns, std::size_t zeros) const {
    const auto a = x.dimensions(), b = k.dimensions(), c = y.dimensions();
    if (a.size() != 3 || b.size() != 3 || c.size() != 3)
      return refuse("x, k and the result must have 3 axes: " + of_shape("x", a) + ", " + of_shape("k", b) +
                    ", " + of_shape("the result", c));
    if (a[2] != b[1] || b[0] < 1)
      return refuse("k must be (taps, channels of x, multiplier): " + of_shape("x", a) + ", " +
                    of_shape("k", b));
    if (c[0] != a[0] || c[2] != columns)
      return refuse("the result must be (" + std::to_string(a[0]) + ", steps, " +
                    std::to_string(columns) + "): " + of_shape("it is", c));
    if (y.element_type() != ffi::S8 && y.element_type() != ffi::F32)
      return refuse("the result must be int8 or float32");
    if (geometry.stride < 1 || geometry.dilation < 1)
      return refuse("stride and dilation must be at least 1: " + std::to_string(geometry.stride) + ", " +
                    std::to_string(geometry.dilation));
    if (static_cast<std::int64_t>(bias.element_count()) != columns)
      return refuse("the bias must have " + std::to_string(columns) + " numbers: " +
                    of_shape("it is", bias.dimensions()));
    if (bounds.element_count() != 2)
      return refuse("bounds must be 2 numbers: " + of_shape("they are", bounds.dimensions()));
    if (zero_points.element_count() != zeros)
      return refuse("zero points must be " + std::to_string(zeros) + ": " +
                    of_shape("they are", zero_points.dimensions()));
    for (std::size_t i = 0; i < zeros; ++i)
      if (zero_points.typed_data()[i] < -128 || zero_points.typed_data()[i] > 127)
        return refuse("zero points must be int8: one is " + std::to_string(zero_points.typed_data()[i]));
    return refuse_multipliers("multipliers of the depthwise stage", multipliers, lanes());
  }
};

// Call run(kernels for results of that type, the result).
template <typename Run>
ffi::Error with_result(const Buffer& y, ffi::ThreadPool& threads, Run run) {
  if (y.element_count() == 0) return ffi::Error::Success();
  ask_for_large_pages(y.untyped_data(), y.size_bytes());
  return with_pool(threads, [&](Pool& pool) {
    if (y.element_type() == ffi::F32)
      run(data<float>(y), pool);
    else
      run(data<std::int8_t>(y), pool);
    return ffi::Error::Success();
  });
}

ffi::Error QuantizedSeparable(ffi::ThreadPool threads, Int8s x, Int8s k, Int8s w, Numbers bias,
                              F32s m1, F32s m2, Numbers zero_points, F32s bounds,
                              Result y, std::int64_t stride, std::int64_t dilation,
                              std::int64_t pad_low) {
  const QuantizedCall call{x, k, bias, m1, zero_points, bounds, *y, {stride, dilation, pad_low}};
  const auto shape = w.dimensions();
  if (shape.size() != 2) return refuse("w must have 2 axes: " + of_shape("w", shape));
  if (ffi::Error error = call.check(shape[1], 3); error.failure()) return error;
  if (shape[0] != call.lanes())
    return refuse("w must have a row for each channel of h: " + of_shape("w", shape) + ", " +
                  of_shape("k", k.dimensions()));
  if (ffi::Error error = call.refuse_multipliers("multipliers of the pointwise stage", m2, shape[1]);
      error.failure())
    return error;
  const Problem problem = call.problem();
  const QuantizedDepthwise in = call.depthwise();
  const QuantizedPointwise weights{w.typed_data(), shape[1], zero_points.typed_data()[1],
                                   QuantizedCall::rows(m2)};
  const Ending ending = call.ending();
  const QuantizedKernels& kernels = chosen_quantized();
  return with_result(*y, threads, [&](auto* out, Pool& pool) {
    if constexpr (std::is_same_v<decltype(out), float*>)
      kernels.separable_to_f32(problem, in, weights, ending, out, pool);
    else
      kernels.separable_to_int8(problem, in, weights, ending, out, pool);
  });
}

ffi::Error QuantizedDepthwiseAlone(ffi::ThreadPool threads, Int8s x, Int8s k, Numbers bias, F32s m,
                                   Numbers zero_points, F32s bounds, Result y, std::int64_t stride,
                                   std::int64_t dilation, std::int64_t pad_low) {
  const QuantizedCall call{x, k, bias, m, zero_points, bounds, *y, {stride, dilation, pad_low}};
  const std::int64_t lanes = k.dimensions().size() == 3 ? call.lanes() : 0;
  if (ffi::Error error = call.check(lanes, 2); error.failure()) return error;
  const Problem problem = call.problem();
  const QuantizedDepthwise in = call.depthwise();
  const Ending ending = call.ending();
  const QuantizedKernels& kernels = chosen_quantized();
  return with_result(*y, threads, [&](auto* out, Pool& pool) {
    if constexpr (std::is_same_v<decltype(out), float*>)
      kernels.depthwise_to_f32(problem, in, ending, out, pool);
    else
      kernels.depthwise_to_int8(problem, in, ending, out, pool);
  });
}

template <typename Binding>
auto with_geometry(Binding&& binding) {
  return std::move(binding)
      .template Ret<Buffer>()
      .template Attr<std::int64_t>("stride")
      .template Attr<std::int64_t>("dilation")
      .template Attr<std::int64_t>("pad_low");
}

}  // namespace
}  // namespace sepconv

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_quantized_separable, sepconv::QuantizedSeparable,
                              sepconv::with_geometry(xla::ffi::Ffi::Bind()
                                                         .Ctx<xla::ffi::ThreadPool>()
                                                         .Arg<sepconv::Int8s>()
                                                         .Arg<sepconv::Int8s>()
                                                         .Arg<sepconv::Int8s>()
                                                         .Arg<sepconv::Numbers>()
                                                         .Arg<sepconv::F32s>()
                                                         .Arg<sepconv::F32s>()
                                                         .Arg<sepconv::Numbers>()
                                                         .Arg<sepconv::F32s>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_quantized_depthwise, sepconv::QuantizedDepthwiseAlone,
                              sepconv::with_geometry(xla::ffi::Ffi::Bind()
                                                         .Ctx<xla::ffi::ThreadPool>()
                                                         .Arg<sepconv::Int8s>()
                                                         .Arg<sepconv::Int8s>()
                                                         .Arg<sepconv::Numbers>()
                                                         .Arg<sepconv::F32s>()
                                                         .Arg<sepconv::Numbers>()
                                                         .Arg<sepconv::F32s>()));

// As sepconv_instruction_set and sepconv_instruction_sets, of the kernels for integers.
extern "C" const char* sepconv_quantized_instruction_set() { return sepconv::chosen_quantized().name; }

extern "C" const char* sepconv_quantized_instruction_sets() {
  static const std::string names = [] {
    std::string all;
    for (const sepconv::QuantizedKernels* kernels : sepconv::all_quantized())
      all += (all.empty() ? "" : ",") + std::string(kernels->name);
    return all;
  }();
  return names.c_str();
}

#pragma GCC visibility pop
