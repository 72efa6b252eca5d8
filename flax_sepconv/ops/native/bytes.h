// Vectors of bytes, and exact sums of their products.
//
// A lane's, or a column's, values of neighbouring terms lie together in 32 bits, a group: four bytes
// where the processor adds their products at once, else two numbers of 16 bits. On x86-64 one factor
// is not negative, so the values of x and of h have 128 added (kShift); what that adds to a sum is a
// multiple of the sum of the other factors, and is taken off where the sum begins.

using Bytes = Vector<std::int8_t>;
using Group = std::uint32_t;
using Groups = Vector<Group>;
using Counts = Vector<std::int32_t>;
using Floats = Vector<float>;

#if defined(SEPCONV_DOT_BYTES) || defined(__aarch64__)
constexpr std::int64_t kGroup = 4;
using Value = std::uint8_t;  // of h, in memory
#else
constexpr std::int64_t kGroup = 2;
using Value = std::uint16_t;
#endif
#if defined(__aarch64__)
constexpr std::int32_t kShift = 0;
#else
constexpr std::int32_t kShift = 128;
#endif

constexpr std::int64_t kBytes = kWidth<std::int8_t>;
constexpr std::int64_t kCounts = kWidth<std::int32_t>;
// Whether 32 registers hold the sums in the making: without DOT_BYTES NEON's take two each.
#if SEPCONV_VECTOR_BYTES == 64 || (defined(__aarch64__) && defined(SEPCONV_DOT_BYTES))
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif
// Vectors of 32 bits that hold what a vector of bytes holds.
constexpr int kParts = 4;

#if defined(__x86_64__)

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
  sums = bits_of<Counts>(SEPCONV_DOT_BYTES(bits_of<Native>(sums), bits_of<Native>(a), bits_of<Native>(b)));
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
    return SEPCONV_MM(adds_epi16)(SEPCONV_MM(packs_epi32)(bits_of<Native>(a), bits_of<Native>(b)), more);
  };
  return bits_of<Bytes>(put_together(SEPCONV_MM(packs_epi16)(pair(v[0], v[1]), pair(v[2], v[3]))));
}

#elif defined(__aarch64__)

SEPCONV_INLINE Bytes spread_apart(Bytes v) { return v; }

struct Pairs {
  int16x8_t low, high;
};
SEPCONV_INLINE Pairs paired_bytes(Bytes first, Bytes second) {
  const int8x16_t a = bits_of<int8x16_t>(first), b = bits_of<int8x16_t>(second);
  return {vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))};
}
template <bool>
SEPCONV_INLINE void make_groups(const Pairs& a, const Pairs& b, Groups (&groups)[kParts]) {
  groups[0] = bits_of<Groups>(vzip1q_s16(a.low, b.low));
  groups[1] = bits_of<Groups>(vzip2q_s16(a.low, b.low));
  groups[2] = bits_of<Groups>(vzip1q_s16(a.high, b.high));
  groups[3] = bits_of<Groups>(vzip2q_s16(a.high, b.high));
}

#if defined(SEPCONV_DOT_BYTES)
using Dots = Counts;
SEPCONV_INLINE Dots begin(Counts start) { return start; }
SEPCONV_INLINE Counts total(Dots sums) { return sums; }
SEPCONV_INLINE void add_dots(Dots& sums, Groups a, Groups b) {
  sums = bits_of<Counts>(SEPCONV_DOT_BYTES(bits_of<int32x4_t>(sums), bits_of<int8x16_t>(a), bits_of<int8x16_t>(b)));
}
#else
// Two sums of each lane: its products are added in pairs.
struct Dots {
  int32x4_t low, high;
};
SEPCONV_INLINE Dots begin(Counts start) {
  const int32x4_t all = bits_of<int32x4_t>(start), zero = vdupq_n_s32(0);
  return {vzip1q_s32(all, zero), vzip2q_s32(all, zero)};
}
SEPCONV_INLINE Counts total(const Dots& sums) { return bits_of<Counts>(vpaddq_s32(sums.low, sums.high)); }
SEPCONV_INLINE void add_dots(Dots& sums, Groups a, Groups b) {
  const int8x16_t x = bits_of<int8x16_t>(a), y = bits_of<int8x16_t>(b);
  sums.low = vpadalq_s16(sums.low, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
  sums.high = vpadalq_s16(sums.high, vmull_high_s8(x, y));
}
#endif

SEPCONV_INLINE Floats bounded(Floats v, Floats low, Floats high) {
  const float32x4_t above = vmaxnmq_f32(bits_of<float32x4_t>(v), bits_of<float32x4_t>(low));
  return bits_of<Floats>(vminq_f32(above, bits_of<float32x4_t>(high)));
}
SEPCONV_INLINE Counts rounded_within(Floats v) {
  return bits_of<Counts>(vcvtnq_s32_f32(bits_of<float32x4_t>(v)));
}
SEPCONV_INLINE Counts rounded_to_count(Floats v) {
  return rounded_within(bits_of<Floats>(
      vmaxnmq_f32(bits_of<float32x4_t>(v), vdupq_n_f32(-65536.0f))));
}

SEPCONV_INLINE Bytes narrowed(const Counts (&v)[kParts], std::int16_t zero) {
  const int16x8_t more = vdupq_n_s16(zero);
  const auto pair = [&](Counts a, Counts b) {
    return vqaddq_s16(vcombine_s16(vqmovn_s32(bits_of<int32x4_t>(a)), vqmovn_s32(bits_of<int32x4_t>(b))), more);
  };
  return bits_of<Bytes>(vcombine_s8(vqmovn_s16(pair(v[0], v[1])), vqmovn_s16(pair(v[2], v[3]))));
}

#endif

// Groups of the bytes of kGroup rows, spread apart.
template <bool is_signed>
SEPCONV_INLINE void interleave(const Bytes (&rows)[kGroup], Groups (&groups)[kParts]) {
  const Pairs last = paired_bytes(rows[kGroup - 2], rows[kGroup - 1]);
  make_groups<is_signed>(kGroup == 4 ? paired_bytes(rows[0], rows[1]) : last, last, groups);
}

// Up to a vector of bytes, as a vector; the others are zero.
SEPCONV_INLINE Bytes load_some(const std::int8_t* from, std::int64_t n) {
  if (n >= kBytes) return load<std::int8_t>(from);
#if SEPCONV_VECTOR_BYTES == 64
  return bits_of<Bytes>(_mm512_maskz_loadu_epi8((std::uint64_t{1} << n) - 1, from));
#else
  std::int8_t all[kBytes] = {};
  for (std::int64_t j = 0; j < n; ++j) all[j] = from[j];
  return load<std::int8_t>(all);
#endif
}
SEPCONV_INLINE void store_some(std::int8_t* to, Bytes v, std::int64_t n) {
  if (n >= kBytes) return store<std::int8_t>(to, v);
#if SEPCONV_VECTOR_BYTES == 64
  _mm512_mask_storeu_epi8(to, (std::uint64_t{1} << n) - 1, bits_of<Native>(v));
#else
  std::int8_t all[kBytes];
  store<std::int8_t>(all, v);
  for (std::int64_t j = 0; j < n; ++j) to[j] = all[j];
#endif
}
