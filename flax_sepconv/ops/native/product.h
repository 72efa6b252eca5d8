// Matrix products of blocks that lie in the caches.

#if SEPCONV_VECTOR_BYTES == 64
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 6;
#endif
constexpr int kTileVectors = 2;

// Terms of a product that are added up before the sums so far are read again.
constexpr std::int64_t kDepth = 512;

// The type that values of type T are multiplied in: one value, or two of 16 bits where the
// processor adds the products of two pairs.
template <typename T>
struct FactorOf {
  using type = Accumulator<T>;
};
using Pair = std::uint32_t;
#if defined(SEPCONV_BF16_PAIRS)
template <>
struct FactorOf<bfloat16> {
  using type = Pair;
};
#endif
template <typename T>
using Factor = typename FactorOf<T>::type;

// Terms of the sum in one factor.
template <typename P>
constexpr std::int64_t kTerms = std::is_same_v<P, Pair> ? 2 : 1;

template <typename P>
std::int64_t factors(std::int64_t terms) {
  return ceil_div(terms, kTerms<P>);
}

template <typename A>
SEPCONV_INLINE void add_product(Vector<A>& sums, A a, Vector<A> b) {
  sums += a * b;
}
#if defined(SEPCONV_BF16_PAIRS)
SEPCONV_INLINE void add_product(Vector<float>& sums, Pair a, Vector<Pair> b) {
  SEPCONV_BF16_PAIRS(sums, a, b);
}
#endif

// Columns of a panel: those that one tile computes.
template <typename P>
constexpr std::int64_t kPanel = kTileVectors * kWidth<P>;

template <typename P>
std::int64_t panels_of(std::int64_t columns) {
  return ceil_div(columns, kPanel<P>);
}

// Columns that tiles write of a panel of which so many are wanted.
template <typename P>
std::int64_t columns_written(std::int64_t columns) {
  return columns > kWidth<P> ? kPanel<P> : kWidth<P>;
}

// Two values of 16 bits, one after the other.
template <typename T>
SEPCONV_INLINE Pair paired(T first, T second) {
  return first.bits | static_cast<Pair>(second.bits) << 16;
}

// Copy `rows` rows of some columns, `step` from row to row; zeros beyond the last column, up to
// `width`. Where factors are pairs, those of two neighbouring rows.
template <typename P, typename T>
void pack_columns(const T* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                  P* panel, std::int64_t width = kPanel<P>) {
  if constexpr (kTerms<P> == 2) {
    for (std::int64_t r = 0; r < rows; r += 2, from += 2 * step, panel += width) {
      if (r + 1 < rows)
        for (std::int64_t j = 0; j < columns; ++j) panel[j] = paired(from[j], from[step + j]);
      else
        for (std::int64_t j = 0; j < columns; ++j) panel[j] = paired(from[j], T{0});
      std::fill(panel + columns, panel + width, P{0});
    }
  } else {
    for (std::int64_t r = 0; r < rows; ++r, from += step, panel += width) {
      convert_row(from, panel, columns);
      std::fill(panel + columns, panel + width, P{0});
    }
  }
}

// The same for columns that lie as rows: `step` from column to column.
template <typename P, typename T>
void pack_rows_as_columns(const T* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                          P* panel) {
  constexpr std::int64_t block = 16;
  std::fill(panel, panel + factors<P>(rows) * kPanel<P>, P{0});
  for (std::int64_t first = 0; first < rows; first += block) {
    const std::int64_t last = std::min(rows, first + block);
    for (std::int64_t j = 0; j < columns; ++j) {
      const T* row = from + j * step;
      for (std::int64_t r = first; r < last; r += kTerms<P>) {
        if constexpr (kTerms<P> == 2)
          panel[r / 2 * kPanel<P> + j] = paired(row[r], r + 1 < rows ? row[r + 1] : T{0});
        else
          panel[r * kPanel<P> + j] = convert<P>(row[r]);
      }
    }
  }
}

// A matrix of factors in memory: (i, j) begins with data[i * row_step + j * column_step].
template <typename E>
struct Matrix {
  const E* data;
  std::int64_t row_step, column_step;
};

template <typename P, typename E>
SEPCONV_INLINE P factor_at(const E* from) {
  P value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

// out = start + a b for M rows of a (M x depth) and V vectors of columns of a panel b.
template <typename P, int M, int V, typename E, typename A>
SEPCONV_INLINE void product_tile(const Matrix<E>& a, const P* b, std::int64_t depth, const A* start,
                                 std::int64_t start_step, A* out, std::int64_t out_step) {
  Vector<A> sums[M][V];
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < V; ++v) sums[i][v] = load<A>(start + i * start_step + v * kWidth<A>);
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < V; ++v) __builtin_prefetch(out + i * out_step + v * kWidth<A>, 1);
  const E* column = a.data;
  for (std::int64_t d = 0; d < depth; ++d, column += a.column_step, b += kPanel<P>) {
    Vector<P> row[V];
    for (int v = 0; v < V; ++v) row[v] = load<P>(b + v * kWidth<P>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const P value = factor_at<P>(column + i * a.row_step);
      for (int v = 0; v < V; ++v) add_product(sums[i][v], value, row[v]);
    }
  }
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < V; ++v) store<A>(out + i * out_step + v * kWidth<A>, sums[i][v]);
}

// Where sums start, or lie: `step` from row to row. Step 0 starts every row from the same values.
template <typename A>
struct Sums {
  A* data;
  std::int64_t step;
};

template <typename P, int V, typename E, typename A>
void product_rows(Matrix<E> a, std::int64_t rows, const P* b, std::int64_t depth,
                  Sums<const A> start, Sums<A> out) {
#define SEPCONV_ROWS(M)                                                                      \
  for (; rows >= M; rows -= M) {                                                             \
    product_tile<P, M, V>(a, b, depth, start.data, start.step, out.data, out.step);          \
    a.data += M * a.row_step;                                                                \
    start.data += M * start.step;                                                            \
    out.data += M * out.step;                                                                \
  }
  SEPCONV_ROWS(kTileRows)
  SEPCONV_ROWS(4)
  SEPCONV_ROWS(2)
  SEPCONV_ROWS(1)
#undef SEPCONV_ROWS
}

// out = start + a b for any number of rows, and one panel b of which `columns` are wanted.
template <typename P, typename E, typename A>
void product(Matrix<E> a, std::int64_t rows, const P* b, std::int64_t depth, std::int64_t columns,
             Sums<const A> start, Sums<A> out) {
  do {
    const std::int64_t part = std::min(depth, kDepth);
    if (columns > kWidth<P>)
      product_rows<P, kTileVectors>(a, rows, b, part, start, out);
    else
      product_rows<P, 1>(a, rows, b, part, start, out);
    a.data += part * a.column_step;
    b += part * kPanel<P>;
    start = {out.data, out.step};
    depth -= part;
  } while (depth > 0);
}

// The same, in the type of the result: by way of `spill` where tiles would write anything else.
template <typename P, typename E, typename A, typename T>
void product_into(Matrix<E> a, std::int64_t rows, const P* b, std::int64_t depth,
                  std::int64_t columns, Sums<const A> start, Sums<T> out, A* spill) {
  if constexpr (std::is_same_v<A, T>) {
    if (columns == columns_written<P>(columns)) return product(a, rows, b, depth, columns, start, out);
  }
  const Sums<A> sums{spill, kPanel<P>};
  product(a, rows, b, depth, columns, start, sums);
  for (std::int64_t r = 0; r < rows; ++r)
    convert_row(spill + r * kPanel<P>, out.data + r * out.step, columns);
}
