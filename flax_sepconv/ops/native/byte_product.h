// Products of blocks of h, which lie in the caches, with panels of weights.

// Rows of a tile: its sums, a panel's groups and one value fill the registers.
constexpr int kByteRows = kManyRegisters ? 6 : 2;

// Rows of h, `step` values from one to the next.
struct HiddenRows {
  const Value* data;
  std::int64_t step;
};

// M rows of V vectors of a panel's columns.
template <int M, int V, typename To, typename R>
SEPCONV_INLINE void byte_tile(const HiddenRows& h, const Group* panel, std::int64_t depth,
                              const std::int32_t* start, const float* multipliers, const To& ending,
                              R* to, std::int64_t to_step, std::int64_t columns) {
  Dots sums[M][V];
#pragma GCC unroll 8
  for (int v = 0; v < V; ++v) {
    const Counts first = load<std::int32_t>(start + v * kCounts);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) sums[i][v] = begin(first);
  }
  const Value* term = h.data;
  for (std::int64_t d = 0; d < depth; ++d, term += kGroup, panel += kBytes) {
    Groups column[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) column[v] = load<Group>(panel + v * kCounts);
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      Group value;
      __builtin_memcpy(&value, term + i * h.step, sizeof value);
      const Groups everywhere = Groups{} + value;
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) add_dots(sums[i][v], everywhere, column[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i) {
    Counts all[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) all[v] = total(sums[i][v]);
    ending.template put<V>(all, multipliers, to + i * to_step, columns);
  }
}

template <int V, typename To, typename R>
void byte_rows(HiddenRows h, std::int64_t rows, const Group* panel, std::int64_t depth,
               const std::int32_t* start, const float* multipliers, const To& ending, R* to,
               std::int64_t to_step, std::int64_t columns) {
#define SEPCONV_TILE(M) \
  byte_tile<M, V>(h, panel, depth, start, multipliers, ending, to, to_step, columns)
  for (; rows >= kByteRows; rows -= kByteRows) {
    SEPCONV_TILE(kByteRows);
    h.data += kByteRows * h.step;
    to += kByteRows * to_step;
  }
  switch (rows) {
    case 5: if constexpr (kByteRows > 5) SEPCONV_TILE(5); break;
    case 4: if constexpr (kByteRows > 4) SEPCONV_TILE(4); break;
    case 3: if constexpr (kByteRows > 3) SEPCONV_TILE(3); break;
    case 2: if constexpr (kByteRows > 2) SEPCONV_TILE(2); break;
    case 1: SEPCONV_TILE(1); break;
  }
#undef SEPCONV_TILE
}

// Any number of rows by one panel, of which `columns` are wanted.
template <typename To, typename R>
void byte_product(HiddenRows h, std::int64_t rows, const Group* panel, std::int64_t depth,
                  const std::int32_t* start, const float* multipliers, const To& ending, R* to,
                  std::int64_t to_step, std::int64_t columns) {
  const auto run = [&](auto vectors) {
    byte_rows<decltype(vectors)::value>(h, rows, panel, depth, start, multipliers, ending, to,
                                        to_step, columns);
  };
  switch (ceil_div(columns, kCounts)) {
    case 1: return run(std::integral_constant<int, 1>());
    case 2: return run(std::integral_constant<int, 2>());
    case 3: return run(std::integral_constant<int, 3>());
    default: return run(std::integral_constant<int, 4>());
  }
}
