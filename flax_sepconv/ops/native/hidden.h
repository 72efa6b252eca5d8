// Blocks of h, the depthwise output, which both stages together keep in the caches.

// The type that h is kept in: that of its sums, or, where factors are pairs, theirs.
template <typename T>
using Hidden = std::conditional_t<kTerms<Factor<T>> == 2, T, Accumulator<T>>;

// Positions of a block of which h takes no more than about a quarter of a core's own cache.
template <typename A>
std::int64_t cached_positions(std::int64_t lanes) {
  return std::clamp<std::int64_t>((1 << 18) / sizeof(A) / lanes, 32, 128);
}

// The examples of a group, one below the other.
template <typename T, typename H>
struct HiddenBlock {
  using A = Accumulator<T>;

  const Correlation<T, H>& correlation;
  std::int64_t positions, lanes, batch;
  const Part* parts;  // of the examples' positions, or null

  std::size_t scratch_bytes() const { return sizeof(H) * size() + correlation.scratch_bytes(); }
  // From row to row. Rows a power of two apart would compete for the same lines of a cache.
  std::int64_t step() const { return padded_width<A>(lanes) + kWidth<A>; }
  std::int64_t size() const { return correlation.fold() * correlation.block() * step(); }
  std::int64_t first_batch(std::int64_t group) const { return group * correlation.fold(); }
  std::int64_t examples(std::int64_t group) const {
    return std::min(correlation.fold(), batch - first_batch(group));
  }
  std::int64_t first(std::int64_t block) const { return block * correlation.block(); }
  std::int64_t count(std::int64_t block) const {
    return std::min(correlation.block(), positions - first(block));
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
    if (group >= correlation.groups()) return;
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
    correlation.run_block(group, first(block), first(block) + n, rows, scratch);
    if (lanes % kTerms<Factor<T>> == 0) return;
    // The other half of the last pair.
    for (std::int64_t i = 0; i < examples(group); ++i)
      for (std::int64_t r = 0; r < n; ++r)
        rows.row(first_batch(group) + i, first(block) + r)[lanes] = H{0};
  }
};
