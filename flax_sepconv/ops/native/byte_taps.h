// The depthwise stage in integers, for some positions of an example and a strip of kBytes lanes.
//
// The rows of x that the positions meet are copied first, with what stands for zero beyond the ends.
// Of many taps, the groups of all rows are made once, and each serves as many positions as taps have
// groups; of few taps, or where rows are far apart, groups are made where they are needed.

class ByteTaps {
 public:
  ByteTaps(const Problem& p, const QuantizedDepthwise& in, const Packed& taps)
      : p_(p), x_(in.x), zero_(static_cast<std::int8_t>(in.zero + kShift)), taps_(taps),
        spacing_(std::gcd(p.stride, kGroup * p.dilation)) {}

  // For up to so many positions at once.
  std::size_t scratch_bytes(std::int64_t positions) const {
    const std::int64_t copies = std::max(copied_rows(positions), dense_rows(positions, p_.taps));
    const bool makes = makes_groups_first(positions);
    return kBytes * (makes ? std::max(copies, dense_rows(positions, taps_.depth * kGroup)) : copies) +
           (makes ? sizeof(Group) * kBytes * group_rows(positions) : 0);
  }

  // Positions [first, first + n) of an example, a row of the result for each.
  template <typename To, typename R>
  void run(std::int64_t example, std::int64_t first, std::int64_t n, std::int64_t strip,
           const float* multipliers, const To& ending, R* to, std::int64_t to_step,
           void* scratch) const {
    const std::int64_t columns = std::min(kBytes, p_.lanes() - strip * kBytes);
    const auto run = [&](auto vectors) {
      constexpr int V = decltype(vectors)::value;
      auto* const rows = static_cast<std::int8_t*>(scratch);
      if (makes_groups_first(n))
        by_groups<V>(example, first, n, strip, multipliers, ending, to, to_step, columns, rows);
      else
        directly<V>(example, first, n, strip, multipliers, ending, to, to_step, columns, rows);
    };
    switch (ceil_div(columns, kCounts)) {
      case 1: return run(std::integral_constant<int, 1>());
      case 2: return run(std::integral_constant<int, 2>());
      case 3: return run(std::integral_constant<int, 3>());
      default: return run(std::integral_constant<int, 4>());
    }
  }

 private:
  // Rows between the first and the last that n positions meet through so many taps.
  std::int64_t dense_rows(std::int64_t n, std::int64_t taps) const {
    return (n - 1) * p_.stride + (taps - 1) * p_.dilation + 1;
  }
  // Those that are copied for `directly`: all of them, or those of each tap by themselves.
  bool is_dense(std::int64_t n) const { return dense_rows(n, p_.taps) <= n * p_.taps; }
  std::int64_t copied_rows(std::int64_t n) const {
    return std::min(dense_rows(n, p_.taps), n * p_.taps);
  }
  // Rows of groups, `spacing_` rows apart.
  std::int64_t group_rows(std::int64_t n) const {
    return ((n - 1) * p_.stride + (taps_.depth - 1) * kGroup * p_.dilation) / spacing_ + 1;
  }
  bool makes_groups_first(std::int64_t n) const {
    return taps_.depth > 1 && 3 * group_rows(n) <= 2 * n * taps_.depth;
  }

  // Rows first, first + step, ... of x.
  void copy(std::int64_t example, std::int64_t strip, std::int64_t first, std::int64_t step,
            std::int64_t count, std::int8_t* to) const {
    using Unsigned = Vector<std::uint8_t>;
    const Unsigned zero = Unsigned{} + static_cast<std::uint8_t>(zero_);
    const std::int64_t low = std::clamp<std::int64_t>(ceil_div(-first, step), 0, count);
    const std::int64_t high = std::clamp<std::int64_t>(ceil_div(p_.length - first, step), low, count);
    const std::int64_t lane = strip * kBytes, columns = std::min(kBytes, p_.lanes() - lane);
    for (std::int64_t r = 0; r < low; ++r, to += kBytes) store<std::int8_t>(to, bits_of<Bytes>(zero));
    const std::int8_t* from =
        x_ + (example * p_.length + first + low * step) * p_.channels + lane / p_.multiplier;
    for (std::int64_t r = low; r < high; ++r, to += kBytes, from += step * p_.channels) {
      const Bytes row = p_.multiplier == 1 ? load_some(from, columns) : repeated(from, lane, columns);
      store<std::int8_t>(to, spread_apart(bits_of<Bytes>(bits_of<Unsigned>(row) + zero)));
    }
    for (std::int64_t r = high; r < count; ++r, to += kBytes)
      store<std::int8_t>(to, bits_of<Bytes>(zero));
  }

  // Lanes from `lane` on, each channel's value as often as it has lanes.
  Bytes repeated(const std::int8_t* from, std::int64_t lane, std::int64_t columns) const {
    std::int8_t all[kBytes] = {};
    std::int64_t m = lane % p_.multiplier;
    for (std::int64_t j = 0; j < columns; ++j) {
      all[j] = *from;
      if (++m == p_.multiplier) m = 0, ++from;
    }
    return load<std::int8_t>(all);
  }

  template <int V, typename To, typename R>
  void directly(std::int64_t example, std::int64_t first, std::int64_t n, std::int64_t strip,
                const float* multipliers, const To& ending, R* to, std::int64_t to_step,
                std::int64_t columns, std::int8_t* rows) const {
    const std::int64_t row = first * p_.stride - p_.pad_low;
    const bool dense = is_dense(n);
    if (dense)
      copy(example, strip, row, 1, dense_rows(n, p_.taps), rows);
    else
      for (std::int64_t t = 0; t < p_.taps; ++t)
        copy(example, strip, row + t * p_.dilation, p_.stride, n, rows + t * n * kBytes);
    const std::int64_t position_step = (dense ? p_.stride : 1) * kBytes;
    const std::int64_t tap_step = (dense ? p_.dilation : n) * kBytes;
    const std::int32_t* const start = taps_.start_of(strip);
    for (std::int64_t p = 0; p < n; ++p, rows += position_step, to += to_step) {
      Dots sums[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sums[v] = begin(load<std::int32_t>(start + v * kCounts));
      const Group* taps = taps_.panel(strip);
      for (std::int64_t t = 0; t < p_.taps; t += kGroup, taps += kBytes) {
        Bytes row[kGroup];
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kGroup; ++i)  // What has no tap is multiplied with 0.
          row[i] = load<std::int8_t>(rows + std::min(t + i, p_.taps - 1) * tap_step);
        Groups groups[kParts];
        interleave<false>(row, groups);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) add_dots(sums[v], groups[v], load<Group>(taps + v * kCounts));
      }
      Counts all[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) all[v] = total(sums[v]);
      ending.template put<V>(all, multipliers, to, columns);
    }
  }

  template <int V, typename To, typename R>
  void by_groups(std::int64_t example, std::int64_t first, std::int64_t n, std::int64_t strip,
                 const float* multipliers, const To& ending, R* to, std::int64_t to_step,
                 std::int64_t columns, std::int8_t* rows) const {
    const std::int64_t copied = dense_rows(n, taps_.depth * kGroup), made = group_rows(n);
    copy(example, strip, first * p_.stride - p_.pad_low, 1, copied, rows);
    Group* const groups = reinterpret_cast<Group*>(rows + copied * kBytes);
    for (std::int64_t r = 0; r < made; ++r) {
      Bytes row[kGroup];
      for (std::int64_t i = 0; i < kGroup; ++i)
        row[i] = load<std::int8_t>(rows + (r * spacing_ + i * p_.dilation) * kBytes);
      Groups all[kParts];
      interleave<false>(row, all);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store<Group>(groups + r * kBytes + v * kCounts, all[v]);
    }
    const std::int64_t position_step = p_.stride / spacing_ * kBytes;
    const Group* from = groups;
    for (; n >= kBytePositions;
         n -= kBytePositions, from += kBytePositions * position_step, to += kBytePositions * to_step)
      tile<kBytePositions, V>(from, position_step, strip, multipliers, ending, to, to_step, columns);
    for (; n > 0; --n, from += position_step, to += to_step)
      tile<1, V>(from, position_step, strip, multipliers, ending, to, to_step, columns);
  }

  static constexpr int kBytePositions = SEPCONV_VECTOR_BYTES == 64 || (kShift == 0) ? 4 : 2;

  template <int P, int V, typename To, typename R>
  SEPCONV_INLINE void tile(const Group* from, std::int64_t position_step, std::int64_t strip,
                           const float* multipliers, const To& ending, R* to,
                           std::int64_t to_step, std::int64_t columns) const {
    const std::int64_t step = kGroup * p_.dilation / spacing_ * kBytes;
    const std::int32_t* const start = taps_.start_of(strip);
    Dots sums[P][V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
      const Counts each = load<std::int32_t>(start + v * kCounts);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sums[p][v] = begin(each);
    }
    const Group* taps = taps_.panel(strip);
    for (std::int64_t g = 0; g < taps_.depth; ++g, taps += kBytes, from += step) {
      Groups tap[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tap[v] = load<Group>(taps + v * kCounts);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
          add_dots(sums[p][v], load<Group>(from + p * position_step + v * kCounts), tap[v]);
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      Counts all[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) all[v] = total(sums[p][v]);
      ending.template put<V>(all, multipliers, to + p * to_step, columns);
    }
  }

  const Problem& p_;
  const std::int8_t* const x_;
  const std::int8_t zero_;  // what a value of x is when padding is
  const Packed taps_;
  const std::int64_t spacing_;
};
