// Blocks of h, the depthwise output, which both stages together keep in the caches.

// The type that h is kept in: that of its sums, or, where factors are pairs, theirs.
template <typename T>
using Hidden = std::conditional_t<kTerms<Factor<T>> == 2, T, Accumulator<T>>;

// Positions of a block of which h takes no more than about a quarter of a core's own cache, and, where
// lanes are few and so each of its rows is used little, y no more either.
template <typename A>
std::int64_t cached_positions(std::int64_t lanes, std::int64_t filters) {
  constexpr std::int64_t size = (1 << 18) / sizeof(A);
  const std::int64_t most = std::clamp<std::int64_t>(size / lanes, 32, 128);
  return lanes < kVectors * kWidth<A> ? std::clamp<std::int64_t>(size / 4 / filters, 16, most) : most;
}

// As many, or fewer, so that so many threads have some blocks each.
template <typename A>
std::int64_t shared_positions(std::int64_t lanes, std::int64_t filters, std::int64_t positions,
                              std::int64_t threads) {
  const std::int64_t share = std::max<std::int64_t>(16, positions / (3 * threads) / 8 * 8);
  return std::min(cached_positions<A>(lanes, filters), share);
}

// Blocks of positions of a group of examples, which lie one below the other. Where a block has all
// positions and these are few, a group has several folds of examples, for products of more rows.
template <typename T, typename H>
struct HiddenBlock {
  using A = Accumulator<T>;

  const Correlation<T, H>& correlation;
  std::int64_t positions, lanes, batch;
  const Part* parts;  // of the examples' positions, or null

  std::size_t scratch_bytes() const { return sizeof(H) * size() + correlation.scratch_bytes(); }
  // From row to row. Rows a power of two apart would compete for the same lines of a cache.
  std::int64_t step() const { return padded_width<A>(lanes) + kWidth<A>; }
  std::int64_t folds() const {
    if (correlation.blocks() > 1) return 1;
    return std::max<std::int64_t>(1, 64 / (correlation.fold() * positions));
  }
  std::int64_t most_examples() const { return folds() * correlation.fold(); }
  std::int64_t groups() const { return ceil_div(batch, most_examples()); }
  std::int64_t size() const { return most_examples() * correlation.block() * step(); }
  std::int64_t first_batch(std::int64_t group) const { return group * most_examples(); }
  std::int64_t examples(std::int64_t group) const {
    return std::min(most_examples(), batch - first_batch(group));
  }
  std::int64_t first(std::int64_t block) const { return block * correlation.block(); }
  std::int64_t count(std::int64_t block) const {
    return std::min(correlation.block(), positions - first(block));
  }
  // Call f(index of a fold of examples, its first example, their number) for those of a group.
  template <typename F>
  void each_fold(std::int64_t group, F f) const {
    const std::int64_t fold = correlation.fold(), last = first_batch(group) + examples(group);
    for (std::int64_t batch = first_batch(group); batch < last; batch += fold)
      f(batch / fold, batch, std::min(fold, last - batch));
  }
  // The row of y that is the first of an example.
  std::int64_t origin(std::int64_t example) const {
    return parts == nullptr ? example * positions : parts[example].origin;
  }
  // Of these, the positions that an example has, and the most that any of a group has.
  std::int64_t own(std::int64_t example, std::int64_t block) const {
    if (parts == nullptr) return count(block);
    return std::clamp<std::int64_t>(parts[example].count - first(block), 0, count(block));
  }
  std::int64_t most(std::int64_t group, std::int64_t block) const {
    std::int64_t n = 0;
    for (std::int64_t i = 0; i < examples(group); ++i)
      n = std::max(n, own(first_batch(group) + i, block));
    return n;
  }

  // Ask for a part of the rows of x that a later block reads.
  void prefetch(std::int64_t group, std::int64_t block, std::int64_t part,
                std::int64_t parts) const {
    if (group >= groups()) return;
    const std::int64_t n = most(group, block);
    for (std::int64_t i = 0; i < examples(group); ++i)
      correlation.prefetch(first_batch(group) + i, first(block) + part * n / parts,
                           first(block) + (part + 1) * n / parts);
  }

  // h[example][position][lane] of a group and the first n positions of a block.
  void compute(std::int64_t group, std::int64_t block, std::int64_t n, H* h, A* scratch) const {
    const Rows<H> rows{h, n, lanes, step(), 1, first_batch(group), first(block)};
    compute_into(rows, group, block, n, scratch);
  }

  // The same for a block of rows that may be more.
  void compute_into(const Rows<H>& rows, std::int64_t group, std::int64_t block, std::int64_t n,
                    A* scratch) const {
    each_fold(group, [&](std::int64_t fold, std::int64_t, std::int64_t) {
      correlation.run_block(fold, first(block), first(block) + n, rows, scratch);
    });
    if (lanes % kTerms<Factor<T>> == 0) return;
    // The other half of the last pair.
    for (std::int64_t i = 0; i < examples(group); ++i)
      for (std::int64_t r = 0; r < n; ++r)
        rows.row(first_batch(group) + i, first(block) + r)[lanes] = H{0};
  }
};
