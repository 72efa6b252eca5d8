// What XLA calls for ragged batches: tails in place, and the contractions of sequences.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>

#include "ffi_pool.h"
#include "problem.h"
#include "ragged.h"
#include "tails.h"

namespace sepconv {

// How sequences are padded and read: with "same" the zeros in front are each one's own.
struct Settings {
  std::int64_t stride, dilation, pad_low;
  bool same;
};

}  // namespace sepconv

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(sepconv::Settings,
                                      xla::ffi::StructMember<std::int64_t>("stride"),
                                      xla::ffi::StructMember<std::int64_t>("dilation"),
                                      xla::ffi::StructMember<std::int64_t>("pad_low"),
                                      xla::ffi::StructMember<bool>("same"));

namespace sepconv {
namespace {

using Lengths = ffi::Buffer<ffi::S32>;

// In place: XLA gives the same memory to x and the result.
ffi::Error ZeroTails(ffi::ThreadPool threads, Buffer x, Lengths lengths, Result result) {
  const auto shape = x.dimensions();
  if (shape.size() != 3 || lengths.element_count() != size_t(shape[0]) ||
      x.size_bytes() != result->size_bytes())
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  if (x.element_count() == 0) return ffi::Error::Success();
  if (x.untyped_data() != result->untyped_data())
    return ffi::Error::Internal("the result is not where the operand is");
  const auto step = static_cast<std::int64_t>(x.size_bytes()) / (shape[0] * shape[1]);
  XlaPool pool(threads);
  try {
    const std::int32_t* const ends = lengths.typed_data();
    clear_tails({static_cast<char*>(result->untyped_data()), shape[0], shape[1], step},
                [ends](std::int64_t row) { return ends[row]; }, pool);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
  return ffi::Error::Success();
}

// The sizes of a call by the shapes of its arrays: x (batch, length, channels), k, and the steps
// that the output has.
struct Call {
  Buffer x, k;
  Lengths lengths;
  std::int64_t steps;
  Settings settings;

  bool consistent() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return a.size() == 3 && b.size() == 3 && lengths.element_count() == size_t(a[0]) &&
           a[2] == b[1] && b[0] > 0 && settings.stride > 0 && settings.dilation > 0 && steps >= 0;
  }
  Problem problem() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return {a[0], a[1], a[2], b[2], b[0],
            settings.stride, settings.dilation, settings.pad_low, steps};
  }
  std::int64_t h_size() const {
    return x.dimensions()[0] * steps * k.dimensions()[1] * k.dimensions()[2];
  }
};

// Run with the kernels for the type that all arrays have, if these are as large as they must be.
// Where there is nothing to compute with, the results are zero.
template <typename Run>
ffi::Error compute(const Call& call, bool sizes, std::initializer_list<Buffer> operands,
                   std::initializer_list<Result> results, ffi::ThreadPool& threads, Run run) {
  if (!call.consistent() || !sizes)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const auto type = call.x.element_type();
  for (const Buffer& operand : operands)
    if (operand.element_type() != type) return ffi::Error::InvalidArgument("operands of two types");
  for (Result result : results)
    if (result->element_type() != type) return ffi::Error::InvalidArgument("results of two types");
  if (call.h_size() == 0 || call.x.element_count() == 0) {
    for (Result result : results) std::memset(result->untyped_data(), 0, result->size_bytes());
    return ffi::Error::Success();
  }
  XlaPool pool(threads);
  const Kernels& kernels = best_kernels();
  try {
    const Ragged batch(call.problem(), call.lengths.typed_data(), call.settings.same);
    if (type == ffi::F32) {
      run(batch, kernels.f32, kernels.separable_f32, float(), pool);
      return ffi::Error::Success();
    }
    if (type == ffi::F64) {
      run(batch, kernels.f64, kernels.separable_f64, double(), pool);
      return ffi::Error::Success();
    }
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
  return ffi::Error::InvalidArgument("types other than float32 and float64");
}

std::int64_t count(const Buffer& buffer) {
  return static_cast<std::int64_t>(buffer.element_count());
}

ffi::Error RaggedOutput(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer w, Buffer bias,
                        Lengths lengths, Result y, Settings settings) {
  const auto a = w.dimensions(), b = y->dimensions();
  if (a.size() != 2 || b.size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{x, k, lengths, b[1], settings};
  const bool sizes = count(*y) == call.x.dimensions().front() * b[1] * a[1] &&
                     count(w) * count(*y) == call.h_size() * a[1] * a[1] &&
                     (count(bias) == 0 || count(bias) == a[1]);
  return compute(call, sizes, {k, w, bias}, {y}, threads,
                 [&](const Ragged& batch, auto&, auto& kernels, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   kernels.output(batch.problem(), data<A>(x), data<A>(k),
                                  {data<A>(w), data<A>(bias), a[1]}, data<A>(*y), pool);
                   batch.clear_y(data<A>(*y), a[1], pool);
                 });
}

ffi::Error RaggedInputGradient(ffi::ThreadPool threads, Buffer h, Buffer k, Lengths lengths,
                               Result x, Settings settings) {
  if (h.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{*x, k, lengths, h.dimensions()[1], settings};
  return compute(call, count(h) == call.h_size(), {k, h}, {x}, threads,
                 [&](const Ragged& batch, auto& kernels, auto&, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   kernels.input_gradient(batch.problem(), data<A>(h), data<A>(k), data<A>(*x),
                                          pool);
                   batch.clear_x(data<A>(*x), pool);
                 });
}

ffi::Error RaggedKernelGradient(ffi::ThreadPool threads, Buffer x, Buffer h, Lengths lengths,
                                Result k, Settings settings) {
  if (h.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{x, *k, lengths, h.dimensions()[1], settings};
  return compute(call, count(h) == call.h_size(), {h}, {k}, threads,
                 [&](const Ragged& batch, auto& kernels, auto&, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   kernels.kernel_gradient(batch.problem(), data<A>(x), data<A>(h), data<A>(*k),
                                           pool);
                 });
}

// The gradient of the bias is empty where there is none.
ffi::Error RaggedPointwiseGradient(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer y,
                                   Lengths lengths, Result w, Result bias, Settings settings) {
  const auto a = y.dimensions(), b = k.dimensions();
  if (a.size() != 3 || b.size() != 3 || a[0] != x.dimensions().front())
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{x, k, lengths, a[1], settings};
  const bool sizes =
      count(*w) == b[1] * b[2] * a[2] && (count(*bias) == 0 || count(*bias) == a[2]);
  return compute(call, sizes, {k, y}, {w, bias}, threads,
                 [&](const Ragged& batch, auto&, auto& kernels, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   kernels.pointwise_gradient(batch.problem(), data<A>(x), data<A>(k), data<A>(y),
                                              {data<A>(*w), data<A>(*bias), a[2]}, pool);
                 });
}

// Of a call: arrays, then the lengths and the first result.
template <int arrays>
auto operands() {
  if constexpr (arrays == 0) {
    return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>();
  } else {
    return operands<arrays - 1>().template Arg<Buffer>();
  }
}
template <int arrays>
auto call() {
  return operands<arrays>().template Arg<Lengths>().template Ret<Buffer>();
}

}  // namespace
}  // namespace sepconv

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_zero_tails, sepconv::ZeroTails, sepconv::call<1>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_output, sepconv::RaggedOutput,
                              sepconv::call<4>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_input_gradient, sepconv::RaggedInputGradient,
                              sepconv::call<2>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_kernel_gradient, sepconv::RaggedKernelGradient,
                              sepconv::call<2>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_pointwise_gradient, sepconv::RaggedPointwiseGradient,
                              sepconv::call<3>().Ret<sepconv::Buffer>().Attrs<sepconv::Settings>());

#pragma GCC visibility pop
