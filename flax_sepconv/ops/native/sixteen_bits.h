// 16-bit floats in memory, float in registers: N neighbouring numbers at once.

template <int N>
struct Several {
  typedef std::uint16_t halves __attribute__((vector_size(2 * N)));
  typedef std::uint32_t words __attribute__((vector_size(4 * N)));
  typedef float floats __attribute__((vector_size(4 * N)));
};

template <int N>
SEPCONV_INLINE typename Several<N>::floats widened(const bfloat16* from) {
  typename Several<N>::halves bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return bits_of<typename Several<N>::floats>(
      __builtin_convertvector(bits, typename Several<N>::words) << 16);
}

// The first N of a vector of 16-bit numbers.
template <int N, typename V>
SEPCONV_INLINE typename Several<N>::halves first_of(V v) {
  typename Several<N>::halves bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  return bits;
}

// As `convert` rounds.
template <int N>
SEPCONV_INLINE typename Several<N>::halves rounded(typename Several<N>::floats v, bfloat16) {
#if defined(SEPCONV_ROUND_BFLOAT16) && defined(__aarch64__)
  static_assert(N == 4);
  return first_of<N>(vcvt_bf16_f32(v));
#elif defined(SEPCONV_ROUND_BFLOAT16)
  if constexpr (N == 16) return first_of<N>(_mm512_cvtneps_pbh(bits_of<__m512>(v)));
  if constexpr (N == 8) return first_of<N>(_mm256_cvtneps_pbh(bits_of<__m256>(v)));
  if constexpr (N == 4) return first_of<N>(_mm_cvtneps_pbh(bits_of<__m128>(v)));
#else
  using Words = typename Several<N>::words;
  const auto bits = bits_of<Words>(v), nan = bits_of<Words>(v != v);
  const Words nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Words all = (nearest & ~nan) | (((bits >> 16) | 0x40) & nan);
  return __builtin_convertvector(all, typename Several<N>::halves);
#endif
}

// float16 where there are instructions for it: they keep its small numbers.
#if defined(SEPCONV_F16C)
// With a mask of all lanes: GCC 12 warns of its own header where a vector begins undefined.
constexpr std::uint16_t kAllLanes = 0xffff;
template <int N>
SEPCONV_INLINE typename Several<N>::floats widened(const float16* from) {
  using Floats = typename Several<N>::floats;
  if constexpr (N == 16)
    return bits_of<Floats>(_mm512_maskz_cvtph_ps(
        kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))));
  if constexpr (N == 8)
    return bits_of<Floats>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  if constexpr (N == 4)
    return bits_of<Floats>(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
}
template <int N>
SEPCONV_INLINE typename Several<N>::halves rounded(typename Several<N>::floats v, float16) {
  constexpr int nearest = 0;
  if constexpr (N == 16)
    return first_of<N>(_mm512_maskz_cvtps_ph(kAllLanes, bits_of<__m512>(v), nearest));
  if constexpr (N == 8) return first_of<N>(_mm256_cvtps_ph(bits_of<__m256>(v), nearest));
  if constexpr (N == 4) return first_of<N>(_mm_cvtps_ph(bits_of<__m128>(v), nearest));
}
#elif defined(__aarch64__)
template <int N>
SEPCONV_INLINE typename Several<N>::floats widened(const float16* from) {
  static_assert(N == 4);
  return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
}
template <int N>
SEPCONV_INLINE typename Several<N>::halves rounded(typename Several<N>::floats v, float16) {
  return vreinterpret_u16_f16(vcvt_f16_f32(v));
}
#endif

// Whether numbers of a type are converted by vectors.
template <typename T>
constexpr bool in_vectors = std::is_same_v<T, bfloat16>;
#if defined(SEPCONV_F16C) || defined(__aarch64__)
template <>
constexpr bool in_vectors<float16> = true;
#endif

// A vector of values of any type, as those of its sums, and back.
template <typename T>
SEPCONV_INLINE Vector<Accumulator<T>> load_wide(const T* from) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<A, T>) {
    return load<A>(from);
  } else if constexpr (in_vectors<T>) {
    return widened<kWidth<A>>(from);
  } else {
    A wide[kWidth<A>];
    for (std::int64_t j = 0; j < kWidth<A>; ++j) wide[j] = convert<A>(from[j]);
    return load<A>(wide);
  }
}
template <typename T>
SEPCONV_INLINE void store_narrow(T* to, Vector<Accumulator<T>> v) {
  using A = Accumulator<T>;
  if constexpr (std::is_same_v<A, T>) {
    store<A>(to, v);
  } else if constexpr (in_vectors<T>) {
    const auto bits = rounded<kWidth<A>>(v, T());
    __builtin_memcpy(to, &bits, sizeof bits);
  } else {
    A wide[kWidth<A>];
    store<A>(wide, v);
    for (std::int64_t j = 0; j < kWidth<A>; ++j) to[j] = convert<T>(wide[j]);
  }
}

// Whether `load_wide` and `store_narrow` take no more than a few instructions.
template <typename T>
constexpr bool passes_quickly = std::is_same_v<Accumulator<T>, T> || in_vectors<T>;

template <int N, typename T>
SEPCONV_INLINE void convert_some(const T* from, float* to) {
  const auto wide = widened<N>(from);
  __builtin_memcpy(to, &wide, sizeof wide);
}
template <int N, typename T>
SEPCONV_INLINE void convert_some(const float* from, T* to) {
  typename Several<N>::floats wide;
  __builtin_memcpy(&wide, from, sizeof wide);
  const auto bits = rounded<N>(wide, T());
  __builtin_memcpy(to, &bits, sizeof bits);
}

// A row of n numbers, N at a time; the last N go over some again rather than over the end.
template <int N, typename To, typename From>
SEPCONV_INLINE void convert_by(const From* from, To* to, std::int64_t n) {
  if (n >= N) {
    for (std::int64_t j = 0; j + N <= n; j += N) convert_some<N>(from + j, to + j);
    if (n % N != 0) convert_some<N>(from + n - N, to + n - N);
  } else if constexpr (N > 4) {
    convert_by<N / 2>(from, to, n);
  } else {
    for (std::int64_t j = 0; j < n; ++j) to[j] = convert<To>(from[j]);
  }
}

// From and to do not overlap.
template <typename To, typename From>
SEPCONV_INLINE void convert_row(const From* from, To* to, std::int64_t n) {
  if constexpr ((in_vectors<From> && std::is_same_v<To, float>) ||
                (in_vectors<To> && std::is_same_v<From, float>))
    convert_by<kWidth<float>>(from, to, n);
  else
    for (std::int64_t j = 0; j < n; ++j) to[j] = convert<To>(from[j]);
}
