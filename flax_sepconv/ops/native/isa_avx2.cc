// The contractions for x86-64 with AVX2.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__)

#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace sepconv::avx2 {
#define SEPCONV_NAME "avx2"
#define SEPCONV_VECTOR_BYTES 32
#define SEPCONV_VECTORS 1
#define SEPCONV_STREAM(to, v) _mm256_stream_ps(to, reinterpret_cast<__m256>(v))
#define SEPCONV_STREAM_HALF(to, v) \
  _mm_stream_si128(static_cast<__m128i*>(to), reinterpret_cast<__m128i>(v))
#define SEPCONV_F16C
#include "contractions.h"
#define SEPCONV_QUANTIZED_NAME SEPCONV_NAME
#include "quantized_kernels.h"
}  // namespace sepconv::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::Kernels* sepconv::avx2_kernels() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool has_f16c = __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c;
  return runs ? &avx2::kKernels : nullptr;
}

const sepconv::QuantizedKernels* sepconv::avx2_quantized() {
  return avx2_kernels() != nullptr ? &avx2::kQuantized : nullptr;
}

#else

const sepconv::Kernels* sepconv::avx2_kernels() { return nullptr; }
const sepconv::QuantizedKernels* sepconv::avx2_quantized() { return nullptr; }

#endif
