// What is done with vectors of bytes by the instructions of x86-64.

#if SEPCONV_VECTOR_BYTES == 64
#define SEPCONV_MM(name) _mm512_##name
using Native = __m512i;
using NativeFloats = __m512;
SEPCONV_INLINE Native no_bytes() { return _mm512_setzero_si512(); }
#elif SEPCONV_VECTOR_BYTES == 32
#define SEPCONV_MM(name) _mm256_##name
using Native = __m256i;
using NativeFloats = __m256;
SEPCONV_INLINE Native no_bytes() { return _mm256_setzero_si256(); }
#else
#define SEPCONV_MM(name) _mm_##name
using Native = __m128i;
using NativeFloats = __m128;
SEPCONV_INLINE Native no_bytes() { return _mm_setzero_si128(); }
#endif

// With a mask of all lanes: GCC 12 warns of its own header where a vector begins undefined.
SEPCONV_INLINE NativeFloats greater(NativeFloats a, NativeFloats b) {
#if SEPCONV_VECTOR_BYTES == 64
  return _mm512_maskz_max_ps(0xffff, a, b);
#else
  return SEPCONV_MM(max_ps)(a, b);
#endif
}
SEPCONV_INLINE NativeFloats less(NativeFloats a, NativeFloats b) {
#if SEPCONV_VECTOR_BYTES == 64
  return _mm512_maskz_min_ps(0xffff, a, b);
#else
  return SEPCONV_MM(min_ps)(a, b);
#endif
}
SEPCONV_INLINE Native to_nearest(NativeFloats v) {
#if SEPCONV_VECTOR_BYTES == 64
  return _mm512_maskz_cvtps_epi32(0xffff, v);
#else
  return SEPCONV_MM(cvtps_epi32)(v);
#endif
}

// Interleaving works on each 16 bytes by themselves. These put four times four bytes where they are
// interleaved into lanes in their order, and back.
SEPCONV_INLINE Bytes spread_apart(Bytes v) {
#if SEPCONV_VECTOR_BYTES == 64
  const Native at = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return bits_of<Bytes>(_mm512_maskz_permutexvar_epi32(0xffff, at, bits_of<Native>(v)));
#elif SEPCONV_VECTOR_BYTES == 32
  const Native at = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  return bits_of<Bytes>(_mm256_permutevar8x32_epi32(bits_of<Native>(v), at));
#else
  return v;
#endif
}
SEPCONV_INLINE Native put_together(Native v) {
#if SEPCONV_VECTOR_BYTES == 64
  return bits_of<Native>(spread_apart(bits_of<Bytes>(v)));
#elif SEPCONV_VECTOR_BYTES == 32
  return _mm256_permutevar8x32_epi32(v, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
#else
  return v;
#endif
}

// The bytes of two rows, spread apart, in turns.
struct Pairs {
  Native low, high;
};
SEPCONV_INLINE Pairs paired_bytes(Bytes first, Bytes second) {
  const Native a = bits_of<Native>(first), b = bits_of<Native>(second);
  return {SEPCONV_MM(unpacklo_epi8)(a, b), SEPCONV_MM(unpackhi_epi8)(a, b)};
}
// Groups of two times two rows, or of the first two alone: these are numbers with a sign, or without.
template <bool is_signed>
SEPCONV_INLINE void make_groups(const Pairs& a, [[maybe_unused]] const Pairs& b,
                                Groups (&groups)[kParts]) {
  if constexpr (kGroup == 4) {
    groups[0] = bits_of<Groups>(SEPCONV_MM(unpacklo_epi16)(a.low, b.low));
    groups[1] = bits_of<Groups>(SEPCONV_MM(unpackhi_epi16)(a.low, b.low));
    groups[2] = bits_of<Groups>(SEPCONV_MM(unpacklo_epi16)(a.high, b.high));
    groups[3] = bits_of<Groups>(SEPCONV_MM(unpackhi_epi16)(a.high, b.high));
  } else {
    const auto widened = [](Native v) {
      return bits_of<Groups>(is_signed ? SEPCONV_MM(srai_epi16)(v, 8) : v);
    };
    const Native low = is_signed ? a.low : no_bytes(), high = is_signed ? a.high : no_bytes();
    groups[0] = widened(SEPCONV_MM(unpacklo_epi8)(a.low, low));
    groups[1] = widened(SEPCONV_MM(unpackhi_epi8)(a.low, low));
    groups[2] = widened(SEPCONV_MM(unpacklo_epi8)(a.high, high));
    groups[3] = widened(SEPCONV_MM(unpackhi_epi8)(a.high, high));
  }
}

// Sums in the making: those of products of `a`, not negative, and `b`.
using Dots = Counts;
SEPCONV_INLINE Dots begin(Counts start) { return start; }
SEPCONV_INLINE Counts total(Dots sums) { return sums; }
SEPCONV_INLINE void add_dots(Dots& sums, Groups a, Groups b) {
#if defined(SEPCONV_DOT_BYTES)
  sums = bits_of<Counts>(
      SEPCONV_DOT_BYTES(bits_of<Native>(sums), bits_of<Native>(a), bits_of<Native>(b)));
#else
  sums = bits_of<Counts>(SEPCONV_MM(add_epi32)(
      bits_of<Native>(sums), SEPCONV_MM(madd_epi16)(bits_of<Native>(a), bits_of<Native>(b))));
#endif
}

// Bounded; NaN becomes `low`. (Of a NaN and a number both instructions return what stands second.)
SEPCONV_INLINE Floats bounded(Floats v, Floats low, Floats high) {
  const NativeFloats above = greater(bits_of<NativeFloats>(v), bits_of<NativeFloats>(low));
  return bits_of<Floats>(less(above, bits_of<NativeFloats>(high)));
}
// To nearest, ties to even, of numbers that int32 holds.
SEPCONV_INLINE Counts rounded_within(Floats v) {
  return bits_of<Counts>(to_nearest(bits_of<NativeFloats>(v)));
}
// Of any; what is too large becomes a large number, what is too small, or NaN, the least.
SEPCONV_INLINE Counts rounded_to_count(Floats v) {
  const NativeFloats most = bits_of<NativeFloats>(Floats{} + 65536.0f);
  return bits_of<Counts>(to_nearest(less(most, bits_of<NativeFloats>(v))));
}

// The bytes `v + zero`, where there are such: else the nearest one.
SEPCONV_INLINE Bytes narrowed(const Counts (&v)[kParts], std::int16_t zero) {
  const Native more = SEPCONV_MM(set1_epi16)(zero);
  const auto pair = [&](Counts a, Counts b) {
    const Native both = SEPCONV_MM(packs_epi32)(bits_of<Native>(a), bits_of<Native>(b));
    return SEPCONV_MM(adds_epi16)(both, more);
  };
  return bits_of<Bytes>(
      put_together(SEPCONV_MM(packs_epi16)(pair(v[0], v[1]), pair(v[2], v[3]))));
}
