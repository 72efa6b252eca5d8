// Rows of x in strips of kBytes lanes.

// A strip of the lanes of an example: row r is what stands `origin` + r rows behind its first one, and
// `padding` beyond the ends.
struct RowsOfExample {
  const std::int8_t* data;  // row 0 of the example, at the first channel of the strip
  const std::int8_t padding;
  std::int64_t origin, rows, step, columns, multiplier, lane;

  RowsOfExample(const Problem& p, const QuantizedDepthwise& in, std::int64_t example,
                std::int64_t origin, std::int64_t strip)
      : data(in.x + example * p.length * p.channels + strip * kBytes / p.multiplier),
        padding(static_cast<std::int8_t>(in.zero)), origin(origin),
        rows(p.length), step(p.channels), columns(std::min(kBytes, p.lanes() - strip * kBytes)),
        multiplier(p.multiplier), lane(strip * kBytes % p.multiplier) {}

  SEPCONV_INLINE Bytes operator()(std::int64_t r) const {
    const std::int64_t row = origin + r;
    if (row < 0 || row >= rows) return Bytes{} + padding;
    const std::int8_t* const from = data + row * step;
    if (multiplier == 1) return load_some(from, columns);
    return multiplier == 2 && columns == kBytes ? doubled(from) : repeated(from);
  }

 private:
  static Bytes doubled(const std::int8_t* from) {
    typedef std::uint8_t Half __attribute__((vector_size(kBytes / 2)));
    Half half;
    __builtin_memcpy(&half, from, sizeof half);
    const auto wide = __builtin_convertvector(half, Vector<std::uint16_t>);
    return bits_of<Bytes>(wide | wide << 8);
  }
  // Each channel's value as often as it has lanes.
  Bytes repeated(const std::int8_t* from) const {
    constexpr std::int64_t at_once = 8;
    constexpr std::uint64_t times = 0x0101010101010101u;
    std::int8_t all[kBytes + 3 * at_once] = {};
    const std::int64_t last = lane + columns;
    if (multiplier <= at_once) {
      std::int8_t* to = all;
      for (std::int64_t j = 0; j < last; j += multiplier, to += multiplier, ++from) {
        const std::uint64_t same = static_cast<std::uint8_t>(*from) * times;
        __builtin_memcpy(to, &same, sizeof same);
      }
      return load<std::int8_t>(all + lane);
    }
    for (std::int64_t j = 0, left = multiplier - lane; j < columns; ++from, left = multiplier)
      for (; left > 0 && j < columns; --left, ++j) all[j] = *from;
    return load<std::int8_t>(all);
  }
};

// Rows that were copied, each a whole strip.
struct CopiedRows {
  const std::int8_t* data;

  SEPCONV_INLINE Bytes operator()(std::int64_t r) const {
    return load<std::int8_t>(data + r * kBytes);
  }
};

// Copy `lanes` values of each row, `to_step` and `from_step` from one to the next.
template <typename T>
SEPCONV_INLINE void copy_lanes(const T* from, std::int64_t from_step, T* to, std::int64_t to_step,
                               std::int64_t lanes, std::int64_t rows) {
  const auto copy = [=](auto n) {
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t j = 0; j < n; ++j) to[r * to_step + j] = from[r * from_step + j];
  };
  switch (lanes) {
    case 1: return copy(std::integral_constant<std::int64_t, 1>());
    case 2: return copy(std::integral_constant<std::int64_t, 2>());
    case 3: return copy(std::integral_constant<std::int64_t, 3>());
    case 4: return copy(std::integral_constant<std::int64_t, 4>());
    case 8: return copy(std::integral_constant<std::int64_t, 8>());
    case 16: return copy(std::integral_constant<std::int64_t, 16>());
    case 32: return copy(std::integral_constant<std::int64_t, 32>());
    default: return copy(lanes);
  }
}
