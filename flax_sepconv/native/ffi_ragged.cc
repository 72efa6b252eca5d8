// What XLA calls for ragged batches: tails in place, and the contractions sequence by sequence.
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <new>
#include <utility>

#include "ffi_pool.h"
#include "problem.h"
#include "ragged.h"
#include "tails.h"

namespace sepconv {
namespace {

using Plan = ffi::Buffer<ffi::S32>;

// In place: XLA gives the same memory to x and the result.
ffi::Error ZeroTails(ffi::ThreadPool threads, Buffer x, Plan lengths, Result result) {
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
    Tails{static_cast<char*>(result->untyped_data()), shape[0], shape[1], step,
          lengths.typed_data()}
        .clear(pool);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
  return ffi::Error::Success();
}

// The sizes of a call by the shapes of its arrays: x (batch, length, channels), k, a plan, and the
// steps that the output has.
struct Call {
  Buffer x, k;
  Plan plan;
  std::int64_t steps, stride, dilation;

  bool consistent() const {
    const auto a = x.dimensions(), b = k.dimensions(), c = plan.dimensions();
    return a.size() == 3 && b.size() == 3 && c.size() == 2 && c[0] == 3 && c[1] == a[0] &&
           a[2] == b[1] && b[0] > 0 && stride > 0 && dilation > 0 && steps >= 0;
  }
  Sequences sequences() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return {{a[0], a[1], a[2], b[2], b[0], stride, dilation, 0, steps}, plan.typed_data()};
  }
  std::int64_t h_size() const {
    return x.dimensions()[0] * steps * k.dimensions()[1] * k.dimensions()[2];
  }
};

// Run with the kernels for the type that all arrays have, if these are as large as they must be.
template <typename Run>
ffi::Error compute(const Call& call, bool sizes, std::initializer_list<Buffer> others,
                   ffi::ThreadPool& threads, Run run) {
  if (!call.consistent() || !sizes)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const auto type = call.x.element_type();
  for (const Buffer& other : others)
    if (other.element_type() != type) return ffi::Error::InvalidArgument("operands of two types");
  XlaPool pool(threads);
  const Kernels& kernels = best_kernels();
  try {
    if (type == ffi::F32) {
      run(call.sequences(), kernels.f32, kernels.separable_f32, float(), pool);
      return ffi::Error::Success();
    }
    if (type == ffi::F64) {
      run(call.sequences(), kernels.f64, kernels.separable_f64, double(), pool);
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
                        Plan plan, Result y, std::int64_t stride, std::int64_t dilation) {
  const auto a = w.dimensions(), b = y->dimensions();
  if (a.size() != 2 || b.size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{x, k, plan, b[1], stride, dilation};
  const bool sizes = count(*y) == plan.dimensions().back() * b[1] * a[1] &&
                     count(w) * count(*y) == call.h_size() * a[1] * a[1] &&
                     (count(bias) == 0 || count(bias) == a[1]);
  return compute(call, sizes, {k, w, bias, *y}, threads,
                 [&](const Sequences& s, auto&, auto& kernels, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   ragged_output<A>(s, kernels, data<A>(x), data<A>(k),
                                    {data<A>(w), data<A>(bias), a[1]}, data<A>(*y), pool);
                 });
}

ffi::Error RaggedInputGradient(ffi::ThreadPool threads, Buffer h, Buffer k, Plan plan, Result x,
                               std::int64_t stride, std::int64_t dilation) {
  if (h.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{*x, k, plan, h.dimensions()[1], stride, dilation};
  return compute(call, count(h) == call.h_size(), {k, h}, threads,
                 [&](const Sequences& s, auto& kernels, auto&, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   ragged_input_gradient<A>(s, kernels, data<A>(h), data<A>(k), data<A>(*x), pool);
                 });
}

ffi::Error RaggedKernelGradient(ffi::ThreadPool threads, Buffer x, Buffer h, Plan plan, Result k,
                                std::int64_t stride, std::int64_t dilation) {
  if (h.dimensions().size() != 3)
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Call call{x, *k, plan, h.dimensions()[1], stride, dilation};
  return compute(call, count(h) == call.h_size(), {*k, h}, threads,
                 [&](const Sequences& s, auto& kernels, auto&, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   ragged_kernel_gradient<A>(s, kernels, data<A>(x), data<A>(h), data<A>(*k), pool);
                 });
}

// The result is the gradient of the weights, and behind it, where there is room, the bias'.
ffi::Error RaggedPointwiseGradient(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer y,
                                   Plan plan, Result result, std::int64_t stride,
                                   std::int64_t dilation) {
  const auto a = y.dimensions(), b = k.dimensions();
  if (a.size() != 3 || b.size() != 3 || a[0] != x.dimensions().front())
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const std::int64_t weights = b[1] * b[2] * a[2], room = count(*result);
  const Call call{x, k, plan, a[1], stride, dilation};
  return compute(call, room == weights || room == weights + a[2], {k, y, *result}, threads,
                 [&](const Sequences& s, auto&, auto& kernels, auto zero, Pool& pool) {
                   using A = decltype(zero);
                   ragged_pointwise_gradient<A>(s, kernels, data<A>(x), data<A>(k), data<A>(y),
                                                a[2], room > weights, data<A>(*result), pool);
                 });
}

template <typename Binding>
auto with_steps(Binding binding) {
  return std::move(binding)
      .template Arg<Plan>()
      .template Ret<Buffer>()
      .template Attr<std::int64_t>("stride")
      .template Attr<std::int64_t>("dilation");
}

auto buffers(std::integral_constant<int, 2>) {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>();
}
auto buffers(std::integral_constant<int, 3>) {
  return buffers(std::integral_constant<int, 2>()).Arg<Buffer>();
}
auto buffers(std::integral_constant<int, 4>) {
  return buffers(std::integral_constant<int, 3>()).Arg<Buffer>();
}
template <int operands>
auto ragged() {
  return with_steps(buffers(std::integral_constant<int, operands>()));
}

auto tails() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Plan>().Ret<Buffer>();
}

}  // namespace
}  // namespace sepconv

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_zero_tails, sepconv::ZeroTails, sepconv::tails());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_output, sepconv::RaggedOutput, sepconv::ragged<4>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_input_gradient, sepconv::RaggedInputGradient,
                              sepconv::ragged<2>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_kernel_gradient, sepconv::RaggedKernelGradient,
                              sepconv::ragged<2>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_ragged_pointwise_gradient, sepconv::RaggedPointwiseGradient,
                              sepconv::ragged<3>());

#pragma GCC visibility pop
