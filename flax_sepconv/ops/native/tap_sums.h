// Sums over positions, one for each tap and lane, of the products of cotangents with the rows that
// they meet through the tap: a part of the kernel gradient.

// Positions of a class that are added up in registers where x and y are read where they lie.
constexpr std::int64_t kDirectPositions = 8;

// Rows of type X, cotangents of type Y, for all lanes of x.
template <typename X, typename Y>
class TapSums {
 public:
  using A = Accumulator<X>;

  TapSums(const Schedule& schedule, Rows<const X> x, std::int64_t taps, std::int64_t fold,
          std::int64_t block)
      : schedule_(schedule), x_(x), taps_(taps), lanes_(x.lanes()), fold_(fold), block_(block) {
    constexpr std::int64_t tile = kVectors * kWidth<A>;
    strip_ = std::min(lanes_, std::max<std::int64_t>(tile / x.repeats, 1) * x.repeats);
    direct_ = kMayBeDirect && x.repeats == 1 && fold_ == 1 &&
              (taps <= kFewTaps ||
               (is_all<A, X, Y> && is_read_in_place<A>(schedule, taps, x.step)));
  }

  // Lanes that are computed together.
  std::int64_t strip() const { return strip_; }
  bool direct() const { return direct_; }

  // Elements of the sums, and bytes of what `add` needs besides.
  std::int64_t size() const { return taps_ * width(); }
  std::size_t scratch_bytes() const {
    return sizeof(A) * (block_ + schedule_.rows_met(block_)) * strip_width();
  }

  // Add the products of positions [first, last), a block at most, of a fold of examples.
  void add(std::int64_t batch, std::int64_t fold, std::int64_t first, std::int64_t last,
           const Rows<const Y>& y, A* sums, A* scratch) const {
    if (first >= last) return;
    std::int64_t lane = 0;
    if constexpr (kMayBeDirect) {
      if (direct_) {
        lane = lanes_ / kWidth<A> * kWidth<A>;
        schedule_.each_part(x_.first(batch), x_.end(batch), first, last,
                            [&](std::int64_t low, std::int64_t high) {
                              in_place(batch, lane, low, high, y, sums);
                            });
      }
    }
    for (; lane < lanes_; lane += strip_) {
      const Strip strip{batch, fold, lane, std::min(strip_, lanes_ - lane)};
      by_panel(strip, first, last, y, sums + lane / strip_ * strip_width() + lane % strip_, scratch);
    }
  }

  // What was added, one row of lanes a tap.
  void finish(const A* sums, A* gradient, std::int64_t step) const {
    for (std::int64_t t = 0; t < taps_; ++t, sums += width(), gradient += step)
      for (std::int64_t lane = 0; lane < lanes_; lane += strip_) {
        const std::int64_t n = std::min(strip_, lanes_ - lane);
        const A* const from = sums + lane / strip_ * strip_width();
        std::copy(from, from + n, gradient + lane);
        for (std::int64_t i = 1; i < fold_; ++i)
          for (std::int64_t j = 0; j < n; ++j) gradient[lane + j] += from[i * n + j];
      }
  }

 private:
  static constexpr bool kMayBeDirect = passes_quickly<X> && passes_quickly<Y>;

  std::int64_t strip_width() const { return padded_width<A>(fold_ * strip_); }
  std::int64_t width() const { return ceil_div(lanes_, strip_) * strip_width(); }

  // A few positions at a time, so that the rows of x and y are read from end to end.
  void in_place(std::int64_t batch, std::int64_t lanes, std::int64_t first, std::int64_t last,
                const Rows<const Y>& y, A* sums) const {
    const std::int64_t step = kDirectPositions * schedule_.classes, shift = x_.first(batch);
    const Met<X> x{x_.row(batch, shift), x_.step, shift, shift, x_.end(batch)};
    for (; first < last; first += step)
      add_block(x, y.row(batch, first), y.step, first, std::min(last, first + step), lanes, sums);
  }

  void by_panel(const Strip& strip, std::int64_t first, std::int64_t last, const Rows<const Y>& y,
                A* sums, A* panels) const {
    const std::int64_t width = padded_width<A>(fold_ * strip.lanes);
    std::int64_t low = schedule_.rows, high = 0;
    each_run(first, last, 0, schedule_.rows, [&](std::int64_t, std::int64_t count, const Run& run) {
      low = std::min(low, run.row);
      high = std::max(high, run.row + (run.count + count - 2) * schedule_.row_step + 1);
    });
    A* const x = panels + block_ * width;
    pack(y, strip, first, last, panels, width);
    pack(x_, strip, low, high, x, width);
    add_block(Met<A>{x, width, low, 0, schedule_.rows}, panels, width, first, last, width, sums);
  }

  // Rows of x, `width` from one to the next, the first of them row `row`; taps meet rows
  // [begin, end) of them.
  template <typename E>
  struct Met {
    const E* data;
    std::int64_t width, row, begin, end;
  };

  // sums[t * width()...] += the products of positions [first, last) and `lanes` lanes. y holds
  // positions from `first` on.
  template <typename E, typename F>
  void add_block(const Met<E>& x, const F* y, std::int64_t y_width, std::int64_t first,
                 std::int64_t last, std::int64_t lanes, A* sums) const {
    const std::int64_t row_step = schedule_.row_step * x.width;
    const std::int64_t cotangent_step = schedule_.classes * y_width;
    each_run(first, last, x.begin, x.end, [&](std::int64_t position, std::int64_t count, const Run& run) {
      const E* rows = x.data + (run.row - x.row) * x.width;
      const F* cotangents = y + (position - first) * y_width;
      A* const gradient = sums + run.tap * width();
      const std::int64_t step = run.tap_step * width();
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
  const Rows<const X> x_;
  const std::int64_t taps_, lanes_;
  const std::int64_t fold_;   // examples side by side in a strip, where one has few lanes
  const std::int64_t block_;  // positions, at most
  std::int64_t strip_;        // lanes of one example in a strip
  bool direct_;               // rows are read where they lie
};
