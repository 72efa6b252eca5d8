// Both stages in bfloat16 for x86-64 with AVX-512 and its instruction that adds products of pairs;
// all else as with AVX-512.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__)

#include <cpuid.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#endif

namespace sepconv::avx512_bf16 {
#define SEPCONV_VECTOR_BYTES 64
#define SEPCONV_VECTORS 2
#define SEPCONV_BF16_PAIRS(sums, a, b)                                        \
  sums = reinterpret_cast<Vector<float>>(                                     \
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums),                        \
                       reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))), \
                       reinterpret_cast<__m512bh>(b)))
#define SEPCONV_STREAM(to, v) _mm512_stream_ps(to, reinterpret_cast<__m512>(v))
#define SEPCONV_STREAM_HALF(to, v) \
  _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<__m256i>(v))
#define SEPCONV_F16C
#define SEPCONV_ROUND_BFLOAT16
#include "contractions.h"
}  // namespace sepconv::avx512_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const sepconv::Kernels* sepconv::avx512_bf16_kernels() {
  const Kernels* const others = avx512_kernels();
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool runs = others != nullptr && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 5 & 1);
  if (!runs) return nullptr;
  static const Kernels kernels = [others] {
    Kernels all = *others;
    all.name = "avx512_bf16";
    all.separable_bf16 = avx512_bf16::kSeparable<bfloat16>;
    return all;
  }();
  return &kernels;
}

#else

const sepconv::Kernels* sepconv::avx512_bf16_kernels() { return nullptr; }

#endif
