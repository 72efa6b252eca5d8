// Matrix products of blocks that lie in the caches.

#if SEPCONV_VECTOR_BYTES == 64
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;

// Columns of a panel: those that one tile computes.
template <typename A>
constexpr std::int64_t kPanel = kTileVectors * kWidth<A>;

template <typename A>
std::int64_t panels_of(std::int64_t columns) {
  return ceil_div(columns, kPanel<A>);
}

// Copy columns of one panel, `rows` rows, `step` from row to row; zeros beyond the last column.
template <typename A>
void pack_columns(const A* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                  A* panel) {
  for (std::int64_t r = 0; r < rows; ++r, from += step, panel += kPanel<A>) {
    std::copy(from, from + columns, panel);
    std::fill(panel + columns, panel + kPanel<A>, A{0});
  }
}

// A matrix in memory: element (i, j) is data[i * row_step + j * column_step].
template <typename A>
struct Matrix {
  const A* data;
  std::int64_t row_step, column_step;
};

// out = start + a b for M rows of a (M x depth) and one panel b (depth x kPanel).
template <typename A, int M>
SEPCONV_INLINE void matmul_tile(const Matrix<A>& a, const A* b, std::int64_t depth,
                                const A* start, std::int64_t start_step, A* out,
                                std::int64_t out_step) {
  Vector<A> sums[M][kTileVectors];
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < kTileVectors; ++v)
      sums[i][v] = load<A>(start + i * start_step + v * kWidth<A>);
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < kTileVectors; ++v)
      __builtin_prefetch(out + i * out_step + v * kWidth<A>, 1);
  const A* column = a.data;
  for (std::int64_t d = 0; d < depth; ++d, column += a.column_step, b += kPanel<A>) {
    Vector<A> row[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) row[v] = load<A>(b + v * kWidth<A>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const A value = column[i * a.row_step];
      for (int v = 0; v < kTileVectors; ++v) sums[i][v] += value * row[v];
    }
  }
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < kTileVectors; ++v) store<A>(out + i * out_step + v * kWidth<A>, sums[i][v]);
}

// The same for any number of rows. `start_step` 0 starts every row from the same values.
template <typename A>
void matmul_panel(Matrix<A> a, std::int64_t rows, const A* b, std::int64_t depth, const A* start,
                  std::int64_t start_step, A* out, std::int64_t out_step) {
#define SEPCONV_ROWS(M)                                                     \
  for (; rows >= M; rows -= M) {                                            \
    matmul_tile<A, M>(a, b, depth, start, start_step, out, out_step);       \
    a.data += M * a.row_step;                                               \
    start += M * start_step;                                                \
    out += M * out_step;                                                    \
  }
  SEPCONV_ROWS(kTileRows)
  SEPCONV_ROWS(4)
  SEPCONV_ROWS(2)
  SEPCONV_ROWS(1)
#undef SEPCONV_ROWS
}
