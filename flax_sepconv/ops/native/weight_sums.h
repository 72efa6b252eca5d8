// The sums of h y, the gradient of the weights (and of the bias), for the lanes of one item.

// Panels of cotangents that are packed together.
constexpr std::int64_t kPanelsAtOnce = 8;

template <typename T>
class WeightSums {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  // `sums` are those of a chunk.
  WeightSums(const GradientsPlan<T>& plan, const ItemLanes<T>& own, Parts& parts, A* sums)
      : plan_(plan), p_(plan.p), own_(own), sums_(sums) {
    const std::int64_t rows = factors<P>(own.hidden.most_examples() * plan.block);
    h_ = parts.template take<H>(is_wanted() ? own.hidden.size() : 0);
    cotangents_ = parts.template take<P>(is_wanted() ? kPanelsAtOnce * rows * kPanel<P> : 0);
    pairs_step_ = kHasAmx ? rows + kWidth<P> : ceil_div(own.lanes + 1, kWidth<P>) * kWidth<P>;
    pairs_ = parts.template take<P>(
        is_wanted() && kTerms<P> == 2 ? (kHasAmx ? own.lanes + 1 : rows) * pairs_step_ : 0);
    zeros_ = parts.template take<A>(kPanel<P>);
  }

  void begin() { std::fill(zeros_, zeros_ + kPanel<P>, A{0}); }

  // Add the products of h and y for n positions of a group's examples; those that have all of
  // them are one product.
  void add(std::int64_t group, std::int64_t block, std::int64_t n, A* scratch) {
    if (!is_wanted() || n == 0) return;
    own_.hidden.compute(group, block, n, h_, scratch);
    const std::int64_t examples = own_.hidden.examples(group);
    for (std::int64_t r = 0; wants_bias() && r < examples * n; ++r)
      h_[r * own_.hidden.step() + own_.lanes] = convert<H>(1.0f);
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < examples; ++i) {
      const std::int64_t own = own_.hidden.own(own_.hidden.first_batch(group) + i, block);
      if (own == n && n % kTerms<P> == 0 && i + 1 < examples && !reads_cotangents()) continue;
      add_examples(group, block, n, begin, i + 1);
      begin = i + 1;
    }
  }

  // Zeros, where nothing was added.
  void finish() {
    if (!is_wanted() || has_begun_) return;
    for (std::int64_t p = 0; p < panels_of<P>(plan_.filters); ++p) {
      const Sums<A> to = sums_of(p);
      const std::int64_t columns =
          columns_written<P>(std::min(kPanel<P>, plan_.filters - p * kPanel<P>));
      for (std::int64_t j = 0; j < own_.lanes; ++j)
        std::fill(to.data + j * to.step, to.data + j * to.step + columns, A{0});
      if (!wants_bias()) continue;
      A* const bias = partial_sums(p, p_.lanes());
      std::fill(bias, bias + kPanel<P>, A{0});
    }
  }

 private:
  bool is_wanted() const { return plan_.out.weights != nullptr; }
  // The last lanes have the bias with them: its products are with ones, in a column behind h.
  bool wants_bias() const {
    return plan_.out.bias != nullptr && own_.lane + own_.lanes == p_.lanes();
  }

  // Where the sums of a panel's weights lie: where they belong, if tiles write nothing else.
  Sums<A> sums_of(std::int64_t panel) const {
    const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, plan_.filters - f);
    if constexpr (is_all<A, T>) {
      if (plan_.writes_in_place(columns))
        return {plan_.out.weights + own_.lane * plan_.filters + f, plan_.filters};
    }
    return {partial_sums(panel, own_.lane), kPanel<P>};
  }
  A* partial_sums(std::int64_t panel, std::int64_t lane) const {
    return sums_ + (panel * plan_.panel_rows() + lane) * kPanel<P>;
  }

  // Whether y is multiplied where it lies: with one tile of rows, packing would be half the work.
  bool reads_cotangents() const {
    return is_all<T, P> && own_.lanes + wants_bias() <= kTileRows && plan_.filters >= kPanel<P>;
  }

  // The same for examples [begin, end) of the group, all of which but the last have n positions.
  void add_examples(std::int64_t group, std::int64_t block, std::int64_t n, std::int64_t begin,
                    std::int64_t end) {
    const std::int64_t example = own_.hidden.first_batch(group) + end - 1;
    const std::int64_t last = own_.hidden.own(example, block);
    const std::int64_t depth = (end - 1 - begin) * n + last, filters = plan_.filters;
    if (depth == 0) return;
    const H* const h = h_ + begin * n * own_.hidden.step();
    if constexpr (kTerms<P> == 2 && kHasAmx)
      pack_pairs_transposed(h, own_.hidden.step(), depth, own_.lanes + wants_bias(), pairs_,
                            pairs_step_);
    else if constexpr (kTerms<P> == 2)
      pack_columns(h, own_.hidden.step(), depth, own_.lanes + wants_bias(), pairs_, pairs_step_);
    std::int64_t f = 0;
    if constexpr (is_all<T, P>) {
      const T* const y = plan_.y + (own_.hidden.origin(example) + own_.hidden.first(block)) * filters;
      for (; reads_cotangents() && f + kPanel<P> <= filters; f += kPanel<P>) {
        ask_for_cotangents(example, block + 1, f);
        add_panel(h, Panel<P>{y + f, filters}, depth, f, kPanel<P>);
      }
    }
    const std::int64_t panel_size = factors<P>(depth) * kPanel<P>;
    while (f < filters) {
      const std::int64_t behind = std::min(filters, f + kPanelsAtOnce * kPanel<P>);
      pack_cotangents(group, block, begin, end, f, behind, panel_size);
      const P* panel = cotangents_;
      for (; f < behind; f += kPanel<P>, panel += panel_size)
        add_panel(h, Panel<P>{panel}, depth, f, std::min(kPanel<P>, behind - f));
      f = behind;
    }
    has_begun_ = true;
  }

  // Ask for a part of the rows of y that are read next, as large as a panel is of all columns.
  void ask_for_cotangents(std::int64_t example, std::int64_t block, std::int64_t f) const {
    if (block == plan_.blocks) return;
    const std::int64_t n = own_.hidden.own(example, block), filters = plan_.filters;
    const T* const y = plan_.y + (own_.hidden.origin(example) + own_.hidden.first(block)) * filters;
    ask_for(y + n * f, n * kPanel<P>);
  }

  // Add the products of h and a panel of y, whose columns are [f, f + columns) of all.
  void add_panel(const H* h, Panel<P> y, std::int64_t depth, std::int64_t f,
                 std::int64_t columns) {
    const Sums<A> sums = sums_of(f / kPanel<P>);
    const auto factors_of = [&](std::int64_t lane) {
      if constexpr (kTerms<P> == 2 && kHasAmx)
        return Matrix<P>{pairs_ + lane * pairs_step_, pairs_step_, 1};
      else if constexpr (kTerms<P> == 2)
        return Matrix<P>{pairs_ + lane, 1, pairs_step_};
      else
        return Matrix<H>{h + lane, 1, own_.hidden.step()};
    };
    const auto add = [&](std::int64_t lane, std::int64_t lanes, Sums<A> to) {
      const Sums<const A> start = has_begun_ ? Sums<const A>{to.data, to.step}
                                             : Sums<const A>{zeros_, 0};
      product(factors_of(lane), lanes, y, factors<P>(depth), columns, start, to);
    };
    A* const bias = partial_sums(f / kPanel<P>, p_.lanes());
    if (plan_.rounds_in_place(columns)) {
      T* const weights = plan_.out.weights + own_.lane * plan_.filters + f;
      product_into(factors_of(0), own_.lanes, y, factors<P>(depth), columns,
                   Sums<const A>{zeros_, 0}, Sums<T>{weights, plan_.filters},
                   static_cast<A*>(nullptr), Write::kCached);
      if (wants_bias()) add(own_.lanes, 1, {bias, kPanel<P>});
      return;
    }
    const bool follows = wants_bias() && sums.data + own_.lanes * sums.step == bias;
    add(0, own_.lanes + follows, sums);
    if (wants_bias() && !follows) add(own_.lanes, 1, {bias, kPanel<P>});
  }

  // Columns [f, last) of y of the examples, one below the other, in panels. Rows are read from end
  // to end.
  void pack_cotangents(std::int64_t group, std::int64_t block, std::int64_t begin,
                       std::int64_t end, std::int64_t f, std::int64_t last,
                       std::int64_t panel_size) {
    constexpr std::int64_t terms = kTerms<P>;
    const std::int64_t filters = plan_.filters;
    P* to = cotangents_;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t example = own_.hidden.first_batch(group) + i;
      const std::int64_t own = own_.hidden.own(example, block);
      const T* y = plan_.y + (own_.hidden.origin(example) + own_.hidden.first(block)) * filters;
      for (std::int64_t r = 0; r < own; r += terms, y += terms * filters, to += kPanel<P>) {
        P* panel = to;
        for (std::int64_t g = f; g < last; g += kPanel<P>, panel += panel_size)
          pack_columns(y + g, filters, std::min(terms, own - r), std::min(kPanel<P>, last - g),
                       panel);
      }
    }
  }

  const GradientsPlan<T>& plan_;
  const Problem& p_;
  const ItemLanes<T>& own_;
  A* const sums_;
  H* h_;
  P *cotangents_, *pairs_;
  // From pair to pair of one lane, or, where tiles read the pairs of a lane, from lane to lane.
  std::int64_t pairs_step_;
  A* zeros_;
  bool has_begun_ = false;  // The sums hold something.
};
