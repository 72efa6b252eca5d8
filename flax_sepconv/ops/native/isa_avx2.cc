// The contractions for x86-64 with AVX2.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__)

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace sepconv::avx2 {
#define SEPCONV_NAME "avx2"
#define SEPCONV_VECTOR_BYTES 32
#define SEPCONV_VECTORS 1
#define SEPCONV_STREAM(to, v) _mm256_stream_ps(to, reinterpret_cast<__m256>(v))
#include "contractions.h"
}  // namespace sepconv::avx2

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::Kernels* sepconv::avx2_kernels() {
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return runs ? &avx2::kKernels : nullptr;
}

#else

const sepconv::Kernels* sepconv::avx2_kernels() { return nullptr; }

#endif
