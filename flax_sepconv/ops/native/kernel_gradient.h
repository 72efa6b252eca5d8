// Kernel gradient: every tap sums the products of cotangents with the rows they meet through it.

// Positions of a class that are added up in registers where x and y are read where they lie.
constexpr std::int64_t kDirectPositions = 8;

template <typename T, typename R>
class KernelGradient {
 public:
  using A = Accumulator<T>;

  KernelGradient(const Schedule& schedule, Rows<const T> x, Rows<const T> y, std::int64_t taps,
                 std::int64_t batch, R* out)
      : schedule_(schedule), x_(x), y_(y), taps_(taps), batch_(batch), lanes_(y.lanes()),
        out_(out) {
    constexpr std::int64_t tile = kVectors * kWidth<A>;
    fold_ = std::min(batch, std::max<std::int64_t>(1, tile / lanes_));
    direct_ = std::is_same_v<T, A> && x.repeats == 1 && fold_ == 1 && taps <= kDirectTaps;
    strip_ = std::min(lanes_, std::max<std::int64_t>(tile / x.repeats, 1) * x.repeats);
    block_ = std::min(block_positions(schedule.classes, 128), schedule.positions);
    blocks_ = ceil_div(schedule.positions, block_);
    cut();
  }

  void run(Pool& pool) const {
    const std::int64_t item_lanes = strips_ * strip_;
    const std::int64_t lane_items = ceil_div(lanes_, item_lanes);
    const Scratch partials(sizeof(A) * chunks_ * taps_ * lanes_);
    A* const sums = static_cast<A*>(partials.data());
    parallel_for(pool, chunks_ * lane_items, scratch_bytes(),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t chunk = item / lane_items;
                   const std::int64_t lane = item % lane_items * item_lanes;
                   chunk_of_lanes(chunk, lane, std::min(item_lanes, lanes_ - lane),
                                  sums + chunk * taps_ * lanes_, static_cast<A*>(scratch));
                 });
    const std::int64_t size = taps_ * lanes_, piece = 1 << 14;
    parallel_for(pool, ceil_div(size, piece), 0, [&](std::int64_t item, void*) {
      add_chunks(sums, item * piece, std::min(size, (item + 1) * piece));
    });
  }

 private:
  // Cut the work by shape alone, so that the order of every sum is the same for any number of
  // threads: the batch and the positions into chunks, the lanes into groups of strips.
  void cut() {
    const std::int64_t units = ceil_div(batch_, fold_) * blocks_;
    const std::int64_t work = batch_ * schedule_.positions * taps_ * lanes_;
    const std::int64_t wanted = std::clamp<std::int64_t>(work >> 19, 1, 64);
    const std::int64_t all_strips = ceil_div(lanes_, strip_);
    // Partial sums of more chunks than these would be a burden of their own.
    const std::int64_t most =
        std::clamp<std::int64_t>(batch_ * schedule_.positions / (4 * taps_), 1, units);
    if (direct_) {
      strips_ = all_strips;
      chunks_ = std::min(wanted, most);
      if (chunks_ * 2 < wanted) strips_ = ceil_div(all_strips, ceil_div(wanted, chunks_));
    } else {
      strips_ = std::max<std::int64_t>(1, all_strips / wanted);
      chunks_ = std::min(ceil_div(wanted, ceil_div(all_strips, strips_)), most);
    }
  }

  // Columns of one strip's sums, and of those of all strips of an item.
  std::int64_t strip_width() const { return padded_width<A>(fold_ * strip_); }
  std::int64_t sums_width() const { return strips_ * strip_width(); }

  std::size_t scratch_bytes() const {
    const std::int64_t panels = block_ + schedule_.rows_met(block_);
    return sizeof(A) * (taps_ * sums_width() + panels * strip_width());
  }

  // Sum over one chunk into gradient[t * lanes_ + j], for `lanes` lanes from `lane` on.
  void chunk_of_lanes(std::int64_t chunk, std::int64_t lane, std::int64_t lanes, A* gradient,
                      A* sums) const {
    const std::int64_t units = ceil_div(batch_, fold_) * blocks_;
    const std::int64_t first = chunk * units / chunks_, last = (chunk + 1) * units / chunks_;
    A* const panels = sums + taps_ * sums_width();
    std::fill(sums, panels, A{0});
    for (std::int64_t unit = first; unit < last; ++unit) {
      const std::int64_t batch = unit / blocks_ * fold_;
      const std::int64_t fold = std::min(fold_, batch_ - batch), from = unit % blocks_ * block_;
      const auto [start, end] =
          y_.cut(batch, fold, from, std::min(schedule_.positions, from + block_));
      if (start >= end) continue;
      std::int64_t at = 0;
      if constexpr (std::is_same_v<T, A>) {
        if (direct_) {
          at = lanes / kWidth<A> * kWidth<A>;
          schedule_.each_part(x_.first(batch), x_.end(batch), start, end,
                              [&](std::int64_t low, std::int64_t high) {
                                direct(batch, lane, at, low, high, sums);
                              });
        }
      }
      for (; at < lanes; at += strip_) {
        const Strip strip{batch, fold, lane + at, std::min(strip_, lanes - at)};
        by_panel(strip, start, end, sums + at / strip_ * strip_width() + at % strip_, panels);
      }
    }
    for (std::int64_t t = 0; t < taps_; ++t, sums += sums_width(), gradient += lanes_)
      for (std::int64_t at = 0; at < lanes; at += strip_)
        add_folded(sums + at / strip_ * strip_width(), std::min(strip_, lanes - at),
                   gradient + lane + at);
  }

  void add_folded(const A* sums, std::int64_t n, A* to) const {
    std::copy(sums, sums + n, to);
    for (std::int64_t i = 1; i < fold_; ++i)
      for (std::int64_t j = 0; j < n; ++j) to[j] += sums[i * n + j];
  }

  // A few positions at a time, so that the rows of x and y are read from end to end.
  void direct(std::int64_t batch, std::int64_t lane, std::int64_t lanes, std::int64_t first,
              std::int64_t last, A* sums) const {
    const std::int64_t step = kDirectPositions * schedule_.classes, shift = x_.first(batch);
    const Met x{x_.row(batch, shift) + lane, lanes_, shift, shift, x_.end(batch)};
    for (; first < last; first += step)
      add_block(x, y_.row(batch, first) + lane, lanes_, first, std::min(last, first + step), lanes,
                sums);
  }

  void by_panel(const Strip& strip, std::int64_t first, std::int64_t last, A* sums,
                A* panels) const {
    const std::int64_t width = padded_width<A>(fold_ * strip.lanes);
    std::int64_t low = schedule_.rows, high = 0;
    each_run(first, last, 0, schedule_.rows, [&](std::int64_t, std::int64_t count, const Run& run) {
      low = std::min(low, run.row);
      high = std::max(high, run.row + (run.count + count - 2) * schedule_.row_step + 1);
    });
    A* const x = panels + block_ * width;
    pack(y_, strip, first, last, panels, width);
    pack(x_, strip, low, high, x, width);
    add_block({x, width, low, 0, schedule_.rows}, panels, width, first, last, width, sums);
  }

  // Rows of x, `width` from one to the next, the first of them row `row`; taps meet rows
  // [begin, end) of them.
  struct Met {
    const A* data;
    std::int64_t width, row, begin, end;
  };

  // sums[t * sums_width()...] += the products of positions [first, last) and `lanes` lanes.
  // y holds positions from `first` on.
  void add_block(const Met& x, const A* y, std::int64_t y_width, std::int64_t first,
                 std::int64_t last, std::int64_t lanes, A* sums) const {
    const std::int64_t row_step = schedule_.row_step * x.width;
    const std::int64_t cotangent_step = schedule_.classes * y_width;
    each_run(first, last, x.begin, x.end, [&](std::int64_t position, std::int64_t count, const Run& run) {
      const A* rows = x.data + (run.row - x.row) * x.width;
      const A* cotangents = y + (position - first) * y_width;
      A* const gradient = sums + run.tap * sums_width();
      const std::int64_t step = run.tap_step * sums_width();
      constexpr std::int64_t wide = kVectors * kWidth<A>;
      std::int64_t j = 0;
      for (; j + wide <= lanes; j += wide)
        gradient_tiles<A, kVectors>(rows + j, row_step, cotangents + j, cotangent_step, count,
                                    gradient + j, step, run.count);
      for (; j < lanes; j += kWidth<A>)
        gradient_tiles<A, 1>(rows + j, row_step, cotangents + j, cotangent_step, count,
                             gradient + j, step, run.count);
    });
  }

  // The chunks' sums, added in their order.
  void add_chunks(A* sums, std::int64_t first, std::int64_t last) const {
    for (std::int64_t chunk = 1; chunk < chunks_; ++chunk)
      for (std::int64_t j = first; j < last; ++j) sums[j] += sums[chunk * taps_ * lanes_ + j];
    convert_row(sums + first, out_ + first, last - first);
  }

  // Call f(first position, number of positions, trimmed run) for the runs that meet any of rows
  // [begin, end).
  template <typename F>
  void each_run(std::int64_t first, std::int64_t last, std::int64_t begin, std::int64_t end,
                F f) const {
    const std::int64_t classes = schedule_.classes;
    for (std::int64_t position = first; position < std::min(last, first + classes); ++position) {
      const std::int64_t count = ceil_div(last - position, classes);
      for (const Run& whole : schedule_.runs[position % classes]) {
        const Run run = schedule_.trimmed(whole, position / classes, count, begin, end);
        if (run.count > 0) f(position, count, run);
      }
    }
  }

  const Schedule& schedule_;
  const Rows<const T> x_, y_;
  const std::int64_t taps_, batch_, lanes_;
  R* const out_;
  bool direct_;          // rows are read where they lie
  std::int64_t fold_;    // examples side by side in a strip, where one has few lanes
  std::int64_t strip_;   // lanes of one example in a strip
  std::int64_t strips_;  // of one item
  std::int64_t block_, blocks_, chunks_;
};
