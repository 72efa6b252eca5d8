// Products of few rows with a matrix that is read where it lies: packing it would cost more than it
// saves.

// Up to so many positions of an example, and rows in all.
constexpr std::int64_t kFewPositions = 8;
constexpr std::int64_t kFewRows = 512;
// Rows of a tile, at most, and vectors of its columns.
constexpr int kFewTileRows = 4;
template <int M>
constexpr int kFewVectors = M <= 2 || SEPCONV_VECTOR_BYTES == 64 ? 4 : 2;

// out = start + a b, activated, for V vectors of columns of b; `start` may be null: zeros.
template <typename T, int M, int V, typename A>
SEPCONV_INLINE void few_rows_tile(const Matrix<A>& a, const T* b, std::int64_t b_step,
                                  std::int64_t depth, const T* start, Activation activation,
                                  T* out, std::int64_t out_step) {
  Vector<A> sums[M][V] = {};
  if (start != nullptr)
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < V; ++v) sums[i][v] = load_wide(start + v * kWidth<A>);
  for (std::int64_t d = 0; d < depth; ++d, b += b_step)
    for (int v = 0; v < V; ++v) {
      const Vector<A> row = load_wide(b + v * kWidth<A>);
      for (int i = 0; i < M; ++i) sums[i][v] += a.data[i * a.row_step + d * a.column_step] * row;
    }
  activate<A>(sums, activation);
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < V; ++v) store_narrow(out + i * out_step + v * kWidth<A>, sums[i][v]);
}

// Columns [first, last) of the product, a vector of them at least, for M rows.
template <typename T, int M, typename A>
void few_rows_columns(const Matrix<A>& a, const T* b, std::int64_t b_step, std::int64_t depth,
                      const T* start, Activation activation, std::int64_t first, std::int64_t last,
                      T* out, std::int64_t out_step) {
  constexpr int V = kFewVectors<M>;
  const auto at = [&](std::int64_t f) { return start == nullptr ? nullptr : start + f; };
  std::int64_t f = first;
  for (; f + V * kWidth<A> <= last; f += V * kWidth<A>)
    few_rows_tile<T, M, V>(a, b + f, b_step, depth, at(f), activation, out + f, out_step);
  for (; f < last; f += kWidth<A>) {
    // The last vector goes over columns again rather than over the end.
    const std::int64_t c = std::min(f, last - kWidth<A>);
    few_rows_tile<T, M, 1>(a, b + c, b_step, depth, at(c), activation, out + c, out_step);
  }
}

// The same for any number of rows.
template <typename T>
void few_rows(Matrix<Accumulator<T>> a, std::int64_t rows, const T* b, std::int64_t b_step,
              std::int64_t depth, const T* start, Activation activation, std::int64_t first,
              std::int64_t last, T* out, std::int64_t out_step) {
#define SEPCONV_ROWS(M)                                                                \
  for (; rows >= M; rows -= M, a.data += M * a.row_step, out += M * out_step)          \
    few_rows_columns<T, M>(a, b, b_step, depth, start, activation, first, last, out, out_step);
  SEPCONV_ROWS(kFewTileRows)
  SEPCONV_ROWS(2)
  SEPCONV_ROWS(1)
#undef SEPCONV_ROWS
}
