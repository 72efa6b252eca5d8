// One chunk of the steps, some lanes, in one pass over the cotangents: while a block of them is in the
// caches, h is computed again for the gradient of the weights, and dh, the cotangents of h, for those
// of the taps and of x.

template <typename T>
class GradientsItem {
 public:
  using A = Accumulator<T>;

  GradientsItem(const GradientsPlan<T>& plan, std::int64_t lane, std::int64_t lanes, void* scratch,
                A* sums)
      : plan_(plan), p_(plan.p), own_(plan, lane, lanes), parts_(scratch),
        weights_(plan, own_, parts_, sums), dh_(plan, own_, parts_),
        taps_(plan.to_y, plan.x().of_lanes(lane, lanes), p_.taps, plan.fold, plan.block),
        sums_(sums) {
    tap_sums_ = parts_.template take<A>(wants_k() ? taps_.size() : 0);
    const std::size_t bytes = std::max(
        {own_.correlation.scratch_bytes(), taps_.scratch_bytes(), dh_.scratch_bytes()});
    scratch_ = parts_.template take<A>(bytes / sizeof(A) + 1);
  }

  std::size_t bytes() const { return parts_.bytes(); }

  void run(std::int64_t chunk) {
    [[maybe_unused]] const AmxInUse tiles{};
    weights_.begin();
    dh_.begin();
    if (wants_k()) std::fill(tap_sums_, tap_sums_ + taps_.size(), A{0});
    if (plan_.splits == 1) {
      const std::int64_t groups = plan_.groups, last = (chunk + 1) * groups / plan_.chunks;
      for (std::int64_t g = chunk * groups / plan_.chunks; g < last; ++g) add(g, 0, plan_.blocks);
    } else {
      const std::int64_t split = chunk % plan_.splits, blocks = plan_.blocks;
      add(chunk / plan_.splits, split * blocks / plan_.splits,
          (split + 1) * blocks / plan_.splits);
    }
    weights_.finish();
    if (wants_k())
      taps_.finish(tap_sums_, sums_ + plan_.weights_size() + own_.lane, p_.lanes());
  }

 private:
  bool wants_k() const { return plan_.out.k != nullptr; }

  // Add blocks [begin, end) of a group.
  void add(std::int64_t group, std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t n = own_.hidden.most(group, block), first = own_.hidden.first(block);
      if (n == 0 && p_.x_parts != nullptr && is_behind(group, first)) return;
      weights_.add(group, block, n, scratch_);
      if (!dh_.is_wanted()) continue;
      dh_.compute(group, block, block == begin);
      own_.hidden.each_fold(group, [&](std::int64_t fold, std::int64_t batch,
                                       std::int64_t examples) {
        const Rows<const A> dh = dh_.rows(group, batch, first);
        if (wants_k()) taps_.add(batch, examples, first, first + n, dh, tap_sums_, scratch_);
        if (plan_.out.x != nullptr) dh_.write_x(fold, block, dh, scratch_);
      });
      if (block + 1 < end) dh_.keep_halo(group, own_.hidden.count(block));
    }
  }

  // Whether x of all examples of a group ends before anything that positions from `first` on meet.
  bool is_behind(std::int64_t group, std::int64_t first) const {
    bool behind = true;
    own_.each_example(group, [&](std::int64_t example, std::int64_t) {
      const Part& part = p_.x_parts[example];
      behind = behind && (part.count == 0 || part.end() <= first * p_.stride - p_.pad_low);
    });
    return behind;
  }

  const GradientsPlan<T>& plan_;
  const Problem& p_;
  const ItemLanes<T> own_;
  Parts parts_;
  WeightSums<T> weights_;
  DhWindow<T> dh_;
  const TapSums<T, A> taps_;
  A* const sums_;
  A *tap_sums_, *scratch_;
};
