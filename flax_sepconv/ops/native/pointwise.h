// Both stages together: blocks of h, the depthwise output, are contracted while they are in cache.

// Positions of a block of which h takes no more than about a quarter of a core's own cache.
template <typename A>
std::int64_t cached_positions(std::int64_t lanes) {
  return std::clamp<std::int64_t>((1 << 18) / sizeof(A) / lanes, 32, 128);
}

// A block of h: the examples of a group, one below the other.
template <typename A>
struct HiddenBlock {
  const Correlation<A, A>& correlation;
  std::int64_t positions, lanes, batch;
  const Part* parts;  // of the examples' positions, or null

  std::size_t scratch_bytes() const {
    return sizeof(A) * size() + correlation.scratch_bytes();
  }
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

  // h[example][position][lane] of a group and the first n positions of a block, at the start of the
  // scratch memory.
  const A* compute(std::int64_t group, std::int64_t block, std::int64_t n, A* scratch) const {
    const Rows<A> h{scratch, n, lanes, step(), 1, first_batch(group), first(block)};
    correlation.run_block(group, first(block), first(block) + n, h, scratch + size());
    return scratch;
  }
};

template <typename A>
class SeparableOutput {
 public:
  SeparableOutput(const Schedule& schedule, Rows<const A> x, const A* kernel, std::int64_t taps,
                  const Pointwise<const A*>& w, std::int64_t batch, const Part* parts)
      : correlation_(schedule, x, kernel, taps, 1, batch, cached_positions<A>(x.lanes())),
        hidden_{correlation_, schedule.positions, x.lanes(), batch, parts}, w_(w) {}

  void run(A* y, Pool& pool) const {
    const std::int64_t rows = hidden_.batch * hidden_.positions;
    if (hidden_.positions <= kFewPositions && rows <= kFewRows && w_.filters >= kWidth<A>)
      return run_few(rows, y, pool);
    const std::int64_t lanes = hidden_.lanes, panels = panels_of<A>(w_.filters);
    // Each panel: the weights' rows, then the row that sums start from.
    const std::int64_t panel_size = (lanes + 1) * kPanel<A>;
    const Scratch packed(sizeof(A) * panels * panel_size);
    A* const weights = static_cast<A*>(packed.data());
    parallel_for(pool, panels, 0, [&](std::int64_t p, void*) {
      const std::int64_t columns = std::min(kPanel<A>, w_.filters - p * kPanel<A>);
      A* const panel = weights + p * panel_size;
      pack_columns(w_.weights + p * kPanel<A>, w_.filters, lanes, columns, panel);
      A* const start = panel + lanes * kPanel<A>;
      if (w_.bias == nullptr)
        std::fill(start, panel + panel_size, A{0});
      else
        pack_columns(w_.bias + p * kPanel<A>, 0, 1, columns, start);
    });
    const std::int64_t blocks = correlation_.blocks(), threads = pool.threads();
    parallel_for(pool, correlation_.groups() * blocks, hidden_.scratch_bytes() + spill_bytes(),
                 [&](std::int64_t item, void* scratch) {
                   // Likely the next item of this thread.
                   const std::int64_t next = item + threads;
                   block(item / blocks, item % blocks, next / blocks, next % blocks, weights, y,
                         static_cast<A*>(scratch));
                 });
  }

 private:
  // A step of some streams, say: all of h, then the columns of the weights, shared.
  void run_few(std::int64_t rows, A* y, Pool& pool) const {
    const std::int64_t lanes = hidden_.lanes, filters = w_.filters;
    const Scratch all(sizeof(A) * rows * hidden_.step());
    const Rows<A> h{static_cast<A*>(all.data()), hidden_.positions, lanes, hidden_.step(), 1};
    parallel_for(pool, correlation_.groups(), correlation_.scratch_bytes(),
                 [&](std::int64_t group, void* scratch) {
                   correlation_.run_block(group, 0, h.rows, h, static_cast<A*>(scratch));
                 });
    const std::int64_t tile = kFewVectors<1> * kWidth<A>;
    const std::int64_t share = std::max(tile, (1 << 16) / lanes / tile * tile);
    const std::int64_t items = std::max<std::int64_t>(1, filters / share);
    parallel_for(pool, items, 0, [&](std::int64_t item, void*) {
      const std::int64_t last = item + 1 == items ? filters : (item + 1) * share;
      few_rows<A>({h.data, h.step, 1}, rows, w_.weights, filters, lanes, w_.bias, item * share,
                  last, y, filters);
    });
  }

  // For the tiles of a panel that is not full.
  std::size_t spill_bytes() const { return sizeof(A) * kPanel<A> * correlation_.block(); }

  void block(std::int64_t group, std::int64_t block, std::int64_t next_group,
             std::int64_t next_block, const A* weights, A* y, A* scratch) const {
    const std::int64_t lanes = hidden_.lanes, filters = w_.filters;
    const std::int64_t most = hidden_.most(group, block);
    if (most == 0) return;
    A* const spill = scratch;
    const A* h = hidden_.compute(group, block, most, scratch + kPanel<A> * correlation_.block());
    for (std::int64_t i = 0; i < hidden_.examples(group); ++i, h += most * hidden_.step()) {
      const std::int64_t example = hidden_.first_batch(group) + i, n = hidden_.own(example, block);
      A* out = y + (hidden_.origin(example) + hidden_.first(block)) * filters;
      const A* panel = weights;
      for (std::int64_t f = 0; f < filters; f += kPanel<A>, panel += (lanes + 1) * kPanel<A>) {
        const A* start = panel + lanes * kPanel<A>;
        const std::int64_t columns = std::min(kPanel<A>, filters - f);
        if (i == 0) hidden_.prefetch(next_group, next_block, f, filters);
        if (columns == kPanel<A>) {
          matmul_panel<A>({h, hidden_.step(), 1}, n, panel, lanes, start, 0, out + f, filters);
          continue;
        }
        matmul_panel<A>({h, hidden_.step(), 1}, n, panel, lanes, start, 0, spill, kPanel<A>);
        for (std::int64_t r = 0; r < n; ++r)
          std::copy(spill + r * kPanel<A>, spill + r * kPanel<A> + columns, out + r * filters + f);
      }
    }
  }

  const Correlation<A, A> correlation_;
  const HiddenBlock<A> hidden_;
  const Pointwise<const A*> w_;
};

template <typename A>
class PointwiseGradient {
 public:
  PointwiseGradient(const Schedule& schedule, Rows<const A> x, const A* kernel, std::int64_t taps,
                    const A* y, const Pointwise<A*>& w, std::int64_t batch, const Part* parts)
      : correlation_(schedule, x, kernel, taps, 1, batch, cached_positions<A>(x.lanes())),
        hidden_{correlation_, schedule.positions, x.lanes(), batch, parts}, y_(y), w_(w),
        rows_(x.lanes() + 1) {
    // Cut by shape alone: into chunks of positions, and, where there are few of those, columns.
    const std::int64_t units = correlation_.groups() * correlation_.blocks();
    const std::int64_t positions = batch * schedule.positions;
    const std::int64_t filters = w.filters, size = rows_ * filters;
    chunks_ = std::clamp<std::int64_t>(std::min(positions / 512, (1 << 24) / size), 1, 16);
    chunks_ = std::min(chunks_, units);
    const std::int64_t panels = panels_of<A>(filters);
    const std::int64_t splits = std::clamp<std::int64_t>(
        std::min(8 / chunks_, filters / (8 * taps)), 1, panels);
    split_panels_ = ceil_div(panels, splits);
  }

  void run(Pool& pool) const {
    const std::int64_t panels = panels_of<A>(w_.filters), splits = ceil_div(panels, split_panels_);
    const std::int64_t size = panels * rows_ * kPanel<A>;
    const Scratch partials(sizeof(A) * chunks_ * size);
    A* const sums = static_cast<A*>(partials.data());
    parallel_for(pool, chunks_ * splits, hidden_.scratch_bytes() + panel_bytes(),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t chunk = item / splits;
                   const std::int64_t first = item % splits * split_panels_;
                   add_chunk(chunk, first, std::min(panels, first + split_panels_),
                             sums + chunk * size, static_cast<A*>(scratch));
                 });
    parallel_for(pool, panels, 0, [&](std::int64_t p, void*) {
      add_chunks(sums + p * rows_ * kPanel<A>, size, p);
    });
  }

 private:
  // A panel of cotangents.
  std::size_t panel_bytes() const {
    return sizeof(A) * kPanel<A> * correlation_.fold() * correlation_.block();
  }

  // Panels [first, last) of one chunk's sums: rows for the weights, and one for the bias.
  void add_chunk(std::int64_t chunk, std::int64_t first, std::int64_t last, A* sums,
                 A* scratch) const {
    const std::int64_t panel_size = rows_ * kPanel<A>;
    std::fill(sums + first * panel_size, sums + last * panel_size, A{0});
    const std::int64_t blocks = correlation_.blocks(), units = correlation_.groups() * blocks;
    for (std::int64_t u = chunk * units / chunks_; u < (chunk + 1) * units / chunks_; ++u) {
      const std::int64_t group = u / blocks, block = u % blocks;
      const std::int64_t n = hidden_.most(group, block);
      if (n == 0) continue;
      A* const panel = scratch;
      const A* const h = hidden_.compute(
          group, block, n, scratch + kPanel<A> * correlation_.fold() * correlation_.block());
      for (std::int64_t p = first; p < last; ++p)
        add_panel(group, block, n, p, h, panel, sums + p * panel_size);
    }
  }

  // Add the products of n positions of a group's examples; those that all have are one product.
  void add_panel(std::int64_t group, std::int64_t block, std::int64_t n, std::int64_t p,
                 const A* h, A* panel, A* sum) const {
    const std::int64_t f = p * kPanel<A>, columns = std::min(kPanel<A>, w_.filters - f);
    const std::int64_t lanes = hidden_.lanes, examples = hidden_.examples(group);
    std::int64_t from = 0, depth = 0;
    for (std::int64_t i = 0; i < examples; ++i) {
      const std::int64_t example = hidden_.first_batch(group) + i;
      const std::int64_t own = hidden_.own(example, block);
      const A* y = y_ + (hidden_.origin(example) + hidden_.first(block)) * w_.filters;
      pack_columns(y + f, w_.filters, own, columns, panel + depth * kPanel<A>);
      depth += own;
      if (own == n && i + 1 < examples) continue;
      matmul_panel<A>({h + from * n * hidden_.step(), 1, hidden_.step()}, lanes, panel, depth, sum,
                      kPanel<A>, sum, kPanel<A>);
      if (w_.bias != nullptr) add_rows(panel, depth, sum + lanes * kPanel<A>);
      from = i + 1;
      depth = 0;
    }
  }

  static void add_rows(const A* panel, std::int64_t rows, A* sum) {
    for (std::int64_t r = 0; r < rows; ++r, panel += kPanel<A>)
      for (std::int64_t j = 0; j < kPanel<A>; ++j) sum[j] += panel[j];
  }

  // One panel's chunks, added in their order.
  void add_chunks(A* sums, std::int64_t size, std::int64_t panel) const {
    const std::int64_t f = panel * kPanel<A>, columns = std::min(kPanel<A>, w_.filters - f);
    for (std::int64_t chunk = 1; chunk < chunks_; ++chunk)
      for (std::int64_t j = 0; j < rows_ * kPanel<A>; ++j) sums[j] += sums[chunk * size + j];
    for (std::int64_t r = 0; r + 1 < rows_; ++r, sums += kPanel<A>)
      std::copy(sums, sums + columns, w_.weights + r * w_.filters + f);
    if (w_.bias != nullptr) std::copy(sums, sums + columns, w_.bias + f);
  }

  const Correlation<A, A> correlation_;
  const HiddenBlock<A> hidden_;
  const A* const y_;
  const Pointwise<A*> w_;
  const std::int64_t rows_;
  std::int64_t chunks_, split_panels_;
};
