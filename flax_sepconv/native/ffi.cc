// The contractions as XLA calls them: buffers checked, threads borrowed from XLA's own pool.
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "ffi_pool.h"
#include "problem.h"

namespace sepconv {
namespace {

// What a call is about: the arrays in the roles of x, k and y, and the attributes.
struct Call {
  Buffer x, k, y;
  std::int64_t stride, dilation, pad_low;

  bool consistent() const {
    const auto a = x.dimensions(), b = k.dimensions(), c = y.dimensions();
    return a.size() == 3 && b.size() == 3 && c.size() == 3 && a[0] == c[0] && a[2] == b[1] &&
           b[1] * b[2] == c[2] && b[0] > 0 && stride > 0 && dilation > 0;
  }

  Problem problem() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return {a[0], a[1], a[2], b[2], b[0], stride, dilation, pad_low, y.dimensions()[1]};
  }
};

// Run the contraction that `pick` takes out of the Contractions for the buffers' types.
template <typename Pick>
ffi::Error compute(const Call& call, ffi::ThreadPool& threads, Buffer a, Buffer b, Result result,
                   Pick pick) {
  if (!call.consistent()) return ffi::Error::InvalidArgument("shapes that do not belong together");
  const auto from = a.element_type(), to = result->element_type();
  if (from != b.element_type()) return ffi::Error::InvalidArgument("operands of two types");
  if (a.element_count() == 0 || b.element_count() == 0 || result->element_count() == 0) {
    std::memset(result->untyped_data(), 0, result->size_bytes());
    return ffi::Error::Success();
  }
  XlaPool pool(threads);
  const auto run = [&](const auto& contractions) {
    const auto contraction = pick(contractions);
    using Types = typename std::decay_t<decltype(contractions)>;
    contraction(call.problem(), static_cast<const typename Types::Operand*>(a.untyped_data()),
                static_cast<const typename Types::Operand*>(b.untyped_data()),
                static_cast<typename Types::Result*>(result->untyped_data()), pool);
    return ffi::Error::Success();
  };
  const Kernels& kernels = best_kernels();
  try {
    if (from == ffi::F32 && to == ffi::F32) return run(kernels.f32);
    if (from == ffi::F64 && to == ffi::F64) return run(kernels.f64);
    if (from == ffi::BF16 && to == ffi::BF16) return run(kernels.bf16);
    if (from == ffi::BF16 && to == ffi::F32) return run(kernels.bf16_to_f32);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
  return ffi::Error::InvalidArgument("types other than float32, float64 and bfloat16");
}

ffi::Error Output(ffi::ThreadPool threads, Buffer x, Buffer k, Result y, std::int64_t stride,
                  std::int64_t dilation, std::int64_t pad_low) {
  return compute({x, k, *y, stride, dilation, pad_low}, threads, x, k, y,
                 [](const auto& contractions) { return contractions.output; });
}

ffi::Error InputGradient(ffi::ThreadPool threads, Buffer y, Buffer k, Result x,
                         std::int64_t stride, std::int64_t dilation, std::int64_t pad_low) {
  return compute({*x, k, y, stride, dilation, pad_low}, threads, y, k, x,
                 [](const auto& contractions) { return contractions.input_gradient; });
}

ffi::Error KernelGradient(ffi::ThreadPool threads, Buffer x, Buffer y, Result k,
                          std::int64_t stride, std::int64_t dilation, std::int64_t pad_low) {
  return compute({x, *k, y, stride, dilation, pad_low}, threads, x, y, k,
                 [](const auto& contractions) { return contractions.kernel_gradient; });
}

// Both stages: w (lanes, filters), and a bias (filters), empty where there is none.
template <typename Run>
ffi::Error compute_separable(const Call& call, Buffer w, Buffer bias, Buffer y,
                             ffi::ThreadPool& threads, Run run) {
  const auto a = call.x.dimensions(), b = call.k.dimensions(), c = w.dimensions(),
             d = y.dimensions();
  if (a.size() != 3 || b.size() != 3 || c.size() != 2 || d.size() != 3 || a[0] != d[0] ||
      a[2] != b[1] || b[1] * b[2] != c[0] || c[1] != d[2] || b[0] < 1 || call.stride < 1 ||
      call.dilation < 1 || (bias.element_count() != 0 && bias.element_count() != size_t(c[1])))
    return ffi::Error::InvalidArgument("shapes that do not belong together");
  const Problem problem{a[0], a[1], a[2], b[2], b[0], call.stride, call.dilation, call.pad_low, d[1]};
  XlaPool pool(threads);
  try {
    const auto type = w.element_type();
    for (const Buffer& other : {call.x, call.k, y, bias})
      if (other.element_type() != type) return ffi::Error::InvalidArgument("operands of two types");
    if (type == ffi::F32) return run(problem, best_kernels().separable_f32, float(), pool);
    if (type == ffi::F64) return run(problem, best_kernels().separable_f64, double(), pool);
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "no memory to share the work");
  }
  return ffi::Error::InvalidArgument("types other than float32 and float64");
}

ffi::Error SeparableOutput(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer w, Buffer bias,
                           Result y, std::int64_t stride, std::int64_t dilation,
                           std::int64_t pad_low) {
  return compute_separable(
      {x, k, *y, stride, dilation, pad_low}, w, bias, *y, threads,
      [&](const Problem& problem, const auto& kernels, auto zero, Pool& pool) {
        using A = decltype(zero);
        if (y->element_count() > 0)
          kernels.output(problem, data<A>(x), data<A>(k),
                         {data<A>(w), data<A>(bias), w.dimensions()[1]}, data<A>(*y), pool);
        return ffi::Error::Success();
      });
}

ffi::Error PointwiseGradient(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer y, Result w,
                             Result bias, std::int64_t stride, std::int64_t dilation,
                             std::int64_t pad_low) {
  return compute_separable(
      {x, k, y, stride, dilation, pad_low}, *w, *bias, y, threads,
      [&](const Problem& problem, const auto& kernels, auto zero, Pool& pool) {
        using A = decltype(zero);
        if (y.element_count() == 0) {
          std::memset(w->untyped_data(), 0, w->size_bytes());
          std::memset(bias->untyped_data(), 0, bias->size_bytes());
        } else {
          kernels.pointwise_gradient(problem, data<A>(x), data<A>(k), data<A>(y),
                                     {data<A>(*w), data<A>(*bias), w->dimensions()[1]}, pool);
        }
        return ffi::Error::Success();
      });
}

template <typename Binding>
auto with_geometry(Binding binding) {
  return std::move(binding)
      .template Attr<std::int64_t>("stride")
      .template Attr<std::int64_t>("dilation")
      .template Attr<std::int64_t>("pad_low");
}

auto contraction() {
  return with_geometry(
      ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>());
}

auto separable_output() {
  return with_geometry(ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Ret<Buffer>());
}

auto pointwise_gradient() {
  return with_geometry(ffi::Ffi::Bind()
                           .Ctx<ffi::ThreadPool>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Arg<Buffer>()
                           .Ret<Buffer>()
                           .Ret<Buffer>());
}

}  // namespace
}  // namespace sepconv

// All that the library exports.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_output, sepconv::Output, sepconv::contraction());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_input_gradient, sepconv::InputGradient, sepconv::contraction());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_kernel_gradient, sepconv::KernelGradient, sepconv::contraction());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_separable_output, sepconv::SeparableOutput,
                              sepconv::separable_output());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_pointwise_gradient, sepconv::PointwiseGradient,
                              sepconv::pointwise_gradient());

// The version of XLA's interface that the handlers were built for: major, minor.
extern "C" const int sepconv_ffi_version[2];
const int sepconv_ffi_version[2] = {XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};

// The name of the instruction set that calls run with.
extern "C" const char* sepconv_instruction_set() { return sepconv::best_kernels().name; }

#pragma GCC visibility pop
