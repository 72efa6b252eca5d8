// dh = y w^T, the cotangents of h, for the lanes of one item: a window of them. Of each example of a
// group it holds the positions of a block and, before them, those that x needs besides.

template <typename T>
class DhWindow {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  DhWindow(const GradientsPlan<T>& plan, const ItemLanes<T>& own, Parts& parts)
      : plan_(plan), p_(plan.p), own_(own), panels_(panels_of<P>(own.lanes)),
        held_(plan.halo + plan.block) {
    const std::int64_t examples = own.hidden.most_examples();
    const std::int64_t rows = std::max(examples * plan.block, held_);
    weights_ = parts.template take<P>(is_wanted() ? panels_ * weights_size() : 0);
    window_ = parts.template take<A>(is_wanted() ? examples * held_ * step() : 0);
    rows_ = parts.template take<H>(is_wanted() && !reads_in_place() ? rows * rows_step() : 0);
    zeros_ = parts.template take<A>(kPanel<P>);
  }

  bool is_wanted() const { return plan_.out.x != nullptr || plan_.out.k != nullptr; }
  std::size_t scratch_bytes() const { return backward(rows(0, 0, 0)).scratch_bytes(); }

  // Before anything is computed.
  void begin() {
    std::fill(zeros_, zeros_ + kPanel<P>, A{0});
    for (std::int64_t q = 0; is_wanted() && q < panels_; ++q)
      pack_rows_as_columns(plan_.in.weights + (own_.lane + q * kPanel<P>) * plan_.filters,
                           plan_.filters, plan_.filters,
                           std::min(kPanel<P>, own_.lanes - q * kPanel<P>),
                           weights_ + q * weights_size());
  }

  // Compute a block of a group; `enters`: nothing of the group was computed before.
  void compute(std::int64_t group, std::int64_t block, bool enters) {
    const std::int64_t first = own_.hidden.first(block), count = own_.hidden.count(block);
    if (p_.y_parts == nullptr && plan_.blocks == 1) {
      // All rows of neighbouring examples: of one, as it were.
      const std::int64_t examples = own_.hidden.examples(group);
      return multiply(own_.hidden.first_batch(group) * count, examples * count, window_);
    }
    const std::int64_t from = enters ? std::max<std::int64_t>(0, first - plan_.halo) : first;
    own_.each_example(group, [&](std::int64_t example, std::int64_t i) {
      compute_example(example, i, from, first + count, first);
    });
  }

  // As rows of examples from `batch` on, where a block begins with position `first`.
  Rows<const A> rows(std::int64_t group, std::int64_t batch, std::int64_t first) const {
    std::int64_t positions = p_.output_length;
    if (p_.y_parts != nullptr && plan_.fold == 1) positions = p_.y_parts[batch].count;
    return {window_, positions, own_.lanes, step(), 1, own_.hidden.first_batch(group),
            first - plan_.halo, nullptr, held_};
  }

  // Let the last positions before the next block be those before it.
  void keep_halo(std::int64_t group, std::int64_t count) {
    const std::int64_t size = plan_.halo * step();
    own_.each_example(group, [&](std::int64_t, std::int64_t i) {
      A* const rows = window_ + i * held_ * step();
      std::copy(rows + count * step(), rows + count * step() + size, rows);
    });
  }

  // The rows of x that need no later dh than that of a block, which the window holds.
  void write_x(std::int64_t fold, std::int64_t block, const Rows<const A>& dh, A* scratch) const {
    const std::int64_t from = own_.hidden.first(block), to = from + own_.hidden.count(block);
    const std::int64_t rows = plan_.to_x.positions;
    const auto row = [&](std::int64_t position) {
      return std::clamp<std::int64_t>(position * p_.stride - p_.pad_low, 0, rows);
    };
    const std::int64_t begin = block == 0 ? 0 : row(from);
    const std::int64_t end = block + 1 == plan_.blocks ? rows : row(to);
    const Correlation<A, T, T> correlation = backward(dh);
    const Rows<T> out =
        Rows<T>{plan_.out.x, p_.length, p_.channels, p_.channels, p_.multiplier, 0, 0, p_.x_parts}
            .of_lanes(own_.lane, own_.lanes);
    for (std::int64_t first = begin; first < end; first += correlation.block())
      correlation.run_block(fold, first, std::min(end, first + correlation.block()), out,
                            scratch);
  }

 private:
  std::int64_t weights_size() const { return factors<P>(plan_.filters) * kPanel<P>; }
  // Rows a power of two apart would compete for the same lines of a cache.
  std::int64_t step() const { return panels_ * kPanel<P> + kWidth<A>; }
  std::int64_t rows_step() const { return (plan_.filters + 1) / 2 * 2; }
  // Whether factors can be read out of y: it has their type, and each row whole ones.
  bool reads_in_place() const { return is_all<T, H> && plan_.filters % kTerms<P> == 0; }

  A* row(std::int64_t i, std::int64_t position, std::int64_t first) const {
    return window_ + (i * held_ + plan_.halo + position - first) * step();
  }

  // dh = y w^T of positions [from, to) of example i of a group; zeros where it has none.
  void compute_example(std::int64_t example, std::int64_t i, std::int64_t from, std::int64_t to,
                       std::int64_t first) {
    const std::int64_t own = p_.y_parts == nullptr ? to : p_.y_parts[example].count;
    const std::int64_t n = std::clamp<std::int64_t>(own - from, 0, to - from);
    A* const out = row(i, from, first);
    if (n > 0) multiply(own_.hidden.origin(example) + from, n, out);
    std::fill(out + n * step(), out + (to - from) * step(), A{0});
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
              std::min(kPanel<P>, own_.lanes - q * kPanel<P>), Sums<const A>{zeros_, 0},
              Sums<A>{out + q * kPanel<P>, step()});
  }

  Correlation<A, T, T> backward(const Rows<const A>& dh) const {
    return {plan_.to_x, dh, Taps<T>{plan_.in.k + own_.lane, p_.taps, p_.lanes()}, p_.multiplier,
            p_.batch, 128, plan_.fold};
  }

  const GradientsPlan<T>& plan_;
  const Problem& p_;
  const ItemLanes<T>& own_;
  const std::int64_t panels_, held_;
  P* weights_;
  A *window_, *zeros_;
  H* rows_;
};
