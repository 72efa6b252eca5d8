// Panels: a block of rows and lanes copied together, converted, with zeros beyond the ends.

// An array (batch, rows, columns), `step` from row to row, of which each column is read, or written,
// `repeats` times; a part of one begins with row `first_row` of example `first_batch`.
template <typename T>
struct Rows {
  T* data;
  std::int64_t rows, columns, step, repeats;
  std::int64_t first_batch = 0, first_row = 0;

  std::int64_t lanes() const { return columns * repeats; }
  T* row(std::int64_t batch, std::int64_t row) const {
    return data + ((batch - first_batch) * rows + row - first_row) * step;
  }
};

// Lanes [lane, lane + lanes), whole columns, of `fold` neighbouring examples, side by side.
struct Strip {
  std::int64_t batch, fold, lane, lanes;

  std::int64_t width() const { return fold * lanes; }
};

// The columns of a panel: whole vectors.
template <typename A>
std::int64_t padded_width(std::int64_t lanes) {
  const std::int64_t tile = lanes > kWidth<A> ? kVectors * kWidth<A> : kWidth<A>;
  return ceil_div(lanes, tile) * tile;
}

// Ask for the cache lines of values that are needed soon.
template <typename T>
SEPCONV_INLINE void prefetch(const T* from, std::int64_t n) {
  for (std::int64_t j = 0; j < n; j += 64 / sizeof(T)) __builtin_prefetch(from + j);
}

// Call f with the number of repeats, as a constant where it is a usual one.
template <typename F>
SEPCONV_INLINE void with_repeats(std::int64_t repeats, F f) {
  switch (repeats) {
    case 1: return f(std::integral_constant<std::int64_t, 1>());
    case 2: return f(std::integral_constant<std::int64_t, 2>());
    case 3: return f(std::integral_constant<std::int64_t, 3>());
    case 4: return f(std::integral_constant<std::int64_t, 4>());
    default: return f(repeats);
  }
}

// Each value `repeats` times.
template <typename A, typename T, typename N>
SEPCONV_INLINE void spread(const T* from, A* to, std::int64_t columns, N repeats) {
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t m = 0; m < repeats; ++m) to[c * repeats + m] = convert<A>(from[c]);
}

// The sums over repeats.
template <typename A, typename R, typename N>
SEPCONV_INLINE void gather(const A* from, R* to, std::int64_t columns, N repeats) {
  for (std::int64_t c = 0; c < columns; ++c) {
    A sum = from[c * repeats];
    for (std::int64_t m = 1; m < repeats; ++m) sum += from[c * repeats + m];
    to[c] = convert<R>(sum);
  }
}

// Copy rows [first, last) of the strip into a panel of `width` columns.
template <typename A, typename T>
void pack(const Rows<const T>& from, const Strip& strip, std::int64_t first, std::int64_t last,
          A* panel, std::int64_t width) {
  for (std::int64_t row = first; row < last; ++row, panel += width) {
    if (row < 0 || row >= from.rows) {
      std::fill(panel, panel + width, A{0});
      continue;
    }
    A* to = panel;
    for (std::int64_t i = 0; i < strip.fold; ++i, to += strip.lanes) {
      const T* source = from.row(strip.batch + i, row);
      source += strip.lane / from.repeats;
      with_repeats(from.repeats, [&](auto repeats) {
        spread(source, to, strip.lanes / from.repeats, repeats);
      });
      // The strip beside it comes next.
      prefetch(source + strip.lanes / from.repeats, strip.lanes / from.repeats);
    }
    std::fill(to, panel + width, A{0});
  }
}

// Write one panel row per position, or, where a column has repeats, the sums over them.
template <typename A, typename R>
void unpack(const A* panel, std::int64_t width, const Strip& strip, std::int64_t first,
            std::int64_t last, const Rows<R>& to) {
  for (std::int64_t row = first; row < last; ++row, panel += width) {
    const A* from = panel;
    for (std::int64_t i = 0; i < strip.fold; ++i, from += strip.lanes) {
      R* target = to.row(strip.batch + i, row) + strip.lane / to.repeats;
      with_repeats(to.repeats, [&](auto repeats) {
        gather(from, target, strip.lanes / to.repeats, repeats);
      });
    }
  }
}
