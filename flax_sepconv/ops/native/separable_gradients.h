// The gradients of both stages, those that are wanted, in one pass over the cotangents: while a
// block of them is in the caches, h is computed again for the gradient of the weights, and dh, the
// cotangents of h, for those of the taps and of x.

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

// Lanes of one item: as many as the caches hold the weights and sums of.
constexpr std::int64_t kItemLanes = 256;
constexpr std::int64_t kItemsPerThread = 3;
// Panels of cotangents that are packed together.
constexpr std::int64_t kPanelsAtOnce = 8;

template <typename T>
class SeparableGradients {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  SeparableGradients(const Problem& p, const Separated<const T*>& in, const T* y,
                     const Separated<T*>& out)
      : p_(p), in_(in), y_(y), out_(out), filters_(in.filters), to_y_(output_schedule(p)),
        to_x_(input_gradient_schedule(p)), fold_(examples_side_by_side<A>(p.lanes(), p.batch)) {
    positions_ = cached_positions<A>(std::min(p.lanes(), kItemLanes), filters_);
    const Correlation<T, H> correlation = forward(0, p.lanes());
    const HiddenBlock<T, H> hidden{correlation, p.output_length, p.lanes(), p.batch, p.y_parts};
    block_ = correlation.block();
    blocks_ = correlation.blocks();
    groups_ = hidden.groups();
    const std::int64_t reach = (p.taps - 1) * p.dilation / p.stride;
    halo_ = out.x == nullptr || blocks_ == 1 ? 0 : std::min(reach, p.output_length);
    // Cut by shape alone, so that the order of every sum is the same for any number of threads.
    const std::int64_t steps = p.batch * p.output_length, size = (p.lanes() + p.taps) * filters_;
    const std::int64_t most = std::max<std::int64_t>(512, 4 * halo_);
    chunks_ = std::clamp<std::int64_t>(std::min(steps / most, (1 << 24) / size), 1, 64);
    if (chunks_ > groups_) {
      splits_ = std::min(chunks_ / groups_, blocks_);
      chunks_ = groups_ * splits_;
    }
  }

  void run(Pool& pool) const {
    const std::int64_t lanes = p_.lanes(), item_lanes = lanes_of_item(pool.threads());
    const std::int64_t ranges = ceil_div(lanes, item_lanes);
    const Scratch partials(sizeof(A) * chunks_ * sums_size());
    A* const sums = static_cast<A*>(partials.data());
    parallel_for(pool, chunks_ * ranges, Item(*this, 0, item_lanes, nullptr, nullptr).bytes(),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t lane = item % ranges * item_lanes;
                   Item(*this, lane, std::min(item_lanes, lanes - lane), scratch,
                        sums + item / ranges * sums_size())
                       .run(item / ranges);
                 });
    const std::int64_t panels = out_.weights == nullptr ? 0 : panels_of<P>(filters_);
    parallel_for(pool, panels + 1, 0, [&](std::int64_t item, void*) {
      if (item < panels)
        finish_panel(sums + item * panel_rows() * kPanel<P>, item);
      else
        finish_taps(sums + weights_size());
    });
  }

 private:
  // Sums of a chunk: of the weights and, below them, of the bias, panel by panel; of the taps. Those
  // of the weights may lie where they belong.
  bool in_place() const { return is_all<A, T> && chunks_ == 1; }
  std::int64_t panel_rows() const { return p_.lanes() + (out_.bias != nullptr); }
  std::int64_t weights_size() const {
    return out_.weights == nullptr ? 0 : panels_of<P>(filters_) * panel_rows() * kPanel<P>;
  }
  std::int64_t taps_size() const { return out_.k == nullptr ? 0 : p_.taps * p_.lanes(); }
  std::int64_t sums_size() const { return weights_size() + taps_size(); }

  // Whole columns of x and, where that can be, whole panels, for enough items for so many threads.
  // How lanes are divided changes no sum.
  std::int64_t lanes_of_item(std::int64_t threads) const {
    const std::int64_t panels = std::lcm(p_.multiplier, kPanel<P>);
    const std::int64_t unit = panels <= kItemLanes ? panels : p_.multiplier;
    const std::int64_t even = ceil_div(p_.lanes(), ceil_div(kItemsPerThread * threads, chunks_));
    const std::int64_t wanted = std::clamp(even, 2 * kPanel<P>, kItemLanes);
    return std::min(p_.lanes(), ceil_div(wanted, unit) * unit);
  }

  Rows<const T> x() const {
    return {in_.x, p_.length, p_.channels, p_.channels, p_.multiplier, 0, 0, p_.x_parts};
  }
  Correlation<T, H> forward(std::int64_t lane, std::int64_t lanes) const {
    return {to_y_, x().of_lanes(lane, lanes), Taps<T>{in_.k + lane, p_.taps, p_.lanes()}, 1,
            p_.batch, positions_, fold_};
  }

  // One chunk of the steps, some lanes.
  class Item {
   public:
    Item(const SeparableGradients& all, std::int64_t lane, std::int64_t lanes, void* scratch,
         A* sums)
        : all_(all), p_(all.p_), lane_(lane), lanes_(lanes), correlation_(all.forward(lane, lanes)),
          hidden_{correlation_, p_.output_length, lanes, p_.batch, p_.y_parts},
          taps_(all.to_y_, all.x().of_lanes(lane, lanes), p_.taps, all.fold_, all.block_),
          panels_(panels_of<P>(lanes)), held_(all.halo_ + all.block_), parts_(scratch), sums_(sums) {
      const std::int64_t rows = hidden_.most_examples() * all.block_;
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
      if (all_.splits_ == 1) {
        const std::int64_t groups = all_.groups_, last = (chunk + 1) * groups / all_.chunks_;
        for (std::int64_t g = chunk * groups / all_.chunks_; g < last; ++g)
          add(g, 0, all_.blocks_);
      } else {
        const std::int64_t split = chunk % all_.splits_, blocks = all_.blocks_;
        add(chunk / all_.splits_, split * blocks / all_.splits_,
            (split + 1) * blocks / all_.splits_);
      }
      if (wants_w() && !has_begun_) clear_weights();
      if (wants_k()) taps_.finish(tap_sums_, tap_out(), p_.lanes());
    }

   private:
    bool wants_x() const { return all_.out_.x != nullptr; }
    bool wants_k() const { return all_.out_.k != nullptr; }
    bool wants_w() const { return all_.out_.weights != nullptr; }
    bool needs_dh() const { return wants_x() || wants_k(); }
    // The last lanes have the bias with them: its products are with ones, in a column behind h.
    bool wants_bias() const {
      return all_.out_.bias != nullptr && lane_ + lanes_ == p_.lanes();
    }
    A* tap_out() const { return sums_ + all_.weights_size() + lane_; }

    std::int64_t pairs_step() const { return ceil_div(lanes_ + 1, kWidth<P>) * kWidth<P>; }
    std::int64_t weights_size() const { return factors<P>(all_.filters_) * kPanel<P>; }
    // Rows a power of two apart would compete for the same lines of a cache.
    std::int64_t window_step() const { return panels_ * kPanel<P> + kWidth<A>; }
    std::int64_t rows_step() const { return (all_.filters_ + 1) / 2 * 2; }
    // Whether factors can be read out of y: it has their type, and each row whole ones.
    bool reads_in_place() const {
      return is_all<T, H> && all_.filters_ % kTerms<P> == 0;
    }

    void pack_weights() {
      for (std::int64_t q = 0; q < panels_; ++q)
        pack_rows_as_columns(all_.in_.weights + (lane_ + q * kPanel<P>) * all_.filters_,
                             all_.filters_, all_.filters_,
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
          const std::int64_t from = std::max<std::int64_t>(0, first - all_.halo_);
          each_example(group, [&](std::int64_t example, std::int64_t i) {
            compute_dh(example, i, from, first, first);
          });
        }
        const std::int64_t count = hidden_.count(block);
        if (p_.y_parts == nullptr && all_.blocks_ == 1)
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
            write_x(fold, first, first + count, block == 0, block + 1 == all_.blocks_, dh);
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
      return window_ + (i * held_ + all_.halo_ + position - first) * window_step();
    }
    Rows<const A> dh_rows(std::int64_t group, std::int64_t batch, std::int64_t first) const {
      std::int64_t positions = p_.output_length;
      if (p_.y_parts != nullptr && all_.fold_ == 1) positions = p_.y_parts[batch].count;
      return {window_, positions, lanes_, window_step(), 1, hidden_.first_batch(group),
              first - all_.halo_, nullptr, held_};
    }
    void keep_halo(std::int64_t group, std::int64_t count) {
      const std::int64_t size = all_.halo_ * window_step();
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
      const std::int64_t filters = all_.filters_;
      const T* const y = all_.y_ + first * filters;
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
      return {all_.to_x_, dh, Taps<T>{all_.in_.k + lane_, p_.taps, p_.lanes()}, p_.multiplier,
              p_.batch, 128, all_.fold_};
    }

    // The rows of x that need no later dh than of positions [.., to).
    void write_x(std::int64_t fold, std::int64_t from, std::int64_t to, bool is_first,
                 bool is_last, const Rows<const A>& dh) {
      const std::int64_t rows = all_.to_x_.positions;
      const auto row = [&](std::int64_t position) {
        return std::clamp<std::int64_t>(position * p_.stride - p_.pad_low, 0, rows);
      };
      const std::int64_t begin = is_first ? 0 : row(from), end = is_last ? rows : row(to);
      const Correlation<A, T, T> correlation = backward(dh);
      const Rows<T> out =
          Rows<T>{all_.out_.x, p_.length, p_.channels, p_.channels, p_.multiplier, 0, 0, p_.x_parts}
              .of_lanes(lane_, lanes_);
      for (std::int64_t first = begin; first < end; first += correlation.block())
        correlation.run_block(fold, first, std::min(end, first + correlation.block()), out,
                              scratch_);
    }

    // Where the sums of a panel's weights lie: where they belong, if tiles write nothing else.
    Sums<A> weight_sums(std::int64_t panel) const {
      const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, all_.filters_ - f);
      if constexpr (is_all<A, T>) {
        if (all_.writes_in_place(columns))
          return {all_.out_.weights + lane_ * all_.filters_ + f, all_.filters_};
      }
      return {partial_sums(panel, lane_), kPanel<P>};
    }
    A* partial_sums(std::int64_t panel, std::int64_t lane) const {
      return sums_ + (panel * all_.panel_rows() + lane) * kPanel<P>;
    }

    void clear_weights() {
      for (std::int64_t p = 0; p < panels_of<P>(all_.filters_); ++p) {
        const Sums<A> to = weight_sums(p);
        const std::int64_t columns =
            columns_written<P>(std::min(kPanel<P>, all_.filters_ - p * kPanel<P>));
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
      return is_all<T, P> && lanes_ + wants_bias() <= kTileRows && all_.filters_ >= kPanel<P>;
    }

    // The same for examples [begin, end) of the group, all of which but the last have n positions.
    void add_examples(std::int64_t group, std::int64_t block, std::int64_t n, std::int64_t begin,
                      std::int64_t end) {
      const std::int64_t example = hidden_.first_batch(group) + end - 1;
      const std::int64_t last = hidden_.own(example, block);
      const std::int64_t depth = (end - 1 - begin) * n + last, filters = all_.filters_;
      if (depth == 0) return;
      const H* const h = h_ + begin * n * hidden_.step();
      if constexpr (kTerms<P> == 2)
        pack_columns(h, hidden_.step(), depth, lanes_ + wants_bias(), pairs_, pairs_step());
      std::int64_t f = 0;
      if constexpr (is_all<T, P>) {
        const T* const y = all_.y_ + (hidden_.origin(example) + hidden_.first(block)) * filters;
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
      if (block == all_.blocks_) return;
      const std::int64_t n = hidden_.own(example, block), filters = all_.filters_;
      const T* const y = all_.y_ + (hidden_.origin(example) + hidden_.first(block)) * filters;
      ask_for(y + n * f, n * kPanel<P>);
    }

    // Add the products of h and a panel of y, whose columns are [f, f + columns) of all.
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
      const std::int64_t filters = all_.filters_;
      P* to = cotangents_;
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t example = hidden_.first_batch(group) + i;
        const std::int64_t own = hidden_.own(example, block);
        const T* y = all_.y_ + (hidden_.origin(example) + hidden_.first(block)) * filters;
        for (std::int64_t r = 0; r < own; r += terms, y += terms * filters, to += kPanel<P>) {
          P* panel = to;
          for (std::int64_t g = f; g < last; g += kPanel<P>, panel += panel_size)
            pack_columns(y + g, filters, std::min(terms, own - r), std::min(kPanel<P>, last - g),
                         panel);
        }
      }
    }

    const SeparableGradients& all_;
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

  bool writes_in_place(std::int64_t columns) const {
    return in_place() && columns == columns_written<P>(columns);
  }

  // The chunks' sums, added in their order.
  void add_chunks(A* sums, std::int64_t size) const {
    for (std::int64_t chunk = 1; chunk < chunks_; ++chunk)
      for (std::int64_t j = 0; j < size; ++j) sums[j] += sums[chunk * sums_size() + j];
  }

  void finish_panel(A* sums, std::int64_t panel) const {
    const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, filters_ - f);
    if (!writes_in_place(columns)) {
      add_chunks(sums, panel_rows() * kPanel<P>);
      for (std::int64_t r = 0; r < p_.lanes(); ++r)
        convert_row(sums + r * kPanel<P>, out_.weights + r * filters_ + f, columns);
    }
    if (out_.bias != nullptr)
      convert_row(sums + p_.lanes() * kPanel<P>, out_.bias + f, columns);
  }

  void finish_taps(A* sums) const {
    add_chunks(sums, taps_size());
    convert_row(sums, out_.k, taps_size());
  }

  const Problem p_;
  const Separated<const T*> in_;
  const T* const y_;
  const Separated<T*> out_;
  const std::int64_t filters_;
  const Schedule to_y_, to_x_;
  const std::int64_t fold_;
  std::int64_t positions_, block_, blocks_, groups_, halo_, chunks_, splits_ = 1;
};
