// The output of both stages: blocks of h are contracted while they are in cache.

// Up to so many bytes of h, all of it is computed first, and the weights are read once, panel by
// panel, where these have at least so many: packing them first would take as long as a pass more.
constexpr std::int64_t kWholeHidden = 1 << 23;
constexpr std::int64_t kLargeWeights = 1 << 19;
// Results of more bytes than these for each thread, its share of the last cache, leave the caches
// before anyone reads them.
constexpr std::int64_t kStreamedBytes = 1 << 21;
// Up to so many bytes of weights are packed before others have come to help.
constexpr std::int64_t kPackedAlone = 1 << 16;

template <typename T>
class SeparableOutput {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  SeparableOutput(const Schedule& schedule, Rows<const T> x, Taps<T> kernel,
                  const Pointwise<const T*>& w, std::int64_t batch, const Part* parts,
                  std::int64_t threads)
      : schedule_(schedule), x_(x), kernel_(kernel),
        correlation_(schedule, x, kernel, 1, batch,
                     shared_positions<A>(x.lanes(), w.filters, batch * schedule.positions, threads)),
        hidden_{correlation_, schedule.positions, x.lanes(), batch, parts}, w_(w) {}

  void run(T* y, Pool& pool) const {
    const std::int64_t rows = hidden_.batch * hidden_.positions, lanes = hidden_.lanes;
    if (hidden_.positions <= kFewPositions && rows <= kFewRows && w_.filters >= kWidth<A>)
      return run_few(rows, y, pool);
    const std::int64_t weights = lanes * w_.filters * sizeof(P);
    if (rows * hidden_.step() * static_cast<std::int64_t>(sizeof(H)) <= kWholeHidden &&
        rows * 2 <= lanes * kTerms<P> && weights >= kLargeWeights)
      return run_by_panels(rows, y, pool);
    run_by_blocks(y, pool);
  }

 private:
  // A step of some streams, say: all of h, then the columns of the weights, shared.
  void run_few(std::int64_t rows, T* y, Pool& pool) const {
    const Correlation<T, A> correlation(schedule_, x_, kernel_, 1, hidden_.batch);
    const HiddenBlock<T, A> hidden{correlation, hidden_.positions, hidden_.lanes, hidden_.batch,
                                   nullptr};
    const std::int64_t lanes = hidden.lanes, filters = w_.filters;
    const Scratch all(sizeof(A) * rows * hidden.step());
    const Rows<A> h{static_cast<A*>(all.data()), hidden.positions, lanes, hidden.step(), 1};
    parallel_for(pool, correlation.groups(), correlation.scratch_bytes(),
                 [&](std::int64_t group, void* scratch) {
                   correlation.run_block(group, 0, h.rows, h, static_cast<A*>(scratch));
                 });
    const std::int64_t tile = kFewVectors<1> * kWidth<A>;
    const std::int64_t share = std::max(tile, (1 << 16) / lanes / tile * tile);
    const std::int64_t items = std::max<std::int64_t>(1, filters / share);
    parallel_for(pool, items, 0, [&](std::int64_t item, void*) {
      const std::int64_t last = item + 1 == items ? filters : (item + 1) * share;
      few_rows<T>({h.data, h.step, 1}, rows, w_.weights, filters, lanes, w_.bias, w_.activation,
                  item * share, last, y, filters);
    });
  }

  // What sums of a panel's columns start from.
  void start_of(std::int64_t panel, A* start) const {
    const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, w_.filters - f);
    if (w_.bias == nullptr)
      std::fill(start, start + kPanel<P>, A{0});
    else
      pack_columns(w_.bias + f, 0, 1, columns, start, kPanel<P>);
  }

  // Few rows and large weights: all of h, then all rows by one panel of the weights after the other,
  // some of their rows at a time.
  void run_by_panels(std::int64_t rows, T* y, Pool& pool) const {
    const std::int64_t lanes = hidden_.lanes, filters = w_.filters, step = hidden_.step();
    const Scratch all(sizeof(H) * rows * step);
    H* const hidden = static_cast<H*>(all.data());
    const std::int64_t blocks = correlation_.blocks();
    const Rows<H> rows_of_h{hidden, hidden_.positions, lanes, step, 1};
    parallel_for(pool, hidden_.groups() * blocks, correlation_.scratch_bytes(),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t block = item % blocks;
                   hidden_.compute_into(rows_of_h, item / blocks, block, hidden_.count(block),
                                        static_cast<A*>(scratch));
                 });
    // Several panels together, for longer reads, where there are enough of them for all threads.
    const std::int64_t panels = panels_of<P>(filters);
    const std::int64_t together = std::clamp<std::int64_t>(panels / (4 * pool.threads()), 1, 4);
    const std::int64_t part = kDepth / 2 * kTerms<P>, size = kPanel<P> * factors<P>(part);
    const std::size_t bytes = sizeof(P) * size + sizeof(A) * kPanel<P> * (1 + rows);
    parallel_for(pool, ceil_div(panels, together), together * bytes, [&](std::int64_t item, void* scratch) {
      [[maybe_unused]] const AmxInUse tiles{};
      P* const packed = static_cast<P*>(scratch);
      A* const starts = reinterpret_cast<A*>(packed + together * size);
      A* const sums = starts + together * kPanel<P>;
      const std::int64_t f = item * together * kPanel<P>;
      const std::int64_t last = std::min(filters, f + together * kPanel<P>);
      for (std::int64_t first = 0; first < lanes; first += part) {
        const std::int64_t depth = std::min(part, lanes - first);
        pack_weights(first, depth, f, last, packed, size);
        for (std::int64_t g = f, i = 0; g < last; g += kPanel<P>, ++i) {
          if (first == 0) start_of(g / kPanel<P>, starts + i * kPanel<P>);
          A* const out = sums + i * rows * kPanel<P>;
          const Sums<const A> from = first == 0 ? Sums<const A>{starts + i * kPanel<P>, 0}
                                                : Sums<const A>{out, kPanel<P>};
          product(Matrix<H>{hidden + first, step, kTerms<P>}, rows, Panel<P>{packed + i * size},
                  factors<P>(depth), std::min(kPanel<P>, last - g), from, Sums<A>{out, kPanel<P>},
                  first + depth == lanes ? w_.activation : Activation::kNone);
        }
      }
      for (std::int64_t g = f, i = 0; g < last; g += kPanel<P>, ++i)
        put_rows(sums + i * rows * kPanel<P>, g, std::min(kPanel<P>, last - g), y);
    });
  }

  // Rows [first, first + depth) of the weights, of columns [f, last), in panels of some size. Rows are
  // read from end to end, and asked for in time: from one to the next it is far.
  void pack_weights(std::int64_t first, std::int64_t depth, std::int64_t f, std::int64_t last,
                    P* panels, std::int64_t size) const {
    constexpr std::int64_t terms = kTerms<P>, ahead = 8;
    for (std::int64_t r = 0; r < depth; r += terms, panels += kPanel<P>) {
      const T* const row = w_.weights + (first + r) * w_.filters;
      for (std::int64_t i = 0; i < terms; ++i)
        if (first + r + i + ahead < hidden_.lanes)
          ask_for(row + (i + ahead) * w_.filters + f, last - f);
      P* panel = panels;
      for (std::int64_t g = f; g < last; g += kPanel<P>, panel += size)
        pack_columns(row + g, w_.filters, std::min(terms, depth - r), std::min(kPanel<P>, last - g),
                     panel);
    }
  }

  // Sums of columns [f, f + columns), in all rows that examples have.
  void put_rows(const A* sums, std::int64_t f, std::int64_t columns, T* y) const {
    for (std::int64_t b = 0; b < hidden_.batch; ++b) {
      const std::int64_t n = hidden_.parts == nullptr ? hidden_.positions : hidden_.parts[b].count;
      const A* from = sums + b * hidden_.positions * kPanel<P>;
      T* to = y + hidden_.origin(b) * w_.filters + f;
      for (std::int64_t r = 0; r < n; ++r, from += kPanel<P>, to += w_.filters)
        convert_row(from, to, columns);
    }
  }

  // Blocks of positions by packed weights.
  void run_by_blocks(T* y, Pool& pool) const {
    const std::int64_t panels = panels_of<P>(w_.filters);
    const Scratch packed(sizeof(P) * panels * panel_size()), starts(sizeof(A) * panels * kPanel<P>);
    P* const weights = static_cast<P*>(packed.data());
    A* const start = static_cast<A*>(starts.data());
    const auto pack = [&](std::int64_t p, void*) {
      const std::int64_t f = p * kPanel<P>, columns = std::min(kPanel<P>, w_.filters - f);
      pack_columns(w_.weights + f, w_.filters, hidden_.lanes, columns, weights + p * panel_size());
      start_of(p, start + f);
    };
    if (panels * panel_size() * static_cast<std::int64_t>(sizeof(P)) <= kPackedAlone)
      for (std::int64_t p = 0; p < panels; ++p) pack(p, nullptr);
    else
      parallel_for(pool, panels, 0, pack);
    const std::int64_t blocks = correlation_.blocks(), threads = pool.threads();
    const Write write = write_of(y, threads);
    parallel_for(pool, hidden_.groups() * blocks, hidden_.scratch_bytes() + sizeof(A) * spill_size(),
                 [&](std::int64_t item, void* scratch) {
                   // Likely the next item of this thread.
                   const std::int64_t next = item + threads;
                   block(item / blocks, item % blocks, next / blocks, next % blocks, weights, start,
                         y, write, scratch);
                 });
  }

  std::int64_t panel_size() const { return factors<P>(hidden_.lanes) * kPanel<P>; }

  // For the tiles of a panel that cannot be written where they belong.
  std::int64_t spill_size() const {
    return kPanel<P> * hidden_.most_examples() * correlation_.block();
  }

  void block(std::int64_t group, std::int64_t block, std::int64_t next_group,
             std::int64_t next_block, const P* weights, const A* starts, T* y, Write write,
             void* scratch) const {
    const std::int64_t lanes = hidden_.lanes, filters = w_.filters, step = hidden_.step();
    const std::int64_t most = hidden_.most(group, block);
    if (most == 0) return;
    A* const spill = static_cast<A*>(scratch);
    A* const panels = spill + spill_size();
    H* const h = reinterpret_cast<H*>(panels + correlation_.scratch_bytes() / sizeof(A));
    hidden_.compute(group, block, most, h, panels);
    [[maybe_unused]] const AmxInUse tiles{};
    // Examples whose rows of y follow one another are one product.
    const bool joined = hidden_.parts == nullptr && correlation_.blocks() == 1;
    const std::int64_t examples = hidden_.examples(group);
    for (std::int64_t i = 0; i < (joined ? 1 : examples); ++i) {
      const std::int64_t example = hidden_.first_batch(group) + i;
      const std::int64_t n = joined ? examples * most : hidden_.own(example, block);
      const H* const rows = h + i * most * step;
      T* out = y + (hidden_.origin(example) + hidden_.first(block)) * filters;
      const P* panel = weights;
      for (std::int64_t f = 0; f < filters; f += kPanel<P>, panel += panel_size()) {
        if (i == 0) hidden_.prefetch(next_group, next_block, f, filters);
        product_into(Matrix<H>{rows, step, kTerms<P>}, n, Panel<P>{panel}, factors<P>(lanes),
                     std::min(kPanel<P>, filters - f), Sums<const A>{starts + f, 0},
                     Sums<T>{out + f, filters}, spill, write, w_.activation);
      }
    }
    if (write == Write::kStreamed) end_of_streams();
  }

  Write write_of(const T* y, std::int64_t threads) const {
    const std::int64_t bytes = hidden_.batch * hidden_.positions * w_.filters * sizeof(T);
    constexpr std::int64_t line = sizeof(Vector<A>);
    // What a tile writes of a row is whole lines of the caches, of 64 bytes.
    const bool fits = kCanStream && (is_all<T, float> || in_vectors<T>) &&
                      kPanel<P> * sizeof(T) % 64 == 0 && hidden_.lanes <= kDepth &&
                      w_.filters * sizeof(T) % line == 0 &&
                      reinterpret_cast<std::uintptr_t>(y) % line == 0;
    return fits && bytes >= threads * kStreamedBytes ? Write::kStreamed : Write::kCached;
  }

  const Schedule& schedule_;
  const Rows<const T> x_;
  const Taps<T> kernel_;
  const Correlation<T, H> correlation_;
  const HiddenBlock<T, H> hidden_;
  const Pointwise<const T*> w_;
};
