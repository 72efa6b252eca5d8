// Panels: a block of rows and lanes copied together, converted, with zeros beyond the ends.

// An array (batch, rows, columns), `step` from row to row, of which each column is read, or written,
// `repeats` times; a part of one begins with row `first_row` of example `first_batch`.
template <typename T>
struct Rows {
  T* data;
  std::int64_t rows, columns, step, repeats;
  std::int64_t first_batch = 0, first_row = 0;
  const Part* parts = nullptr;  // of each example, where these are not whole
  std::int64_t held = 0;        // rows of each example in memory, where these are not all

  std::int64_t lanes() const { return columns * repeats; }
  // Some lanes of all rows, whole columns.
  Rows of_lanes(std::int64_t lane, std::int64_t lanes) const {
    Rows part = *this;
    part.data += lane / repeats;
    part.columns = lanes / repeats;
    return part;
  }
  T* row(std::int64_t batch, std::int64_t row) const {
    if (parts != nullptr) return data + (parts[batch].origin + row - parts[batch].shift) * step;
    return data + ((batch - first_batch) * (held > 0 ? held : rows) + row - first_row) * step;
  }
  // The rows that an example has.
  std::int64_t first(std::int64_t batch) const { return parts == nullptr ? 0 : parts[batch].shift; }
  std::int64_t end(std::int64_t batch) const { return parts == nullptr ? rows : parts[batch].end(); }
  bool has(std::int64_t batch, std::int64_t row) const {
    return parts == nullptr || (row >= first(batch) && row < end(batch));
  }
  // Of rows [low, high), those that any of some neighbouring examples has.
  std::pair<std::int64_t, std::int64_t> cut(std::int64_t batch, std::int64_t fold,
                                            std::int64_t low, std::int64_t high) const {
    if (parts == nullptr) return {low, high};
    std::int64_t begin = high, last = low;
    for (std::int64_t b = batch; b < batch + fold; ++b) {
      if (parts[b].count == 0) continue;
      begin = std::min(begin, first(b));
      last = std::max(last, end(b));
    }
    low = std::clamp(begin, low, high);
    return {low, std::clamp(last, low, high)};
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

// How many examples of few lanes had better lie side by side: as many as fill the vectors best.
template <typename A>
std::int64_t examples_side_by_side(std::int64_t lanes, std::int64_t batch) {
  constexpr std::int64_t tile = kVectors * kWidth<A>;
  std::int64_t best = 1;
  if (lanes >= tile) return best;
  for (std::int64_t n = 2; n <= batch && n * lanes <= 2 * tile; ++n)
    if (padded_width<A>(n * lanes) * best < padded_width<A>(best * lanes) * n) best = n;
  return best;
}

template <typename A, typename... Others>
constexpr bool is_all = (std::is_same_v<A, Others> && ...);

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
  if (repeats == 1) return convert_row(from, to, columns);
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t m = 0; m < repeats; ++m) to[c * repeats + m] = convert<A>(from[c]);
}

// The sums over repeats.
template <typename A, typename R, typename N>
SEPCONV_INLINE void gather(const A* from, R* to, std::int64_t columns, N repeats) {
  if (repeats == 1) return convert_row(from, to, columns);
  for (std::int64_t c = 0; c < columns; ++c) {
    A sum = from[c * repeats];
    for (std::int64_t m = 1; m < repeats; ++m) sum += from[c * repeats + m];
    to[c] = convert<R>(sum);
  }
}

// Copy rows [first, last) of the strip, all in range, into a panel with rows of `width`.
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
}

// Copy rows [first, last) of the strip, with zeros for those out of range.
template <typename A, typename T>
void pack(const Rows<const T>& from, const Strip& strip, std::int64_t first, std::int64_t last,
          A* panel, std::int64_t width) {
  if (first >= last) return;
  const auto copy = [&](const Strip& own, A* columns) {
    const std::int64_t low = std::clamp(from.first(own.batch), first, last);
    const std::int64_t high = std::clamp(from.end(own.batch), low, last);
    with_repeats(from.repeats, [&](auto repeats) {
      pack_rows(from, own, low, high, columns + (low - first) * width, width, repeats);
    });
    return std::make_pair(low, high);
  };
  if (from.parts != nullptr && strip.fold > 1) {  // Each example has rows of its own.
    std::fill(panel, panel + (last - first) * width, A{0});
    for (std::int64_t i = 0; i < strip.fold; ++i)
      copy({strip.batch + i, 1, strip.lane, strip.lanes}, panel + i * strip.lanes);
    return;
  }
  const auto [low, high] = copy(strip, panel);
  std::fill(panel, panel + (low - first) * width, A{0});
  for (std::int64_t row = low; strip.width() < width && row < high; ++row)
    std::fill(panel + (row - first) * width + strip.width(), panel + (row - first + 1) * width,
              A{0});
  std::fill(panel + (high - first) * width, panel + (last - first) * width, A{0});
}

// Write one panel row per position, or, where a column has repeats, the sums over them.
template <typename A, typename R>
void unpack(const A* panel, std::int64_t width, const Strip& strip, std::int64_t first,
            std::int64_t last, const Rows<R>& to) {
  for (std::int64_t row = first; row < last; ++row, panel += width) {
    const A* from = panel;
    for (std::int64_t i = 0; i < strip.fold; ++i, from += strip.lanes) {
      if (!to.has(strip.batch + i, row)) continue;
      R* target = to.row(strip.batch + i, row) + strip.lane / to.repeats;
      with_repeats(to.repeats, [&](auto repeats) {
        gather(from, target, strip.lanes / to.repeats, repeats);
      });
    }
  }
}
