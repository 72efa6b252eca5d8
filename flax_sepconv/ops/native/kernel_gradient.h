// Kernel gradient: every tap sums the products of cotangents with the rows they meet through it.

template <typename T, typename R>
class KernelGradient {
 public:
  using A = Accumulator<T>;

  KernelGradient(const Schedule& schedule, Rows<const T> x, Rows<const T> y, std::int64_t taps,
                 std::int64_t batch, R* out)
      : schedule_(schedule), x_(x), y_(y), taps_(taps), batch_(batch), lanes_(y.lanes()),
        out_(out), fold_(examples_side_by_side<A>(lanes_, batch)) {
    block_ = std::min(block_positions(schedule.classes, 128), schedule.positions);
    blocks_ = ceil_div(schedule.positions, block_);
    cut();
  }

  void run(Pool& pool) const {
    const std::int64_t lane_items = ceil_div(lanes_, item_lanes_);
    const Scratch partials(sizeof(A) * chunks_ * taps_ * lanes_);
    A* const sums = static_cast<A*>(partials.data());
    const TapSums<T, T> most = of_lanes(0, std::min(item_lanes_, lanes_));
    parallel_for(pool, chunks_ * lane_items, sizeof(A) * most.size() + most.scratch_bytes(),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t chunk = item / lane_items;
                   const std::int64_t lane = item % lane_items * item_lanes_;
                   chunk_of_lanes(chunk, lane, std::min(item_lanes_, lanes_ - lane),
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
    const TapSums<T, T> all = of_lanes(0, lanes_);
    const std::int64_t units = ceil_div(batch_, fold_) * blocks_;
    const std::int64_t work = batch_ * schedule_.positions * taps_ * lanes_;
    const std::int64_t wanted = std::clamp<std::int64_t>(work >> 19, 1, 64);
    const std::int64_t all_strips = ceil_div(lanes_, all.strip());
    // Partial sums of more chunks than these would be a burden of their own.
    const std::int64_t most =
        std::clamp<std::int64_t>(batch_ * schedule_.positions / (4 * taps_), 1, units);
    std::int64_t strips = all_strips;
    if (all.direct()) {
      chunks_ = std::min(wanted, most);
      if (chunks_ * 2 < wanted) strips = ceil_div(all_strips, ceil_div(wanted, chunks_));
    } else {
      strips = std::max<std::int64_t>(1, all_strips / wanted);
      chunks_ = std::min(ceil_div(wanted, ceil_div(all_strips, strips)), most);
    }
    item_lanes_ = strips * all.strip();
  }

  TapSums<T, T> of_lanes(std::int64_t lane, std::int64_t lanes) const {
    return {schedule_, x_.of_lanes(lane, lanes), taps_, fold_, block_};
  }

  // Sum over one chunk into gradient[t * lanes_ + j], for `lanes` lanes from `lane` on.
  void chunk_of_lanes(std::int64_t chunk, std::int64_t lane, std::int64_t lanes, A* gradient,
                      A* sums) const {
    const TapSums<T, T> taps = of_lanes(lane, lanes);
    const Rows<const T> y = y_.of_lanes(lane, lanes);
    const std::int64_t units = ceil_div(batch_, fold_) * blocks_;
    const std::int64_t first = chunk * units / chunks_, last = (chunk + 1) * units / chunks_;
    std::fill(sums, sums + taps.size(), A{0});
    for (std::int64_t unit = first; unit < last; ++unit) {
      const std::int64_t batch = unit / blocks_ * fold_;
      const std::int64_t fold = std::min(fold_, batch_ - batch), from = unit % blocks_ * block_;
      const auto [start, end] =
          y_.cut(batch, fold, from, std::min(schedule_.positions, from + block_));
      taps.add(batch, fold, start, end, y, sums, sums + taps.size());
    }
    taps.finish(sums, gradient + lane, lanes_);
  }

  // The chunks' sums, added in their order.
  void add_chunks(A* sums, std::int64_t first, std::int64_t last) const {
    for (std::int64_t chunk = 1; chunk < chunks_; ++chunk)
      for (std::int64_t j = first; j < last; ++j) sums[j] += sums[chunk * taps_ * lanes_ + j];
    convert_row(sums + first, out_ + first, last - first);
  }

  const Schedule& schedule_;
  const Rows<const T> x_, y_;
  const std::int64_t taps_, batch_, lanes_;
  R* const out_;
  const std::int64_t fold_;  // examples side by side in a strip, where one has few lanes
  std::int64_t item_lanes_;  // of one item
  std::int64_t block_, blocks_, chunks_;
};
