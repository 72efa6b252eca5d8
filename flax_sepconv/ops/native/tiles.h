// The innermost loops: everything they add up stays in registers.
//
// Where the steps between positions and between taps are equal, position p meets tap t in row
// p + t: a tile of P positions and T taps loads P + T - 1 rows for P * T products.

constexpr int kVectors = SEPCONV_VECTORS;  // neighbouring vectors of one tile
constexpr int kPositions = 8;              // positions of an output tile
constexpr int kTaps = 4;                   // taps of an output tile at a time
constexpr int kGradientTaps = 8;           // taps of a kernel gradient tile
constexpr int kGradientPositions = 4;      // positions of a kernel gradient tile at a time

// A run of taps that meets rows of equal distance.
template <typename A>
struct TapRun {
  std::int64_t offset;  // of the row that the first tap meets at the first position, in elements
  const A* taps;        // the first tap
  std::int64_t step;    // from tap to tap, in elements; negative where taps run backwards
  std::int64_t count;
};

// sums[i] += rows[i + j] * factors[j], for N sums and F factors: positions and taps in either role.
// Either may be of 16 bits in memory.
template <typename A, int N, int F, int V, typename X, typename Y>
SEPCONV_INLINE void add_products(Vector<A> (&sums)[N][V], const X* rows, std::int64_t row_step,
                                 const Y* factors, std::int64_t factor_step) {
  Vector<A> factor[F][V];
  for (int j = 0; j < F; ++j)
    for (int v = 0; v < V; ++v) factor[j][v] = load_wide(factors + j * factor_step + v * kWidth<A>);
#pragma GCC unroll 16
  for (int r = 0; r < N + F - 1; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      const Vector<A> row = load_wide(rows + r * row_step + v * kWidth<A>);
#pragma GCC unroll 8
      for (int j = 0; j < F; ++j)
        if (r - j >= 0 && r - j < N) sums[r - j][v] += row * factor[j][v];
    }
  }
}

// out[p] = start + sum over all runs of rows[p + t] * taps[t], for P positions and V vectors of lanes,
// or what an activation makes of it.
template <typename A, int P, int V, typename T, typename R>
SEPCONV_INLINE void output_tile(const T* in, std::int64_t row_step, const TapRun<A>* runs,
                                int n_runs, std::int64_t lane, const A* start,
                                Activation activation, R* out, std::int64_t out_step) {
  Vector<A> sums[P][V] = {};
  if (start != nullptr)
    for (int v = 0; v < V; ++v) {
      const Vector<A> first = load<A>(start + lane + v * kWidth<A>);
      for (int p = 0; p < P; ++p) sums[p][v] = first;
    }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < V; ++v) __builtin_prefetch(out + p * out_step + v * kWidth<A>, 1);
  for (int i = 0; i < n_runs; ++i) {
    const TapRun<A>& run = runs[i];
    const T* rows = in + run.offset;
    const A* taps = run.taps + lane;
    std::int64_t left = run.count;
    for (; left >= kTaps; left -= kTaps) {
      add_products<A, P, kTaps, V>(sums, rows, row_step, taps, run.step);
      rows += kTaps * row_step;
      taps += kTaps * run.step;
    }
    if (left == 3) add_products<A, P, 3, V>(sums, rows, row_step, taps, run.step);
    if (left == 2) add_products<A, P, 2, V>(sums, rows, row_step, taps, run.step);
    if (left == 1) add_products<A, P, 1, V>(sums, rows, row_step, taps, run.step);
  }
  activate<A>(sums, activation);
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < V; ++v) store_narrow(out + p * out_step + v * kWidth<A>, sums[p][v]);
}

// gradient[t] += sum over n positions of rows[p + t] * cotangents[p], for T taps.
template <typename A, int T, int V, typename X, typename Y>
SEPCONV_INLINE void gradient_tile(const X* rows, std::int64_t row_step, const Y* cotangents,
                                  std::int64_t cotangent_step, std::int64_t n, A* gradient,
                                  std::int64_t gradient_step) {
  Vector<A> sums[T][V];
  for (int t = 0; t < T; ++t)
    for (int v = 0; v < V; ++v)
      sums[t][v] = load<A>(gradient + t * gradient_step + v * kWidth<A>);
  for (; n >= kGradientPositions; n -= kGradientPositions) {
    add_products<A, T, kGradientPositions, V>(sums, rows, row_step, cotangents, cotangent_step);
    rows += kGradientPositions * row_step;
    cotangents += kGradientPositions * cotangent_step;
  }
  for (; n > 0; --n) {
    add_products<A, T, 1, V>(sums, rows, row_step, cotangents, cotangent_step);
    rows += row_step;
    cotangents += cotangent_step;
  }
  for (int t = 0; t < T; ++t)
    for (int v = 0; v < V; ++v)
      store<A>(gradient + t * gradient_step + v * kWidth<A>, sums[t][v]);
}

// The same for any number of taps.
template <typename A, int V, typename X, typename Y>
SEPCONV_INLINE void gradient_tiles(const X* rows, std::int64_t row_step, const Y* cotangents,
                                   std::int64_t cotangent_step, std::int64_t n, A* gradient,
                                   std::int64_t gradient_step, std::int64_t taps) {
#define SEPCONV_TILE(T) \
  gradient_tile<A, T, V>(rows, row_step, cotangents, cotangent_step, n, gradient, gradient_step)
  for (; taps >= kGradientTaps; taps -= kGradientTaps) {
    SEPCONV_TILE(kGradientTaps);
    rows += kGradientTaps * row_step;
    gradient += kGradientTaps * gradient_step;
  }
  switch (taps) {
    case 7: return SEPCONV_TILE(7);
    case 6: return SEPCONV_TILE(6);
    case 5: return SEPCONV_TILE(5);
    case 4: return SEPCONV_TILE(4);
    case 3: return SEPCONV_TILE(3);
    case 2: return SEPCONV_TILE(2);
    case 1: return SEPCONV_TILE(1);
  }
#undef SEPCONV_TILE
}
