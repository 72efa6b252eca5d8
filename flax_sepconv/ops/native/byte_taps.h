// The depthwise stage in integers, for some positions and a strip of kBytes lanes.
//
// Of many taps, the groups of all rows are made once, and each serves as many positions as taps have
// groups; of few taps, or where rows are far apart, groups are made where they are needed.

// Where the results of neighbouring positions go, and what they become.
template <typename To, typename R>
struct Target {
  const float* multipliers;
  const To& ending;
  R* to;
  std::int64_t step, columns;

  template <int V>
  SEPCONV_INLINE void put(std::int64_t p, const Dots (&sums)[V]) const {
    Counts all[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) all[v] = total(sums[v]);
    ending.template put<V>(all, multipliers, to + p * step, columns);
  }
};

class ByteTaps {
 public:
  ByteTaps(const Problem& p, std::int32_t zero, const Packed& taps)
      : zero_(static_cast<std::uint8_t>(zero + kShift)), stride_(p.stride), dilation_(p.dilation),
        count_(p.taps), taps_(taps), spacing_(std::gcd(p.stride, kGroup * p.dilation)),
        in_turn_(p.dilation == 1 && spacing_ == 1) {}

  // Rows between the first and the last that n positions meet.
  std::int64_t rows_met(std::int64_t n) const { return rows_between(n, count_); }

  // For up to so many positions at once.
  std::size_t scratch_bytes(std::int64_t n) const {
    const std::int64_t whole = rows_between(n, taps_.depth * kGroup);
    return kBytes * (may_make_groups() ? std::max(whole, copied_rows(n)) : copied_rows(n)) +
           (may_make_groups() ? sizeof(Group) * kBytes * group_rows(n) : 0);
  }

  // n positions; the first meets row 0 of `rows` through the first tap.
  template <typename Source, typename To, typename R>
  void run(const Source& rows, std::int64_t n, std::int64_t strip, const Target<To, R>& target,
           void* scratch) const {
    const auto run = [&](auto vectors) {
      constexpr int V = decltype(vectors)::value;
      auto* const copies = static_cast<std::int8_t*>(scratch);
      if (in_turn_ && stride_ == 1 && taps_.depth == 1)
        by_turns<V>(rows, n, strip, target);
      else if (makes_groups_first(n))
        by_groups<V>(rows, n, strip, target, copies);
      else
        directly<V>(rows, n, strip, target, copies);
    };
    switch (ceil_div(target.columns, kCounts)) {
      case 1: return run(std::integral_constant<int, 1>());
      case 2: return run(std::integral_constant<int, 2>());
      case 3: return run(std::integral_constant<int, 3>());
      default: return run(std::integral_constant<int, 4>());
    }
  }

 private:
  std::int64_t rows_between(std::int64_t n, std::int64_t taps) const {
    return (n - 1) * stride_ + (taps - 1) * dilation_ + 1;
  }
  // Those that `directly` copies: all of them, or those of each tap by themselves.
  bool is_dense(std::int64_t n) const { return rows_met(n) <= n * count_; }
  std::int64_t copied_rows(std::int64_t n) const { return std::min(rows_met(n), n * count_); }
  // Rows of groups, `spacing_` rows apart.
  std::int64_t group_rows(std::int64_t n) const {
    return ((n - 1) * stride_ + (taps_.depth - 1) * kGroup * dilation_) / spacing_ + 1;
  }
  bool may_make_groups() const { return taps_.depth > 1; }
  bool makes_groups_first(std::int64_t n) const {
    return may_make_groups() && 3 * group_rows(n) <= 2 * n * taps_.depth;
  }

  // What of a row is multiplied: padding, which is 0, becomes zero_.
  SEPCONV_INLINE Bytes ready(Bytes row) const {
    using Unsigned = Vector<std::uint8_t>;
    return spread_apart(bits_of<Bytes>(bits_of<Unsigned>(row) + zero_));
  }
  template <typename Source>
  void copy(const Source& rows, std::int64_t first, std::int64_t step, std::int64_t n,
            std::int8_t* to) const {
    for (std::int64_t r = 0; r < n; ++r) store<std::int8_t>(to + r * kBytes, ready(rows(first + r * step)));
  }

  // Call f(r, groups) for n neighbouring rows of groups.
  template <typename Source, typename F>
  SEPCONV_INLINE void each_in_turn(const Source& rows, std::int64_t n, F f) const {
    Bytes row = ready(rows(0));
    Pairs pairs[kGroup - 1];
#pragma GCC unroll 4
    for (std::int64_t i = 0; i + 1 < kGroup; ++i) {
      const Bytes next = ready(rows(i + 1));
      pairs[i] = paired_bytes(row, next);
      row = next;
    }
    for (std::int64_t r = 0;;) {
      Groups groups[kParts];
      make_groups<false>(pairs[0], pairs[kGroup - 2], groups);
      f(r, groups);
      if (++r == n) return;
#pragma GCC unroll 4
      for (std::int64_t i = 0; i + 2 < kGroup; ++i) pairs[i] = pairs[i + 1];
      const Bytes next = ready(rows(r + kGroup - 1));
      pairs[kGroup - 2] = paired_bytes(row, next);
      row = next;
    }
  }

  template <int V>
  SEPCONV_INLINE void start(std::int64_t strip, Dots (&sums)[V]) const {
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v)
      sums[v] = begin(load<std::int32_t>(taps_.start_of(strip) + v * kCounts));
  }

  // One group of taps.
  template <int V, typename Source, typename To, typename R>
  void by_turns(const Source& rows, std::int64_t n, std::int64_t strip,
                const Target<To, R>& target) const {
    Groups tap[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) tap[v] = load<Group>(taps_.panel(strip) + v * kCounts);
    each_in_turn(rows, n, [&](std::int64_t p, const Groups (&groups)[kParts]) {
      Dots sums[V];
      start(strip, sums);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) add_dots(sums[v], groups[v], tap[v]);
      target.put(p, sums);
    });
  }

  template <int V, typename Source, typename To, typename R>
  void directly(const Source& rows, std::int64_t n, std::int64_t strip,
                const Target<To, R>& target, std::int8_t* copies) const {
    const bool dense = is_dense(n);
    if (dense)
      copy(rows, 0, 1, rows_met(n), copies);
    else
      for (std::int64_t t = 0; t < count_; ++t)
        copy(rows, t * dilation_, stride_, n, copies + t * n * kBytes);
    const std::int64_t position_step = (dense ? stride_ : 1) * kBytes;
    const std::int64_t tap_step = (dense ? dilation_ : n) * kBytes;
    for (std::int64_t p = 0; p < n; ++p, copies += position_step) {
      Dots sums[V];
      start(strip, sums);
      const Group* taps = taps_.panel(strip);
      for (std::int64_t t = 0; t < count_; t += kGroup, taps += kBytes) {
        Bytes row[kGroup];
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kGroup; ++i)  // What has no tap is multiplied with 0.
          row[i] = load<std::int8_t>(copies + std::min(t + i, count_ - 1) * tap_step);
        Groups groups[kParts];
        interleave<false>(row, groups);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) add_dots(sums[v], groups[v], load<Group>(taps + v * kCounts));
      }
      target.put(p, sums);
    }
  }

  template <int V, typename Source, typename To, typename R>
  void by_groups(const Source& rows, std::int64_t n, std::int64_t strip,
                 const Target<To, R>& target, std::int8_t* copies) const {
    const std::int64_t copied = rows_between(n, taps_.depth * kGroup), made = group_rows(n);
    Group* const groups = reinterpret_cast<Group*>(copies + copied * kBytes);
    const auto keep = [&](std::int64_t r, const Groups (&all)[kParts]) {
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store<Group>(groups + r * kBytes + v * kCounts, all[v]);
    };
    if (in_turn_) {
      each_in_turn(rows, made, keep);
    } else {
      copy(rows, 0, 1, copied, copies);
      for (std::int64_t r = 0; r < made; ++r) {
        Bytes row[kGroup];
#pragma GCC unroll 4
        for (std::int64_t i = 0; i < kGroup; ++i)
          row[i] = load<std::int8_t>(copies + (r * spacing_ + i * dilation_) * kBytes);
        Groups all[kParts];
        interleave<false>(row, all);
        keep(r, all);
      }
    }
    std::int64_t p = 0;
    for (; p + kBytePositions <= n; p += kBytePositions)
      tile<kBytePositions, V>(groups, p, strip, target);
    for (; p < n; ++p) tile<1, V>(groups, p, strip, target);
  }

  static constexpr int kBytePositions = kManyRegisters ? 4 : 2;

  // Positions p, ..., p + P - 1.
  template <int P, int V, typename To, typename R>
  SEPCONV_INLINE void tile(const Group* groups, std::int64_t p, std::int64_t strip,
                           const Target<To, R>& target) const {
    const std::int64_t step = kGroup * dilation_ / spacing_ * kBytes;
    const std::int64_t position_step = stride_ / spacing_ * kBytes;
    Dots sums[P][V];
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) start(strip, sums[i]);
    const Group* from = groups + p * position_step;
    const Group* taps = taps_.panel(strip);
    for (std::int64_t g = 0; g < taps_.depth; ++g, taps += kBytes, from += step) {
      Groups tap[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) tap[v] = load<Group>(taps + v * kCounts);
#pragma GCC unroll 8
      for (int i = 0; i < P; ++i)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v)
          add_dots(sums[i][v], load<Group>(from + i * position_step + v * kCounts), tap[v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) target.put(p + i, sums[i]);
  }

  const std::uint8_t zero_;  // what a value of x is when padding is
  const std::int64_t stride_, dilation_, count_;
  const Packed taps_;
  const std::int64_t spacing_;
  const bool in_turn_;  // groups of neighbouring rows are those of neighbouring taps
};
