// Matrix products of blocks that lie in the caches.

#if SEPCONV_VECTOR_BYTES == 64 || defined(__aarch64__)  // They have 32 registers.
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
      if (columns == kPanel<P>) {
        convert_row(from, panel, kPanel<P>);  // A constant number is faster.
        continue;
      }
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

// Rows of factors, `step` from one to the next.
template <typename P>
struct Panel {
  const P* data;
  std::int64_t step = kPanel<P>;
};

// Where sums start, or lie: `step` from row to row. Step 0 starts every row from the same values.
template <typename A>
struct Sums {
  A* data;
  std::int64_t step;
};

// How results are written: into the caches, or past them, whole lines, where they are too many.
enum class Write { kCached, kStreamed };

template <Write write, typename R, typename A>
SEPCONV_INLINE void write_vector(R* to, Vector<A> v) {
  if constexpr (write == Write::kStreamed && std::is_same_v<R, float>)
    stream(to, v);
  else if constexpr (write == Write::kStreamed && in_vectors<R>)
    stream_half(to, rounded<kWidth<A>>(v, R()));
  else
    store_narrow<R>(to, v);
}

// out = start + a b, activated, for M rows of a (M x depth) and V vectors of columns of b.
template <int M, int V, Write write, typename P, typename E, typename A, typename R>
SEPCONV_INLINE void product_tile(const Matrix<E>& a, Panel<P> b, std::int64_t depth,
                                 Sums<const A> start, Sums<R> out, Activation activation) {
  Vector<A> sums[M][V];
  if (start.step == 0) {
    for (int v = 0; v < V; ++v) {
      const Vector<A> first = load<A>(start.data + v * kWidth<A>);
      for (int i = 0; i < M; ++i) sums[i][v] = first;
    }
  } else {
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < V; ++v) sums[i][v] = load<A>(start.data + i * start.step + v * kWidth<A>);
  }
  if constexpr (write == Write::kCached)
    for (int i = 0; i < M; ++i)
      for (int v = 0; v < V; ++v) __builtin_prefetch(out.data + i * out.step + v * kWidth<A>, 1);
  const E* column = a.data;
  for (std::int64_t d = 0; d < depth; ++d, column += a.column_step, b.data += b.step) {
    Vector<P> row[V];
    for (int v = 0; v < V; ++v) row[v] = load<P>(b.data + v * kWidth<P>);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const P value = factor_at<P>(column + i * a.row_step);
      for (int v = 0; v < V; ++v) add_product(sums[i][v], value, row[v]);
    }
  }
  activate<A>(sums, activation);
  for (int i = 0; i < M; ++i)
    for (int v = 0; v < V; ++v)
      write_vector<write, R, A>(out.data + i * out.step + v * kWidth<A>, sums[i][v]);
}

#if defined(SEPCONV_AMX)
#include "amx_tiles.h"
#else
constexpr bool kHasAmx = false;
struct AmxInUse {};
#endif

template <int V, Write write, typename P, typename E, typename A, typename R>
void product_rows(Matrix<E> a, std::int64_t rows, Panel<P> b, std::int64_t depth,
                  Sums<const A> start, Sums<R> out, Activation activation) {
#if defined(SEPCONV_AMX)
  if constexpr (V == kTileVectors) {
    const std::int64_t done = amx_rows<write>(a, rows, b, depth, start, out, activation);
    rows -= done;
    a.data += done * a.row_step;
    start.data += done * start.step;
    out.data += done * out.step;
  }
#endif
  for (; rows >= kTileRows; rows -= kTileRows) {
    product_tile<kTileRows, V, write>(a, b, depth, start, out, activation);
    a.data += kTileRows * a.row_step;
    start.data += kTileRows * start.step;
    out.data += kTileRows * out.step;
  }
  switch (rows) {
    case 7: if constexpr (kTileRows > 7) return product_tile<7, V, write>(a, b, depth, start, out, activation); break;
    case 6: if constexpr (kTileRows > 6) return product_tile<6, V, write>(a, b, depth, start, out, activation); break;
    case 5: return product_tile<5, V, write>(a, b, depth, start, out, activation);
    case 4: return product_tile<4, V, write>(a, b, depth, start, out, activation);
    case 3: return product_tile<3, V, write>(a, b, depth, start, out, activation);
    case 2: return product_tile<2, V, write>(a, b, depth, start, out, activation);
    case 1: return product_tile<1, V, write>(a, b, depth, start, out, activation);
  }
}

// out = start + a b, activated, for any number of rows, and one panel b of which `columns` are wanted.
template <Write write = Write::kCached, typename P, typename E, typename A>
void product(Matrix<E> a, std::int64_t rows, Panel<P> b, std::int64_t depth, std::int64_t columns,
             Sums<const A> start, Sums<A> out, Activation activation = Activation::kNone) {
  do {
    const std::int64_t part = std::min(depth, kDepth);
    const Activation end = part == depth ? activation : Activation::kNone;
    if (columns > kWidth<P>)
      product_rows<kTileVectors, write>(a, rows, b, part, start, out, end);
    else
      product_rows<1, Write::kCached>(a, rows, b, part, start, out, end);
    a.data += part * a.column_step;
    b.data += part * b.step;
    start = {out.data, out.step};
    depth -= part;
  } while (depth > 0);
}

// The same, in the type of the result: by way of `spill` where tiles would write anything else. What
// is streamed has rows of whole vectors, and follows no other part of its sums.
template <typename P, typename E, typename A, typename T>
void product_into(Matrix<E> a, std::int64_t rows, Panel<P> b, std::int64_t depth,
                  std::int64_t columns, Sums<const A> start, Sums<T> out, A* spill, Write write,
                  Activation activation = Activation::kNone) {
  if constexpr (std::is_same_v<A, T>) {
    if (columns == kPanel<P> && write == Write::kStreamed)
      return product<Write::kStreamed>(a, rows, b, depth, columns, start, out, activation);
    if (columns == columns_written<P>(columns))
      return product(a, rows, b, depth, columns, start, out, activation);
  }
  if constexpr (in_vectors<T>) {
    if (columns == columns_written<P>(columns) && depth <= kDepth)
      return columns <= kWidth<P> ? product_rows<1, Write::kCached>(a, rows, b, depth, start, out, activation)
             : write == Write::kStreamed
                 ? product_rows<kTileVectors, Write::kStreamed>(a, rows, b, depth, start, out, activation)
                 : product_rows<kTileVectors, Write::kCached>(a, rows, b, depth, start, out, activation);
  }
  const Sums<A> sums{spill, kPanel<P>};
  product(a, rows, b, depth, columns, start, sums, activation);
  for (std::int64_t r = 0; r < rows; ++r)
    convert_row(spill + r * kPanel<P>, out.data + r * out.step, columns);
}
