// The operation in integers for x86-64 with AVX512_VNNI, whose instruction adds the products of four
// bytes at once.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__)

#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma")
#endif

namespace sepconv::avx512_vnni {
#define SEPCONV_QUANTIZED_NAME "avx512_vnni"
#define SEPCONV_VECTOR_BYTES 64
#define SEPCONV_DOT_BYTES(sums, a, b) _mm512_dpbusd_epi32(sums, a, b)
#include "vector.h"
#include "quantized_kernels.h"
}  // namespace sepconv::avx512_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::QuantizedKernels* sepconv::avx512_vnni_quantized() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool runs = avx512_kernels() != nullptr && __get_cpuid_count(7, 0, &a, &b, &c, &d) &&
                    (c >> 11 & 1);
  return runs ? &avx512_vnni::kQuantized : nullptr;
}

#else

const sepconv::QuantizedKernels* sepconv::avx512_vnni_quantized() { return nullptr; }

#endif
