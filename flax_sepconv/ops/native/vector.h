// Vectors of the compiler's own kind. Included once for each instruction set, in its namespace.

#define SEPCONV_INLINE inline __attribute__((always_inline))

template <typename A>
struct VectorOf {
  typedef A type __attribute__((vector_size(SEPCONV_VECTOR_BYTES)));
};
template <typename A>
using Vector = typename VectorOf<A>::type;

// Elements of one vector.
template <typename A>
constexpr std::int64_t kWidth = SEPCONV_VECTOR_BYTES / sizeof(A);

template <typename A>
SEPCONV_INLINE Vector<A> load(const A* from) {
  Vector<A> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <typename A>
SEPCONV_INLINE void store(A* to, Vector<A> v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// Write a vector past the caches, where there is a way; `to` is aligned to vectors. Others see what
// was written after `end_of_streams`.
#if defined(SEPCONV_STREAM)
constexpr bool kCanStream = true;
SEPCONV_INLINE void stream(void* to, Vector<float> v) { SEPCONV_STREAM(static_cast<float*>(to), v); }
template <typename V>
SEPCONV_INLINE void stream_half(void* to, V v) { SEPCONV_STREAM_HALF(to, v); }
SEPCONV_INLINE void end_of_streams() { _mm_sfence(); }
#else
constexpr bool kCanStream = false;
inline void stream(void*, Vector<float>) {}
template <typename V>
void stream_half(void*, V) {}
inline void end_of_streams() {}
#endif

// The type that values of type T are multiplied and summed in.
template <typename T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<bfloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<float16> {
  using type = float;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

template <typename To, typename From>
SEPCONV_INLINE To bits_of(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

template <typename To>
SEPCONV_INLINE To convert(float value) {
  return value;
}
template <typename To>
SEPCONV_INLINE To convert(double value) {
  return value;
}
template <typename To>
SEPCONV_INLINE To convert(bfloat16 value) {
  if constexpr (std::is_same_v<To, bfloat16>)
    return value;
  else
    return bits_of<float>(std::uint32_t{value.bits} << 16);
}
// Neither way multiplies small numbers: threads of XLA's take those of float for zero.
template <typename To>
SEPCONV_INLINE To convert(float16 value) {
  constexpr std::uint32_t exponent = 0x7c00 << 13, half = 112 << 23;
  const std::uint32_t moved = std::uint32_t{value.bits & 0x7fffu} << 13;
  const std::uint32_t normal = moved + (moved >= exponent ? 2 * half : half);
  const float small = bits_of<float>(moved + half + (1 << 23)) - bits_of<float>(half + (1 << 23));
  const std::uint32_t found = moved < (1 << 23) ? bits_of<std::uint32_t>(small) : normal;
  return bits_of<float>(found | std::uint32_t{value.bits & 0x8000u} << 16);
}
// To nearest, ties to even; a NaN stays one.
template <>
SEPCONV_INLINE bfloat16 convert<bfloat16>(float value) {
  const auto bits = bits_of<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return {static_cast<std::uint16_t>(value != value ? nan : rounded)};
}
template <>
SEPCONV_INLINE float16 convert<float16>(float value) {
  constexpr std::uint32_t least = 113 << 23, half = 112 << 23, infinity = 255u << 23;
  const auto all = bits_of<std::uint32_t>(value);
  const std::uint32_t bits = all & 0x7fffffff;
  // Added to this one, a small number is rounded where its last bit will be.
  const float magic = 0.5f;
  const std::uint32_t small = bits_of<std::uint32_t>(bits_of<float>(bits) + magic) -
                              bits_of<std::uint32_t>(magic);
  const std::uint32_t normal = (bits - half + 0xfff + ((bits >> 13) & 1)) >> 13;
  const std::uint32_t large = bits > infinity ? 0x7e00 : 0x7c00;
  const std::uint32_t found = bits < least ? small : bits >= (143u << 23) ? large : normal;
  return {static_cast<std::uint16_t>(found | (all >> 16 & 0x8000))};
}
