// The instruction of AVX_VNNI that adds products of four bytes, by those of AVX2: for tests on
// processors that lack it. The Makefile includes this before isa_avx_vnni.cc.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#define SEPCONV_EMULATED_AVX_VNNI

// `a` has no sign, `b` has one.
__attribute__((target("avx2"))) inline __m256i emulated_dpbusd(__m256i sums, __m256i a, __m256i b) {
  const __m256i even_b = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
  const __m256i even = _mm256_madd_epi16(_mm256_and_si256(a, _mm256_set1_epi16(0xff)), even_b);
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#endif
