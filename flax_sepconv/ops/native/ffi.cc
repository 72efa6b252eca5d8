// What XLA calls: buffers checked, threads borrowed from XLA's own pool.
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "ffi_calls.h"
#include "instruction_sets.h"
#include "limits.h"
#include "pages.h"
#include "parallel.h"
#include "problem.h"
#include "tails.h"
#include "xla/ffi/api/ffi.h"

namespace sepconv {

// The lengths of a problem are in the shapes.
struct Settings {
  std::int64_t stride, dilation, pad_low, behind, limit;
  bool same;
};
// Of an output that may have a bias and an activation.
struct OutputSettings {
  std::int64_t stride, dilation, pad_low, behind, limit;
  bool same;
  std::int64_t activation;

  Settings geometry() const { return {stride, dilation, pad_low, behind, limit, same}; }
};

}  // namespace sepconv

XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(sepconv::Settings,
                                      xla::ffi::StructMember<std::int64_t>("stride"),
                                      xla::ffi::StructMember<std::int64_t>("dilation"),
                                      xla::ffi::StructMember<std::int64_t>("pad_low"),
                                      xla::ffi::StructMember<std::int64_t>("behind"),
                                      xla::ffi::StructMember<std::int64_t>("limit"),
                                      xla::ffi::StructMember<bool>("same"));
XLA_FFI_REGISTER_STRUCT_ATTR_DECODING(sepconv::OutputSettings,
                                      xla::ffi::StructMember<std::int64_t>("stride"),
                                      xla::ffi::StructMember<std::int64_t>("dilation"),
                                      xla::ffi::StructMember<std::int64_t>("pad_low"),
                                      xla::ffi::StructMember<std::int64_t>("behind"),
                                      xla::ffi::StructMember<std::int64_t>("limit"),
                                      xla::ffi::StructMember<bool>("same"),
                                      xla::ffi::StructMember<std::int64_t>("activation"));

namespace sepconv {
namespace {

bool is_activation(std::int64_t number, const Buffer& x) {
  const Activation named{number};
  return named >= Activation::kNone && named <= Activation::kSilu &&
         (named != Activation::kSilu || x.element_type() != ffi::F64);
}

ffi::Error wrong_activation() {
  return ffi::Error::InvalidArgument("an activation that there is not for this type");
}

ffi::Error wrong_types() {
  return ffi::Error::InvalidArgument("types other than floats of 16 to 64 bits");
}

// What a call is about: arrays in the roles of x, k and y (of h, where there are both stages, of
// which the last axis alone differs), what limits them, and the attributes.
struct Call {
  Buffer x, k, y;
  Limited numbers;
  Settings settings;

  bool consistent() const {
    const auto a = x.dimensions(), b = k.dimensions(), c = y.dimensions();
    if (a.size() != 3 || b.size() != 3 || c.size() != 3 || a[0] != c[0] || a[2] != b[1] ||
        b[0] < 1 || settings.stride < 1 || settings.dilation < 1)
      return false;
    const auto limits = numbers ? static_cast<std::int64_t>(numbers->element_count()) : 0;
    switch (Limit{settings.limit}) {
      case Limit::kWhole: return limits == 0;
      case Limit::kLengths: return limits == a[0];
      case Limit::kSegments: return limits == a[0] * a[1] && settings.stride == 1 && a[1] == c[1];
    }
    return false;
  }
  std::int64_t lanes() const { return k.dimensions()[1] * k.dimensions()[2]; }
  Problem problem() const {
    const auto a = x.dimensions(), b = k.dimensions();
    return {a[0], a[1], a[2], b[2], b[0], settings.stride, settings.dilation, settings.pad_low,
            y.dimensions()[1]};
  }
  Limits limits() const {
    return {Limit{settings.limit}, numbers ? numbers->typed_data() : nullptr, settings.same,
            settings.behind};
  }
};

// Run on the sequences of a call whose arrays are as they must be. Where there is nothing to compute
// with, the results are zero.
template <typename Run>
ffi::Error compute(const Call& call, Wanted wanted, std::initializer_list<Result> results,
                   ffi::ThreadPool& threads, Run run) {
  if (count(call.x) == 0 || count(call.k) == 0 || count(call.y) == 0) {
    for (Result result : results) std::memset(result->untyped_data(), 0, result->size_bytes());
    return ffi::Error::Success();
  }
  for (Result result : results) ask_for_large_pages(result->untyped_data(), result->size_bytes());
  return with_pool(threads, [&](Pool& pool) {
    return run(Sequences(call.problem(), call.limits(), wanted), pool);
  });
}

// Which array of the trilinear form is the result of the two others.
enum class Role { kX, kK, kY };

// An output may have a bias and an activation.
ffi::Error contract(Role role, const Call& call, ffi::ThreadPool& threads, Buffer a, Buffer b,
                    Result result, std::optional<Buffer> bias = std::nullopt,
                    Activation activation = Activation::kNone) {
  if (!call.consistent() || call.lanes() != call.y.dimensions()[2]) return wrong_shapes();
  const auto from = a.element_type(), to = result->element_type();
  if (bias && count(*bias) != call.lanes()) return wrong_shapes();
  if (from != b.element_type() || (bias && from != bias->element_type()))
    return ffi::Error::InvalidArgument("operands of two types");
  const Wanted wanted = role == Role::kX ? Wanted::kInputGradient : Wanted::kForward;
  return compute(call, wanted, {result}, threads, [&](const Sequences& batch, Pool& pool) {
    const auto run = [&](const auto& contractions) {
      using Types = typename std::decay_t<decltype(contractions)>;
      using R = typename Types::Result;
      const auto* const first = data<const typename Types::Operand>(a);
      const auto* const second = data<const typename Types::Operand>(b);
      R* const out = data<R>(*result);
      const std::int64_t step = sizeof(R) * result->dimensions().back();
      if (role == Role::kY) {
        const auto* const start = bias ? data<const typename Types::Operand>(*bias) : nullptr;
        contractions.output(batch.problem(), first, second, {start, activation}, out, pool);
        batch.clear_y(out, step, pool);
      } else if (role == Role::kX) {
        contractions.input_gradient(batch.problem(), first, second, out, pool);
        batch.clear_x(out, step, pool);
      } else {
        contractions.kernel_gradient(batch.problem(), first, second, out, pool);
      }
      return ffi::Error::Success();
    };
    const Kernels& kernels = chosen_kernels();
    if (from == ffi::F32 && to == ffi::F32) return run(kernels.f32);
    if (from == ffi::F64 && to == ffi::F64) return run(kernels.f64);
    if (from == ffi::BF16 && to == ffi::BF16) return run(kernels.bf16);
    if (from == ffi::BF16 && to == ffi::F32) return run(kernels.bf16_to_f32);
    if (from == ffi::F16 && to == ffi::F16) return run(kernels.f16);
    if (from == ffi::F16 && to == ffi::F32) return run(kernels.f16_to_f32);
    return wrong_types();
  });
}

ffi::Error Output(ffi::ThreadPool threads, Buffer x, Buffer k, Limited limits, Result y,
                  Settings settings) {
  return contract(Role::kY, {x, k, *y, limits, settings}, threads, x, k, y);
}

ffi::Error OutputWithBias(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer bias, Limited limits,
                          Result y, OutputSettings settings) {
  if (!is_activation(settings.activation, x)) return wrong_activation();
  return contract(Role::kY, {x, k, *y, limits, settings.geometry()}, threads, x, k, y, bias,
                  Activation{settings.activation});
}

ffi::Error InputGradient(ffi::ThreadPool threads, Buffer y, Buffer k, Limited limits, Result x,
                         Settings settings) {
  return contract(Role::kX, {*x, k, y, limits, settings}, threads, y, k, x);
}

ffi::Error KernelGradient(ffi::ThreadPool threads, Buffer x, Buffer y, Limited limits, Result k,
                          Settings settings) {
  return contract(Role::kK, {x, *k, y, limits, settings}, threads, x, y, k);
}

// Run with the kernels of both stages for a type, and a value of it.
template <typename Run>
ffi::Error for_both_stages(ffi::DataType type, Run run) {
  const Kernels& kernels = chosen_kernels();
  if (type == ffi::F32) return run(kernels.separable_f32, float());
  if (type == ffi::F64) return run(kernels.separable_f64, double());
  if (type == ffi::BF16) return run(kernels.separable_bf16, bfloat16());
  if (type == ffi::F16) return run(kernels.separable_f16, float16());
  return wrong_types();
}

// Both stages: w (lanes, filters), and a bias (filters), empty where there is none. All arrays are
// of one type; y has the filters as its last axis. Weights that are not looked at may have no rows.
template <typename Run>
ffi::Error compute_separable(const Call& call, Buffer w, bool reads_w, Buffer bias,
                             std::initializer_list<Result> results, ffi::ThreadPool& threads,
                             Run run) {
  const auto a = w.dimensions();
  if (!call.consistent() || a.size() != 2 || (reads_w ? a[0] != call.lanes() : a[0] != 0) ||
      a[1] != call.y.dimensions()[2] || (count(bias) != 0 && count(bias) != a[1]))
    return wrong_shapes();
  const auto type = w.element_type();
  for (const Buffer& other : {call.x, call.k, call.y, bias})
    if (other.element_type() != type) return ffi::Error::InvalidArgument("operands of two types");
  return compute(call, Wanted::kForward, results, threads,
                 [&](const Sequences& batch, Pool& pool) {
                   return for_both_stages(type, [&](const auto& kernels, auto zero) {
                     return run(batch, kernels, zero, pool);
                   });
                 });
}

ffi::Error SeparableOutput(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer w, Buffer bias,
                           Limited limits, Result y, OutputSettings settings) {
  if (!is_activation(settings.activation, x)) return wrong_activation();
  return compute_separable(
      {x, k, *y, limits, settings.geometry()}, w, true, bias, {y}, threads,
      [&](const Sequences& batch, const auto& kernels, auto zero, Pool& pool) {
        using A = decltype(zero);
        const std::int64_t filters = w.dimensions()[1];
        kernels.output(batch.problem(), data<A>(x), data<A>(k),
                       {data<A>(w), data<A>(bias), filters, Activation{settings.activation}},
                       data<A>(*y), pool);
        batch.clear_y(data<A>(*y), sizeof(A) * filters, pool);
        return ffi::Error::Success();
      });
}

// A chunk x of causal streams, the steps before it and after it.
ffi::Error SeparableStep(ffi::ThreadPool threads, Buffer before, Buffer x, Buffer k, Buffer w,
                         Buffer bias, Result y, Result after, std::int64_t dilation,
                         std::int64_t activation) {
  const auto a = before.dimensions(), b = x.dimensions(), c = k.dimensions(), d = w.dimensions();
  if (a.size() != 3 || b.size() != 3 || c.size() != 3 || d.size() != 2 || dilation < 1 ||
      a[0] != b[0] || a[2] != b[2] || b[2] != c[1] || c[0] < 1 || a[1] != (c[0] - 1) * dilation ||
      d[0] != c[1] * c[2] || count(*after) != count(before) || count(*y) != b[0] * b[1] * d[1] ||
      (count(bias) != 0 && count(bias) != d[1]) || count(x) == 0 || count(w) == 0)
    return wrong_shapes();
  if (!is_activation(activation, x)) return wrong_activation();
  const auto type = x.element_type();
  for (const Buffer& other : {before, k, w, bias, *y, *after})
    if (other.element_type() != type) return ffi::Error::InvalidArgument("operands of two types");
  const Problem problem{b[0], a[1] + b[1], b[2], c[2], c[0], 1, dilation, 0, b[1]};
  return with_pool(threads, [&](Pool& pool) {
    return for_both_stages(type, [&](const auto& kernels, auto zero) {
      using T = decltype(zero);
      kernels.step(problem, data<T>(before), data<T>(x), data<T>(k),
                   {data<T>(w), data<T>(bias), d[1], Activation{activation}}, data<T>(*y),
                   data<T>(*after), pool);
      return ffi::Error::Success();
    });
  });
}

// Those of the gradients that are wanted; the others are empty.
ffi::Error SeparableGradients(ffi::ThreadPool threads, Buffer x, Buffer k, Buffer w, Buffer y,
                              Limited limits, Result dx, Result dk, Result dw, Result dbias,
                              Settings settings) {
  const Call call{x, k, y, limits, settings};
  const bool reads_w = count(*dx) != 0 || count(*dk) != 0;
  std::pair<Result, std::int64_t> wanted[] = {
      {dx, count(x)}, {dk, count(k)}, {dw, call.lanes() * y.dimensions().back()}};
  for (auto& [result, size] : wanted)
    if (result->element_type() != x.element_type() || (count(*result) != 0 && count(*result) != size))
      return wrong_shapes();
  if (Limit{settings.limit} == Limit::kSegments && count(*dx) != 0)
    return ffi::Error::InvalidArgument("the gradient of x over pieces of segments");
  return compute_separable(
      call, w, reads_w, *dbias, {dx, dk, dw, dbias}, threads,
      [&](const Sequences& batch, const auto& kernels, auto zero, Pool& pool) {
        using T = decltype(zero);
        const std::int64_t filters = w.dimensions()[1];
        kernels.gradients(batch.problem(), {data<T>(x), data<T>(k), data<T>(w), nullptr, filters},
                          data<T>(y),
                          {data<T>(*dx), data<T>(*dk), data<T>(*dw), data<T>(*dbias), filters},
                          pool);
        if (count(*dx) != 0) batch.clear_x(data<T>(*dx), sizeof(T) * x.dimensions()[2], pool);
        return ffi::Error::Success();
      });
}

// In place: XLA gives the same memory to x and the result.
ffi::Error ZeroTails(ffi::ThreadPool threads, Buffer x, Numbers lengths, Result result) {
  const auto shape = x.dimensions();
  if (shape.size() != 3 || static_cast<std::int64_t>(lengths.element_count()) != shape[0] ||
      x.size_bytes() != result->size_bytes())
    return wrong_shapes();
  if (x.element_count() == 0) return ffi::Error::Success();
  if (x.untyped_data() != result->untyped_data())
    return ffi::Error::Internal("the result is not where the operand is");
  const auto step = static_cast<std::int64_t>(x.size_bytes()) / (shape[0] * shape[1]);
  return with_pool(threads, [&](Pool& pool) {
    const std::int32_t* const ends = lengths.typed_data();
    clear_tails({static_cast<char*>(result->untyped_data()), shape[0], shape[1], step},
                [ends](std::int64_t row) { return ends[row]; }, pool);
    return ffi::Error::Success();
  });
}

// Of a call: arrays, then, where there is anything, what limits it, and the first result.
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
  return operands<arrays>().template OptionalArg<Numbers>().template Ret<Buffer>();
}

}  // namespace
}  // namespace sepconv

// All that the library exports.
#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_output, sepconv::Output,
                              sepconv::call<2>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_output_with_bias, sepconv::OutputWithBias,
                              sepconv::call<3>().Attrs<sepconv::OutputSettings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_input_gradient, sepconv::InputGradient,
                              sepconv::call<2>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_kernel_gradient, sepconv::KernelGradient,
                              sepconv::call<2>().Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_separable_output, sepconv::SeparableOutput,
                              sepconv::call<4>().Attrs<sepconv::OutputSettings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_separable_step, sepconv::SeparableStep,
                              sepconv::operands<5>()
                                  .Ret<sepconv::Buffer>()
                                  .Ret<sepconv::Buffer>()
                                  .Attr<std::int64_t>("dilation")
                                  .Attr<std::int64_t>("activation"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_separable_gradients, sepconv::SeparableGradients,
                              sepconv::call<4>()
                                  .Ret<sepconv::Buffer>()
                                  .Ret<sepconv::Buffer>()
                                  .Ret<sepconv::Buffer>()
                                  .Attrs<sepconv::Settings>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(sepconv_zero_tails, sepconv::ZeroTails,
                              sepconv::operands<1>().Arg<sepconv::Numbers>().Ret<sepconv::Buffer>());

// The version of XLA's interface that the handlers were built for: major, minor.
extern "C" const int sepconv_ffi_version[2];
const int sepconv_ffi_version[2] = {XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};

// The name of the instruction set that calls run with.
extern "C" const char* sepconv_instruction_set() { return sepconv::chosen_kernels().name; }

// The names of those that this processor runs, with commas between them.
extern "C" const char* sepconv_instruction_sets() {
  static const std::string names = [] {
    std::string all;
    for (const sepconv::Kernels* kernels : sepconv::all_kernels())
      all += (all.empty() ? "" : ",") + std::string(kernels->name);
    return all;
  }();
  return names.c_str();
}

#pragma GCC visibility pop
