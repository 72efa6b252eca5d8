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

// The type that values of type T are multiplied and summed in.
template <typename T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<bfloat16> {
  using type = float;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

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
  const std::uint32_t bits = std::uint32_t{value.bits} << 16;
  float wide;
  __builtin_memcpy(&wide, &bits, sizeof wide);
  return wide;
}
// To nearest, ties to even; a NaN stays one.
template <>
SEPCONV_INLINE bfloat16 convert<bfloat16>(float value) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const std::uint32_t nan = (bits >> 16) | 0x40;
  return {static_cast<std::uint16_t>(value != value ? nan : rounded)};
}

template <typename To, typename From>
SEPCONV_INLINE void convert_row(const From* from, To* to, std::int64_t n) {
  for (std::int64_t j = 0; j < n; ++j) to[j] = convert<To>(from[j]);
}
