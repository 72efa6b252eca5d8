// Output and input gradient: both correlate the rows of an operand with the taps.

// Up to this many taps, rows are read where they lie: a panel of them costs more than it saves.
constexpr std::int64_t kFewTaps = 8;

// Whether that is so with more taps, for rows of type A, `step` elements from one to the next: if at
// most one in so many positions meets an end of the rows, for those are computed one by one, and if
// the rows of a tile do not compete too often for the same lines of the first cache, where each set
// has one in 4096 bytes.
template <typename A>
bool is_read_in_place(const Schedule& schedule, std::int64_t taps, std::int64_t step) {
  constexpr std::int64_t positions_per_edge = 10, page = 4096, competition = 256;
  const std::int64_t first = schedule.interior_first(0), last = schedule.interior_last(schedule.rows);
  const std::int64_t edges = schedule.positions - std::max<std::int64_t>(0, last - first);
  const std::int64_t bytes = schedule.row_step * step * static_cast<std::int64_t>(sizeof(A));
  const std::int64_t in_a_set = (taps + kPositions) * std::gcd(bytes, page) / page;
  return edges * positions_per_edge <= schedule.positions && taps * in_a_set <= competition;
}

// `count` taps, `step` from one to the next; each is a row of lanes. Sums start from another such
// row, or, where that is null, from zero, and end as an activation makes of them.
template <typename T>
struct Taps {
  const T* data;
  std::int64_t count, step;
  const T* start = nullptr;
  Activation activation = Activation::kNone;
};

// Rows of type T, taps of type K, results of type R.
template <typename T, typename R, typename K = T>
class Correlation {
 public:
  using A = Accumulator<T>;

  // Blocks have at most `positions` positions where that leaves their tiles full.
  Correlation(const Schedule& schedule, Rows<const T> in, Taps<K> kernel, std::int64_t out_repeats,
              std::int64_t batch, std::int64_t positions = 128)
      : Correlation(schedule, in, kernel, out_repeats, batch, positions,
                    examples_side_by_side<A>(in.lanes(), batch)) {}
  Correlation(const Schedule& schedule, Rows<const T> in, Taps<K> kernel, std::int64_t out_repeats,
              std::int64_t batch, std::int64_t positions, std::int64_t fold)
      : schedule_(schedule), in_(in), kernel_(kernel), taps_(kernel.count), batch_(batch),
        lanes_(in.lanes()), fold_(fold) {
    constexpr std::int64_t tile = kVectors * kWidth<A>;
    direct_ = kMayBeDirect && in.repeats == 1 && out_repeats == 1 && fold_ == 1 &&
              lanes_ >= kWidth<A> &&
              (taps_ <= kFewTaps ||
               (!kWidensTaps && (schedule.positions < kPositions ||
                                 is_read_in_place<A>(schedule, taps_, in.step))));
    const std::int64_t repeats = std::max(in.repeats, out_repeats);
    strip_ = std::min(lanes_, std::max<std::int64_t>(tile / repeats, 1) * repeats);
    block_ = std::min(block_positions(schedule.classes, positions), schedule.positions);
  }

  // The work falls into groups of neighbouring examples and blocks of positions.
  std::int64_t fold() const { return fold_; }
  std::int64_t block() const { return block_; }
  std::int64_t groups() const { return ceil_div(batch_, fold_); }
  std::int64_t blocks() const { return ceil_div(schedule_.positions, block_); }

  std::size_t scratch_bytes() const {
    if (direct_) return kWidensTaps ? sizeof(A) * packed_taps() * lanes_ : 0;
    const std::int64_t width = padded_width<A>(fold_ * strip_);
    return sizeof(A) * width * (packed_taps() + block_ + schedule_.rows_met(block_));
  }

  // Ask for the rows that begin at positions [first, last): those of an output, by the stride.
  void prefetch(std::int64_t batch, std::int64_t first, std::int64_t last) const {
    const std::int64_t stride = schedule_.row_step / schedule_.classes;
    const std::int64_t shift = schedule_.runs[0][0].row;
    const std::int64_t high = std::min(in_.end(batch), last * stride + shift);
    for (std::int64_t row = std::max(in_.first(batch), first * stride + shift); row < high; ++row)
      ask_for(in_.row(batch, row), in_.columns);
  }

  void run(const Rows<R>& out, Pool& pool) const {
    const std::int64_t block_work = block_ * taps_ * lanes_ * fold_;
    const std::int64_t per_item = std::clamp<std::int64_t>((1 << 19) / block_work, 1, blocks());
    const std::int64_t ranges = ceil_div(blocks(), per_item);
    parallel_for(pool, groups() * ranges, scratch_bytes(), [&](std::int64_t item, void* scratch) {
      const std::int64_t first = item % ranges * per_item;
      for (std::int64_t i = first; i < std::min(blocks(), first + per_item); ++i)
        run_block(item / ranges, i * block_, std::min(schedule_.positions, (i + 1) * block_), out,
                  static_cast<A*>(scratch));
    });
  }

  // Positions [from, to) of one group, a block of them at most, all lanes: straight from the operand
  // where that is faster, or strip by strip.
  void run_block(std::int64_t group, std::int64_t from, std::int64_t to, const Rows<R>& out,
                 A* scratch) const {
    const std::int64_t batch = group * fold_, fold = std::min(fold_, batch_ - batch);
    const auto [first, last] = out.cut(batch, fold, from, to);
    if (first >= last) return;
    if constexpr (kMayBeDirect) {
      if (direct_) {
        const Taps<A> taps = widened_taps(scratch);
        return schedule_.each_part(in_.first(batch), in_.end(batch), first, last,
                                   [&](std::int64_t low, std::int64_t high) {
                                     direct(batch, low, high, out, taps);
                                   });
      }
    }
    for (std::int64_t lane = 0; lane < lanes_; lane += strip_)
      by_panel({batch, fold, lane, std::min(strip_, lanes_ - lane)}, first, last, out, scratch);
  }

 private:
  static constexpr bool kMayBeDirect = passes_quickly<T> && passes_quickly<R>;
  static constexpr bool kWidensTaps = !std::is_same_v<A, K>;

  // The taps in the type of the sums: where they lie, or copied.
  Taps<A> widened_taps([[maybe_unused]] A* scratch) const {
    if constexpr (!kWidensTaps) {
      return kernel_;
    } else {
      for (std::int64_t t = 0; t < packed_taps(); ++t)
        convert_row(packed_row(t), scratch + t * lanes_, lanes_);
      return {scratch, taps_, lanes_, kernel_.start == nullptr ? nullptr : scratch + taps_ * lanes_,
              kernel_.activation};
    }
  }

  // All lanes of positions [first, last): one, or some of the interior.
  void direct(std::int64_t batch, std::int64_t first, std::int64_t last, const Rows<R>& out,
              const Taps<A>& taps) const {
    const std::int64_t shift = in_.first(batch), end = in_.end(batch);
    const T* in = in_.row(batch, shift);
    std::vector<TapRun<A>> runs;
    Coming<T> nothing;
    each_class(first, last, [&](std::int64_t i, std::int64_t position, std::int64_t count) {
      runs.clear();
      for (const Run& whole : schedule_.runs[i]) {
        const std::int64_t at = (position - i) / schedule_.classes;
        const Run run = schedule_.trimmed(whole, at, count, shift, end);
        if (run.count > 0)
          runs.push_back({(run.row - shift) * in_.step, taps.data + run.tap * taps.step,
                          run.tap_step * taps.step, run.count});
      }
      tiles(in, schedule_.row_step * in_.step, runs, taps.start, out.row(batch, position),
            schedule_.classes * out.step, count, lanes_, nothing);
    });
  }

  // Positions [first, last) of a strip.
  void by_panel(const Strip& strip, std::int64_t first, std::int64_t last, const Rows<R>& to,
                A* scratch) const {
    const std::int64_t width = padded_width<A>(strip.width());
    A* const taps = scratch;
    A* const out = taps + packed_taps() * width;
    A* const in = out + block_ * width;
    pack_taps(strip, taps, width);
    std::int64_t low = schedule_.rows, high = 0;
    each_run(first, last, [&](std::int64_t count, const Run& run) {
      low = std::min(low, run.row);
      high = std::max(high, run.row + (run.count + count - 2) * schedule_.row_step + 1);
    });
    pack(in_, strip, low, high, in, width);
    Coming<T> coming = beside(strip, low, high, last - first);
    if constexpr (std::is_same_v<R, A>) {
      if (to.repeats == 1 && strip.fold == 1 && strip.lanes == width)
        return from_panel(in, low, width, taps, first, last, coming,
                          to.row(strip.batch, first) + strip.lane, to.step);
    }
    from_panel(in, low, width, taps, first, last, coming, out, width);
    unpack(out, width, strip, first, last, to);
  }

  // The strip beside this one, or the first one of the rows that follow.
  Coming<T> beside(const Strip& strip, std::int64_t low, std::int64_t high,
                   std::int64_t positions) const {
    const std::int64_t lane = strip.lane + strip.lanes < lanes_ ? strip.lane + strip.lanes : 0;
    const std::int64_t first = std::max(in_.first(strip.batch), lane > 0 ? low : high);
    const std::int64_t last = std::min(in_.end(strip.batch), lane > 0 ? high : high + positions);
    if (first >= last) return {};
    return {in_.row(strip.batch, first) + lane / in_.repeats, in_.step,
            std::min(strip_, lanes_ - lane) / in_.repeats, last - first,
            ceil_div(last - first, positions)};
  }

  // Behind the taps stands what sums start from, where that is not zero.
  std::int64_t packed_taps() const { return taps_ + (kernel_.start != nullptr); }
  const K* packed_row(std::int64_t t) const {
    return t < taps_ ? kernel_.data + t * kernel_.step : kernel_.start;
  }

  // Every example of a folded strip meets the same taps.
  void pack_taps(const Strip& strip, A* taps, std::int64_t width) const {
    for (std::int64_t t = 0; t < packed_taps(); ++t, taps += width) {
      const K* const from = packed_row(t);
      A* to = taps;
      for (std::int64_t i = 0; i < strip.fold; ++i, to += strip.lanes)
        convert_row(from + strip.lane, to, strip.lanes);
      std::fill(to, taps + width, A{0});
    }
  }

  // The panel `in` holds rows from `low` on.
  void from_panel(const A* in, std::int64_t low, std::int64_t width, const A* taps,
                  std::int64_t first, std::int64_t last, Coming<T>& coming, A* out,
                  std::int64_t out_step) const {
    std::vector<TapRun<A>> runs;
    const A* const start = kernel_.start == nullptr ? nullptr : taps + taps_ * width;
    each_class(first, last, [&](std::int64_t i, std::int64_t position, std::int64_t count) {
      runs.clear();
      for (const Run& whole : schedule_.runs[i]) {
        const Run run = trimmed(whole, (position - i) / schedule_.classes, count);
        if (run.count > 0)
          runs.push_back({(run.row - low) * width, taps + run.tap * width, run.tap_step * width,
                          run.count});
      }
      tiles(in, schedule_.row_step * width, runs, start, out + (position - first) * out_step,
            schedule_.classes * out_step, count, width, coming);
    });
  }

  // `count` positions of one class, `lanes` lanes.
  template <typename X, typename Y>
  void tiles(const X* in, std::int64_t row_step, const std::vector<TapRun<A>>& runs,
             const A* start, Y* out, std::int64_t out_step, std::int64_t count,
             std::int64_t lanes, Coming<T>& coming) const {
    const Activation activation = kernel_.activation;
    constexpr std::int64_t wide = kVectors * kWidth<A>;
    const int n = static_cast<int>(runs.size());
#define SEPCONV_TILES(P)                                                                        \
  for (; count >= P; count -= P, in += P * row_step, out += P * out_step) {                     \
    coming.ask(P);                                                                              \
    std::int64_t lane = 0;                                                                      \
    for (; lane + wide <= lanes; lane += wide)                                                  \
      output_tile<A, P, kVectors>(in + lane, row_step, runs.data(), n, lane, start, activation,     \
                                  out + lane, out_step);                                            \
    for (; lane < lanes; lane += kWidth<A>) {                                                   \
      /* The last vector goes over lanes again rather than over the end. */                     \
      const std::int64_t at = std::min(lane, lanes - kWidth<A>);                                \
      output_tile<A, P, 1>(in + at, row_step, runs.data(), n, at, start, activation, out + at,      \
                           out_step);                                                               \
    }                                                                                           \
  }
    SEPCONV_TILES(kPositions)
    SEPCONV_TILES(4)
    SEPCONV_TILES(1)
#undef SEPCONV_TILES
  }

  // Call f(class, first position, number of positions) for the classes in [first, last).
  template <typename F>
  void each_class(std::int64_t first, std::int64_t last, F f) const {
    const std::int64_t classes = schedule_.classes;
    for (std::int64_t position = first; position < std::min(last, first + classes); ++position)
      f(position % classes, position, ceil_div(last - position, classes));
  }

  Run trimmed(const Run& run, std::int64_t at, std::int64_t count) const {
    return schedule_.trimmed(run, at, count, 0, schedule_.rows);
  }

  // Call f(number of positions, trimmed run) for the runs that meet any row.
  template <typename F>
  void each_run(std::int64_t first, std::int64_t last, F f) const {
    each_class(first, last, [&](std::int64_t i, std::int64_t position, std::int64_t count) {
      for (const Run& whole : schedule_.runs[i]) {
        const Run run = trimmed(whole, (position - i) / schedule_.classes, count);
        if (run.count > 0) f(count, run);
      }
    });
  }

  const Schedule& schedule_;
  const Rows<const T> in_;
  const Taps<K> kernel_;
  const std::int64_t taps_, batch_, lanes_;
  const std::int64_t fold_;  // examples side by side in a strip, where one has few lanes
  bool direct_;         // positions are computed without panels
  std::int64_t strip_;  // lanes of one example in a strip
  std::int64_t block_;  // positions of a panel
};
