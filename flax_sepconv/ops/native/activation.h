// What is made of sums before they are written, while they are in registers.

// exp(x), to about 1e-7 of it; beyond the range of float it is 0 or infinity, and NaN stays one.
SEPCONV_INLINE Vector<float> exp_of(Vector<float> x) {
  using Words = Vector<std::int32_t>;
  // Added to this one, a number is rounded to an integer, which stands in the last bits.
  constexpr float magic = 12582912.0f, most = 89.0f, least = -87.5f;
  x = x > most ? Vector<float>{} + most : x;
  x = x < least ? Vector<float>{} + least : x;
  const Vector<float> shifted = x * 1.44269504f + magic, n = shifted - magic;
  // ln 2 in two parts, of which the first times n is exact.
  const Vector<float> r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // n = 128 gives infinity, as its exponent; n = -126 is the least.
  const Words exponent = (bits_of<Words>(shifted) - bits_of<std::int32_t>(magic) + 127) << 23;
  return p * bits_of<Vector<float>>(exponent);
}

template <typename A>
SEPCONV_INLINE Vector<A> activated(Vector<A> v, Activation activation) {
  const Vector<A> zero{};
  if (activation == Activation::kSilu) {
    if constexpr (std::is_same_v<A, float>) return v * (1.0f / (1.0f + exp_of(-v)));
  }
  v = v < zero ? zero : v;
  return activation == Activation::kRelu6 ? (v > A{6} ? zero + A{6} : v) : v;
}

// The same for the sums of a tile, which stay in registers.
template <typename A, int M, int V>
SEPCONV_INLINE void activate(Vector<A> (&sums)[M][V], Activation activation) {
  if (activation == Activation::kNone) return;
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) sums[i][v] = activated<A>(sums[i][v], activation);
}
