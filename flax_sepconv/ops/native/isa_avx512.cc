// The contractions for x86-64 with AVX-512.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")
#endif

namespace sepconv::avx512 {
#define SEPCONV_NAME "avx512"
#define SEPCONV_VECTOR_BYTES 64
#define SEPCONV_VECTORS 2
#define SEPCONV_STREAM(to, v) _mm512_stream_ps(to, reinterpret_cast<__m512>(v))
#define SEPCONV_STREAM_HALF(to, v) \
  _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<__m256i>(v))
#define SEPCONV_F16C
#include "contractions.h"
#define SEPCONV_QUANTIZED_NAME SEPCONV_NAME
#include "quantized_kernels.h"
}  // namespace sepconv::avx512

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::Kernels* sepconv::avx512_kernels() {
  const bool runs = avx2_kernels() != nullptr && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return runs ? &avx512::kKernels : nullptr;
}

const sepconv::QuantizedKernels* sepconv::avx512_quantized() {
  return avx512_kernels() != nullptr ? &avx512::kQuantized : nullptr;
}

#else

const sepconv::Kernels* sepconv::avx512_kernels() { return nullptr; }
const sepconv::QuantizedKernels* sepconv::avx512_quantized() { return nullptr; }

#endif
