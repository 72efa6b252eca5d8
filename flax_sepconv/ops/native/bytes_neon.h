// What is done with vectors of bytes by the instructions of NEON; bytes_x86.h says what each is.

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
  sums = bits_of<Counts>(SEPCONV_DOT_BYTES(bits_of<int32x4_t>(sums), bits_of<int8x16_t>(a),
                                           bits_of<int8x16_t>(b)));
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
SEPCONV_INLINE Counts total(const Dots& sums) {
  return bits_of<Counts>(vpaddq_s32(sums.low, sums.high));
}
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
    return vqaddq_s16(vcombine_s16(vqmovn_s32(bits_of<int32x4_t>(a)),
                                   vqmovn_s32(bits_of<int32x4_t>(b))), more);
  };
  return bits_of<Bytes>(vcombine_s8(vqmovn_s16(pair(v[0], v[1])), vqmovn_s16(pair(v[2], v[3]))));
}
