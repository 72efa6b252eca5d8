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
SEPCONV_INLINE void ask_for(const T* from, std::int64_t n) {
  for (std::int64_t j = 0; j < n; j += 64 / sizeof(T)) __builtin_prefetch(from + j);
}

// What is packed next, asked for row by row while the tiles before it are computed: all at once,
// the requests would wait for one another.
template <typename T>
struct Coming {
  const T* row = nullptr;
  std::int64_t step = 0, columns = 0, rows = 0, rows_a_time = 0;

  SEPCONV_INLINE void ask(std::int64_t positions) {
    for (std::int64_t n = std::min(rows, positions * rows_a_time); n > 0; --n, --rows, row += step)
      ask_for(row, columns);
  }
};

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

// Copy rows [first, last) of the strip, all in range, into a panel of `width` columns.
template <typename A, typename T, typename N>
SEPCONV_INLINE void pack_rows(const Rows<const T>& from, const Strip& strip, std::int64_t first,
                              std::int64_t last, A* panel, std::int64_t width, N repeats) {
  const std::int64_t columns = strip.lanes / repeats;
  for (std::int64_t i = 0; i < strip.fold; ++i) {
    const T* source = from.row(strip.batch + i, first) + strip.lane / repeats;
    A* to = panel + i * strip.lanes;
    for (std::int64_t row = first; row < last; ++row, source += from.step, to += width) {
      if (std::is_same_v<A, T> && repeats == 1 && columns % kWidth<A> == 0) {
        for (std::int64_t j = 0; j < columns; j += kWidth<A>)
          store<A>(to + j, load<A>(reinterpret_cast<const A*>(source) + j));
      } else {
        spread(source, to, columns, repeats);
      }
    }
  }
  for (std::int64_t row = first; strip.width() < width && row < last; ++row, panel += width)
    std::fill(panel + strip.width(), panel + width, A{0});
}

// Copy rows [first, last) of the strip, with zeros for those out of range.
template <typename A, typename T>
void pack(const Rows<const T>& from, const Strip& strip, std::int64_t first, std::int64_t last,
          A* panel, std::int64_t width) {
  if (first >= last) return;
  const std::int64_t low = std::clamp<std::int64_t>(0, first, last);
  const std::int64_t high = std::clamp(from.rows, low, last);
  std::fill(panel, panel + (low - first) * width, A{0});
  with_repeats(from.repeats, [&](auto repeats) {
    pack_rows(from, strip, low, high, panel + (low - first) * width, width, repeats);
  });
  std::fill(panel + (high - first) * width, panel + (last - first) * width, A{0});
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
