// One chunk of the steps, some lanes, in one pass over the cotangents: while a block of them is in the
// caches, h is computed again for the gradient of the weights, and dh, the cotangents of h, for those
// of the taps and of x.

// Panels of cotangents that are packed together.
constexpr std::int64_t kPanelsAtOnce = 8;

// Parts of a thread's scratch memory, one behind the other.
class Parts {
 public:
  explicit Parts(void* begin) : begin_(static_cast<char*>(begin)) {}

  template <typename V>
  V* take(std::int64_t count) {
    char* const part = begin_ + bytes_;
    bytes_ += (count * sizeof(V) + 63) / 64 * 64;
    return reinterpret_cast<V*>(part);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  char* const begin_;
  std::size_t bytes_ = 0;
};

template <typename T>
class GradientsItem {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  GradientsItem(const GradientsPlan<T>& plan, std::int64_t lane, std::int64_t lanes, void* scratch,
       A* sums)
      : plan_(plan), p_(plan.p), lane_(lane), lanes_(lanes), correlation_(plan.forward(lane, lanes)),
        hidden_{correlation_, p_.output_length, lanes, p_.batch, p_.y_parts},
        taps_(plan.to_y, plan.x().of_lanes(lane, lanes), p_.taps, plan.fold, plan.block),
        panels_(panels_of<P>(lanes)), held_(plan.halo + plan.block), parts_(scratch), sums_(sums) {
    const std::int64_t rows = hidden_.most_examples() * plan.block;
    h_ = parts_.template take<H>(hidden_.size());
    cotangents_ = parts_.template take<P>(kPanelsAtOnce * factors<P>(rows) * kPanel<P>);
    pairs_ = parts_.template take<P>(kTerms<P> == 2 ? factors<P>(rows) * pairs_step() : 0);
    weights_ = parts_.template take<P>(needs_dh() ? panels_ * weights_size() : 0);
    window_ = parts_.template take<A>(needs_dh() ? hidden_.most_examples() * held_ * window_step() : 0);
    rows_ = parts_.template take<H>(needs_dh() && !reads_in_place() ? std::max(rows, held_) * rows_step() : 0);
    zeros_ = parts_.template take<A>(kPanel<P>);
    tap_sums_ = parts_.template take<A>(wants_k() ? taps_.size() : 0);
    const std::size_t scratch_bytes =
        std::max({correlation_.scratch_bytes(), taps_.scratch_bytes(),
                  backward(dh_rows(0, 0, 0)).scratch_bytes()});
    scratch_ = parts_.template take<A>(scratch_bytes / sizeof(A) + 1);
  }

  std::size_t bytes() const { return parts_.bytes(); }

  void run(std::int64_t chunk) {
    std::fill(zeros_, zeros_ + kPanel<P>, A{0});
    if (wants_k()) std::fill(tap_sums_, tap_sums_ + taps_.size(), A{0});
    if (needs_dh()) pack_weights();
    if (plan_.splits == 1) {
      const std::int64_t groups = plan_.groups, last = (chunk + 1) * groups / plan_.chunks;
      for (std::int64_t g = chunk * groups / plan_.chunks; g < last; ++g)
        add(g, 0, plan_.blocks);
    } else {
      const std::int64_t split = chunk % plan_.splits, blocks = plan_.blocks;
      add(chunk / plan_.splits, split * blocks / plan_.splits,
          (split + 1) * blocks / plan_.splits);
    }
    if (wants_w() && !has_begun_) clear_weights();
    if (wants_k()) taps_.finish(tap_sums_, tap_out(), p_.lanes());
  }

 private:
  bool wants_x() const { return plan_.out.x != nullptr; }
  bool wants_k() const { return plan_.out.k != nullptr; }
  bool wants_w() const { return plan_.out.weights != nullptr; }
  bool needs_dh() const { return wants_x() || wants_k(); }
  // The last lanes have the bias with them: its products are with ones, in a column behind h.
  bool wants_bias() const {
    return plan_.out.bias != nullptr && lane_ + lanes_ == p_.lanes();
  }
  A* tap_out() const { return sums_ + plan_.weights_size() + lane_; }

  std::int64_t pairs_step() const { return ceil_div(lanes_ + 1, kWidth<P>) * kWidth<P>; }
  std::int64_t weights_size() const { return factors<P>(plan_.filters) * kPanel<P>; }
  // Rows a power of two apart would compete for the same lines of a cache.
  std::int64_t window_step() const { return panels_ * kPanel<P> + kWidth<A>; }
  std::int64_t rows_step() const { return (plan_.filters + 1) / 2 * 2; }
  // Whether factors can be read out of y: it has their type, and each row whole ones.
  bool reads_in_place() const {
    return is_all<T, H> && plan_.filters % kTerms<P> == 0;
  }

  void pack_weights() {
    for (std::int64_t q = 0; q < panels_; ++q)
      pack_rows_as_columns(plan_.in.weights + (lane_ + q * kPanel<P>) * plan_.filters,
                           plan_.filters, plan_.filters,
                           std::min(kPanel<P>, lanes_ - q * kPanel<P>),
                           weights_ + q * weights_size());
  }

  // Add blocks [begin, end) of a group.
  void add(std::int64_t group, std::int64_t begin, std::int64_t end) {
    for (std::int64_t block = begin; block < end; ++block) {
      const std::int64_t n = hidden_.most(group, block), first = hidden_.first(block);
      if (n == 0 && p_.x_parts != nullptr && is_behind(group, first)) return;
      if (wants_w() && n > 0) add_weights(group, block, n);
      if (!needs_dh()) continue;
      if (block == begin && block > 0) {
        const std::int64_t from = std::max<std::int64_t>(0, first - plan_.halo);
        each_example(group, [&](std::int64_t example, std::int64_t i) {
          compute_dh(example, i, from, first, first);
        });
      }
      const std::int64_t count = hidden_.count(block);
      if (p_.y_parts == nullptr && plan_.blocks == 1)
        // All rows of neighbouring examples: of one, as it were.
        multiply(hidden_.first_batch(group) * count, hidden_.examples(group) * count, window_);
      else
        each_example(group, [&](std::int64_t example, std::int64_t i) {
          compute_dh(example, i, first, first + count, first);
        });
      hidden_.each_fold(group, [&](std::int64_t fold, std::int64_t batch, std::int64_t examples) {
        const Rows<const A> dh = dh_rows(group, batch, first);
        if (wants_k() && n > 0)
          taps_.add(batch, examples, first, first + n, dh, tap_sums_, scratch_);
        if (wants_x())
          write_x(fold, first, first + count, block == 0, block + 1 == plan_.blocks, dh);
      });
      if (block + 1 < end) keep_halo(group, count);
    }
  }

  // Whether x of all examples of a group ends before anything that positions from `first` on meet.
  bool is_behind(std::int64_t group, std::int64_t first) const {
    bool behind = true;
    each_example(group, [&](std::int64_t example, std::int64_t) {
      const Part& part = p_.x_parts[example];
      behind = behind && (part.count == 0 || part.end() <= first * p_.stride - p_.pad_low);
    });
    return behind;
  }

  template <typename F>
  void each_example(std::int64_t group, F f) const {
    for (std::int64_t i = 0; i < hidden_.examples(group); ++i)
      f(hidden_.first_batch(group) + i, i);
  }

  // The window: of each example, dh of the positions of a block and of those before that x needs.
  A* window_row(std::int64_t i, std::int64_t position, std::int64_t first) const {
    return window_ + (i * held_ + plan_.halo + position - first) * window_step();
  }
  Rows<const A> dh_rows(std::int64_t group, std::int64_t batch, std::int64_t first) const {
    std::int64_t positions = p_.output_length;
    if (p_.y_parts != nullptr && plan_.fold == 1) positions = p_.y_parts[batch].count;
    return {window_, positions, lanes_, window_step(), 1, hidden_.first_batch(group),
            first - plan_.halo, nullptr, held_};
  }
  void keep_halo(std::int64_t group, std::int64_t count) {
    const std::int64_t size = plan_.halo * window_step();
    each_example(group, [&](std::int64_t, std::int64_t i) {
      A* const rows = window_ + i * held_ * window_step();
      std::copy(rows + count * window_step(), rows + count * window_step() + size, rows);
    });
  }

  // dh = y w^T of positions [from, to) of example i of a group; zeros where it has none.
  void compute_dh(std::int64_t example, std::int64_t i, std::int64_t from, std::int64_t to,
                  std::int64_t first) {
    const std::int64_t own = p_.y_parts == nullptr ? to : p_.y_parts[example].count;
    const std::int64_t n = std::clamp<std::int64_t>(own - from, 0, to - from);
    A* const out = window_row(i, from, first);
    if (n > 0) multiply(hidden_.origin(example) + from, n, out);
    std::fill(out + n * window_step(), out + (to - from) * window_step(), A{0});
  }

  // Rows of y, from row `first` of all, times w^T.
  void multiply(std::int64_t first, std::int64_t n, A* out) {
    const std::int64_t filters = plan_.filters;
    const T* const y = plan_.y + first * filters;
    Matrix<H> a{rows_, rows_step(), kTerms<P>};
    if constexpr (is_all<T, H>) {
      if (reads_in_place()) a = {y, filters, kTerms<P>};
    }
    for (std::int64_t r = 0; r < n && !reads_in_place(); ++r) {
      convert_row(y + r * filters, rows_ + r * rows_step(), filters);
      if (filters % 2 != 0) rows_[(r + 1) * rows_step() - 1] = H{0};
    }
    for (std::int64_t q = 0; q < panels_; ++q)
      product(a, n, Panel<P>{weights_ + q * weights_size()}, factors<P>(filters),
              std::min(kPanel<P>, lanes_ - q * kPanel<P>), Sums<const A>{zeros_, 0},
              Sums<A>{out + q * kPanel<P>, window_step()});
  }

  Correlation<A, T, T> backward(const Rows<const A>& dh) const {
    return {plan_.to_x, dh, Taps<T>{plan_.in.k + lane_, p_.taps, p_.lanes()}, p_.multiplier,
            p_.batch, 128, plan_.fold};
  }

  // The rows of x that need no later dh than of positions [.., to).
  void write_x(std::int64_t fold, std::int64_t from, std::int64_t to, bool is_first,
               bool is_last, const Rows<const A>& dh) {
    const std::int64_t rows = plan_.to_x.positions;
    const auto row = [&](std::int64_t position) {
      return std::clamp<std::int64_t>(position * p_.stride - p_.pad_low, 0, rows);
    };
    const std::int64_t begin = is_first ? 0 : row(from), end = is_last ? rows : row(to);
    const Correlation<A, T, T> correlation = backward(dh);
    const Rows<T> out =
        Rows<T>{plan_.out.x, p_.length, p_.channels, p_.channels, p_.multiplier, 0, 0, p_.x_parts}
            .of_lanes(lane_, lanes_);
    for (std::int64_t first = begin; first < end; first += correlation.block())
      correlation.run_block(fold, first, std::min(end, first + correlation.block()), out,
                            scratch_);
  }

  // Where the sums of a panel's weights lie: where they belong, if tiles write nothing else.
  Sums<A> weight_sums(std::int64_t panel) const {
    const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, plan_.filters - f);
    if constexpr (is_all<A, T>) {
      if (plan_.writes_in_place(columns))
        return {plan_.out.weights + lane_ * plan_.filters + f, plan_.filters};
    }
    return {partial_sums(panel, lane_), kPanel<P>};
  }
  A* partial_sums(std::int64_t panel, std::int64_t lane) const {
    return sums_ + (panel * plan_.panel_rows() + lane) * kPanel<P>;
  }

  void clear_weights() {
    for (std::int64_t p = 0; p < panels_of<P>(plan_.filters); ++p) {
      const Sums<A> to = weight_sums(p);
      const std::int64_t columns =
          columns_written<P>(std::min(kPanel<P>, plan_.filters - p * kPanel<P>));
      for (std::int64_t j = 0; j < lanes_; ++j)
        std::fill(to.data + j * to.step, to.data + j * to.step + columns, A{0});
      if (!wants_bias()) continue;
      A* const bias = partial_sums(p, p_.lanes());
      std::fill(bias, bias + kPanel<P>, A{0});
    }
  }

  // Add the products of h and y for n positions of a group's examples; those that have all of
  // them are one product.
  void add_weights(std::int64_t group, std::int64_t block, std::int64_t n) {
    hidden_.compute(group, block, n, h_, scratch_);
    const std::int64_t examples = hidden_.examples(group);
    for (std::int64_t r = 0; wants_bias() && r < examples * n; ++r)
      h_[r * hidden_.step() + lanes_] = convert<H>(1.0f);
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < examples; ++i) {
      const std::int64_t own = hidden_.own(hidden_.first_batch(group) + i, block);
      if (own == n && n % kTerms<P> == 0 && i + 1 < examples && !reads_cotangents()) continue;
      add_examples(group, block, n, begin, i + 1);
      begin = i + 1;
    }
  }

  // Whether y is multiplied where it lies: with one tile of rows, packing would be half the work.
  bool reads_cotangents() const {
    return is_all<T, P> && lanes_ + wants_bias() <= kTileRows && plan_.filters >= kPanel<P>;
  }

  // The same for examples [begin, end) of the group, all of which but the last have n positions.
  void add_examples(std::int64_t group, std::int64_t block, std::int64_t n, std::int64_t begin,
                    std::int64_t end) {
    const std::int64_t example = hidden_.first_batch(group) + end - 1;
    const std::int64_t last = hidden_.own(example, block);
    const std::int64_t depth = (end - 1 - begin) * n + last, filters = plan_.filters;
    if (depth == 0) return;
    const H* const h = h_ + begin * n * hidden_.step();
    if constexpr (kTerms<P> == 2)
      pack_columns(h, hidden_.step(), depth, lanes_ + wants_bias(), pairs_, pairs_step());
    std::int64_t f = 0;
    if constexpr (is_all<T, P>) {
      const T* const y = plan_.y + (hidden_.origin(example) + hidden_.first(block)) * filters;
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
    const std::int64_t n = hidden_.own(example, block), filters = plan_.filters;
    const T* const y = plan_.y + (hidden_.origin(example) + hidden_.first(block)) * filters;
    ask_for(y + n * f, n * kPanel<P>);
  }

  // Add the products of h and a panel of y, whose columns are [f, f + columns) of plan.
  void add_panel(const H* h, Panel<P> y, std::int64_t depth, std::int64_t f,
                 std::int64_t columns) {
    const Sums<A> sums = weight_sums(f / kPanel<P>);
    const auto add = [&](std::int64_t lane, std::int64_t lanes, Sums<A> to) {
      const Sums<const A> start = has_begun_ ? Sums<const A>{to.data, to.step}
                                             : Sums<const A>{zeros_, 0};
      if constexpr (kTerms<P> == 2)
        product(Matrix<P>{pairs_ + lane, 1, pairs_step()}, lanes, y, factors<P>(depth), columns,
                start, to);
      else
        product(Matrix<H>{h + lane, 1, hidden_.step()}, lanes, y, depth, columns, start, to);
    };
    A* const bias = partial_sums(f / kPanel<P>, p_.lanes());
    const bool follows = wants_bias() && sums.data + lanes_ * sums.step == bias;
    add(0, lanes_ + follows, sums);
    if (wants_bias() && !follows) add(lanes_, 1, {bias, kPanel<P>});
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
      const std::int64_t example = hidden_.first_batch(group) + i;
      const std::int64_t own = hidden_.own(example, block);
      const T* y = plan_.y + (hidden_.origin(example) + hidden_.first(block)) * filters;
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
  const std::int64_t lane_, lanes_;
  const Correlation<T, H> correlation_;
  const HiddenBlock<T, H> hidden_;
  const TapSums<T, A> taps_;
  const std::int64_t panels_, held_;
  Parts parts_;
  A* const sums_;
  H *h_, *rows_;
  P *cotangents_, *pairs_, *weights_;
  A *window_, *zeros_, *tap_sums_, *scratch_;
  bool has_begun_ = false;  // The weights' sums hold something.
};
