// What becomes of sums in registers: V vectors of one row, of which `columns` are wanted.

SEPCONV_INLINE Floats multiplied(Counts sums, const float* multipliers) {
  return __builtin_convertvector(sums, Floats) * load<float>(multipliers);
}

SEPCONV_INLINE void store_values(std::uint8_t* to, Vector<std::uint8_t> v) {
  store<std::uint8_t>(to, v);
}
SEPCONV_INLINE void store_values(std::uint16_t* to, Vector<std::uint8_t> v) {
  typedef std::uint8_t Half __attribute__((vector_size(kBytes / 2)));
  Half halves[2];
  __builtin_memcpy(halves, &v, sizeof v);
  for (int i = 0; i < 2; ++i)
    store<std::uint16_t>(to + i * kBytes / 2,
                         __builtin_convertvector(halves[i], Vector<std::uint16_t>));
}

// Numbers of h: `zero` added, and kShift; whole panels are written.
struct ToHidden {
  std::int32_t zero;

  template <int V>
  SEPCONV_INLINE void put(const Counts (&sums)[V], const float* multipliers, Value* to,
                          std::int64_t) const {
    Counts whole[kParts] = {};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      whole[v] = rounded_to_count(multiplied(sums[v], multipliers + v * kCounts));
    const Bytes bytes = narrowed(whole, static_cast<std::int16_t>(zero));
    store_values(to, bits_of<Vector<std::uint8_t>>(bytes) ^ static_cast<std::uint8_t>(kShift));
  }
};

// Results: see `Ending`.
struct ToFloats {
  float low, high;

  explicit ToFloats(const Ending& ending) : low(ending.low), high(ending.high) {}

  template <int V>
  SEPCONV_INLINE void put(const Counts (&sums)[V], const float* multipliers, float* to,
                          std::int64_t columns) const {
    const Floats least = Floats{} + low, most = Floats{} + high;
    float some[kBytes];
    float* const out = columns >= V * kCounts ? to : some;
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      Floats all = multiplied(sums[v], multipliers + v * kCounts);
      all = all < least ? least : all;
      store<float>(out + v * kCounts, all > most ? most : all);
    }
    if (out == some)
      for (std::int64_t j = 0; j < columns; ++j) to[j] = some[j];
  }
};

struct ToBytes {
  std::int32_t zero;
  float low, high;

  explicit ToBytes(const Ending& ending)
      : zero(ending.zero),
        low(std::max(static_cast<float>(-128 - ending.zero), ending.low)),
        high(std::min(static_cast<float>(127 - ending.zero), ending.high)) {}

  template <int V>
  SEPCONV_INLINE void put(const Counts (&sums)[V], const float* multipliers, std::int8_t* to,
                          std::int64_t columns) const {
    Counts whole[kParts] = {};
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      whole[v] = rounded_within(bounded(multiplied(sums[v], multipliers + v * kCounts),
                                        Floats{} + low, Floats{} + high));
    store_some(to, narrowed(whole, static_cast<std::int16_t>(zero)), columns);
  }
};

template <typename R>
using EndingIn = std::conditional_t<std::is_same_v<R, float>, ToFloats, ToBytes>;
