// The operation in integers for x86-64 with AVX_VNNI: as AVX512_VNNI, for vectors half as wide.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)

#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avxvnni")
#endif

namespace sepconv::avx_vnni {
#define SEPCONV_QUANTIZED_NAME "avx_vnni"
#define SEPCONV_VECTOR_BYTES 32
#if defined(SEPCONV_EMULATED_AVX_VNNI)  // For tests: see tests/native/emulated_avx_vnni.h.
#define SEPCONV_DOT_BYTES(sums, a, b) emulated_dpbusd(sums, a, b)
#else
#define SEPCONV_DOT_BYTES(sums, a, b) _mm256_dpbusd_avx_epi32(sums, a, b)
#endif
#include "vector.h"
#include "quantized_kernels.h"
}  // namespace sepconv::avx_vnni

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::QuantizedKernels* sepconv::avx_vnni_quantized() {
#if defined(SEPCONV_EMULATED_AVX_VNNI)
  return avx2_kernels() != nullptr ? &avx_vnni::kQuantized : nullptr;
#else
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool runs = avx2_kernels() != nullptr && __get_cpuid_count(7, 1, &a, &b, &c, &d) &&
                    (a >> 4 & 1);
  return runs ? &avx_vnni::kQuantized : nullptr;
#endif
}

#else

const sepconv::QuantizedKernels* sepconv::avx_vnni_quantized() { return nullptr; }

#endif
