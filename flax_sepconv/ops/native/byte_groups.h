// Rows of bytes packed into groups: the taps of lanes, the weights of filters.

// A group of ones, which add up the other factors.
constexpr Group kOnes = kGroup == 4 ? 0x01010101u : 0x00010001u;

inline std::int64_t groups_of(std::int64_t terms) { return ceil_div(terms, kGroup); }
inline std::int64_t panels_of_bytes(std::int64_t columns) { return ceil_div(columns, kBytes); }

// A panel: up to kBytes columns of all rows of a matrix, `step` from row to row; zeros beyond the
// ends. `start` (kBytes) is what sums begin with if their other factors have `zero` and kShift added:
// the bias, null where there is none, less what these add.
inline void pack_groups(const std::int8_t* from, std::int64_t step, std::int64_t rows,
                        std::int64_t columns, std::int32_t zero, const std::int32_t* bias,
                        Group* panel, std::int32_t* start) {
  Dots sums[kParts];
  for (Dots& sum : sums) sum = begin(Counts{});
  constexpr std::int64_t ahead = 16;  // From row to row it may be far.
  for (std::int64_t first = 0; first < rows; first += kGroup, panel += kBytes) {
    for (std::int64_t i = ahead; i < std::min(ahead + kGroup, rows - first); ++i)
      __builtin_prefetch(from + (first + i) * step);
    Bytes row[kGroup];
    for (std::int64_t i = 0; i < kGroup; ++i)
      row[i] = first + i < rows ? spread_apart(load_some(from + (first + i) * step, columns)) : Bytes{};
    Groups groups[kParts];
    interleave<true>(row, groups);
    for (int v = 0; v < kParts; ++v) {
      store<Group>(panel + v * kCounts, groups[v]);
      add_dots(sums[v], Groups{} + kOnes, groups[v]);
    }
  }
  std::int32_t biases[kBytes] = {};
  if (bias != nullptr) std::copy(bias, bias + std::min(columns, kBytes), biases);
  const Groups added = Groups{} + static_cast<Group>(zero + kShift);
  for (int v = 0; v < kParts; ++v) {
    const Groups less = added * bits_of<Groups>(total(sums[v]));
    const Groups all = load<Group>(reinterpret_cast<const Group*>(biases) + v * kCounts) - less;
    store<std::int32_t>(start + v * kCounts, bits_of<Counts>(all));
  }
}

// Packed: the panels of a matrix one after the other, and where their sums start.
struct Packed {
  const Group* groups;
  const std::int32_t* start;
  std::int64_t depth;  // groups of a column

  const Group* panel(std::int64_t p) const { return groups + p * depth * kBytes; }
  const std::int32_t* start_of(std::int64_t p) const { return start + p * kBytes; }
};

// Some floats of a row from column `first` on, as many as a panel has columns: where they lie, or,
// if there are not so many, copied, with zeros behind them.
inline const float* panel_of_floats(const float* row, std::int64_t first, std::int64_t columns,
                                    float* copy) {
  if (first + kBytes <= columns) return row + first;
  std::fill(copy, copy + kBytes, 0.0f);
  std::copy(row + first, row + columns, copy);
  return copy;
}
