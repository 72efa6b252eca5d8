// Both stages of a chunk of causal streams: rows come from two arrays, the steps before and the chunk,
// and those that the next chunk needs go into a third.

// The work of one item, in products.
constexpr std::int64_t kStreamShare = 1 << 16;
// Sums of so many values need no memory from the heap.
constexpr std::int64_t kStreamStack = 2048;

// p.length is D * (K - 1) steps before and p.output_length of the chunk; there is no padding, and the
// stride is 1.
template <typename T>
class Stream {
 public:
  using A = Accumulator<T>;

  Stream(const Problem& p, const T* before, const T* chunk, const T* kernel,
         const Pointwise<const T*>& w, T* y, T* after)
      : p_(p), reach_(p.length - p.output_length), before_(before), chunk_(chunk), kernel_(kernel),
        w_(w), y_(y), after_(after) {}

  void run(Pool& pool) const {
    const std::int64_t rows = p_.batch * p_.output_length;
    if (reach_ == 0 || p_.multiplier > 1 || p_.output_length > kFewPositions || rows > kFewRows ||
        p_.channels < kWidth<A> || w_.filters < kWidth<A>)
      return run_joined(pool);
    const std::int64_t step = ceil_div(p_.channels, kWidth<A>) * kWidth<A>;
    if (rows * step > kStreamStack) {
      const Scratch all(sizeof(A) * rows * step);
      return run_few(static_cast<A*>(all.data()), step, pool);
    }
    alignas(64) A all[kStreamStack];
    run_few(all, step, pool);
  }

 private:
  // All of h, then the columns of the weights, shared: `h` has rows of `step`.
  void run_few(A* h, std::int64_t step, Pool& pool) const {
    const std::int64_t rows = p_.batch * p_.output_length, C = p_.channels, F = w_.filters;
    const std::int64_t shares = rows * p_.taps * C / kStreamShare;
    in_ranges(p_.batch, shares, 1, pool, [&](std::int64_t b, std::int64_t end) {
      for (; b < end; ++b) filter(b, h + b * p_.output_length * step, step);
    });
    in_ranges(F, C * F / kStreamShare, kFewVectors<1> * kWidth<A>, pool,
              [&](std::int64_t first, std::int64_t last) {
                few_rows<T>({h, step, 1}, rows, w_.weights, F, C, w_.bias, w_.activation, first, last, y_,
                            F);
              });
  }

  // Call f(first, last) for about so many ranges of [0, size), each of whole units and the last one of
  // what is left. One alone is not shared: that would take longer than a small one.
  template <typename F>
  static void in_ranges(std::int64_t size, std::int64_t ranges, std::int64_t unit, Pool& pool, F f) {
    const std::int64_t share = std::max(unit, ranges > 0 ? size / ranges / unit * unit : size);
    const std::int64_t items = size / share;
    if (items <= 1) return f(0, size);
    parallel_for(pool, items, 0, [&](std::int64_t item, void*) {
      f(item * share, item + 1 == items ? size : (item + 1) * share);
    });
  }

  // The rows of h of an example, and what it is after.
  void filter(std::int64_t b, A* h, std::int64_t step) const {
    constexpr std::int64_t wide = 4 * kWidth<A>;
    const std::int64_t C = p_.channels;
    if (p_.dilation > 1) copy_after(b);
    std::int64_t lane = 0;
    for (; lane + wide <= C; lane += wide) filter_lanes<4>(b, lane, h + lane, step);
    for (; lane < C; lane += kWidth<A>) {
      // The last vector goes over lanes again rather than over the end.
      const std::int64_t at = std::min(lane, C - kWidth<A>);
      filter_lanes<1>(b, at, h + at, step);
    }
  }

  // V vectors of lanes. Without dilation the last position meets all that comes after, and keeps it.
  template <int V>
  void filter_lanes(std::int64_t b, std::int64_t lane, A* h, std::int64_t step) const {
    const std::int64_t C = p_.channels, T_ = p_.output_length, D = p_.dilation;
    const T* const before = before_ + b * reach_ * C + lane;
    const T* const chunk = chunk_ + b * T_ * C + lane;
    T* const after = after_ + b * reach_ * C + lane;
    for (std::int64_t t = 0; t < T_; ++t, h += step) {
      const bool keeps = D == 1 && t + 1 == T_;
      Vector<A> sums[V] = {};
      const T* taps = kernel_ + lane;
      for (std::int64_t i = 0, row = t; i < p_.taps; ++i, row += D, taps += C) {
        const T* const from = row < reach_ ? before + row * C : chunk + (row - reach_) * C;
        for (int v = 0; v < V; ++v)
          sums[v] += load_wide(from + v * kWidth<A>) * load_wide(taps + v * kWidth<A>);
        if (keeps && row >= T_)
          __builtin_memcpy(after + (row - T_) * C, from, V * kWidth<A> * sizeof(T));
      }
      for (int v = 0; v < V; ++v) store<A>(h + v * kWidth<A>, sums[v]);
    }
  }

  // The last steps of those before and the chunk.
  void copy_after(std::int64_t b) const {
    const std::int64_t C = p_.channels, chunk = p_.output_length;
    const std::int64_t kept = std::max<std::int64_t>(0, reach_ - chunk), taken = reach_ - kept;
    T* const after = after_ + b * reach_ * C;
    std::copy_n(before_ + ((b + 1) * reach_ - kept) * C, kept * C, after);
    std::copy_n(chunk_ + ((b + 1) * chunk - taken) * C, taken * C, after + kept * C);
  }

  // Larger ones, and what would not fill a vector: by the rows, one behind the other.
  void run_joined(Pool& pool) const {
    const std::int64_t before = reach_ * p_.channels, chunk = p_.output_length * p_.channels;
    const Scratch all(sizeof(T) * p_.batch * (before + chunk));
    T* const joined = static_cast<T*>(all.data());
    for (std::int64_t b = 0; b < p_.batch; ++b) {
      T* const rows = joined + b * (before + chunk);
      std::copy_n(before_ + b * before, before, rows);
      std::copy_n(chunk_ + b * chunk, chunk, rows + before);
      std::copy_n(rows + chunk, before, after_ + b * before);
    }
    separable_output(p_, static_cast<const T*>(joined), kernel_, w_, y_, pool);
  }

  const Problem& p_;
  const std::int64_t reach_;
  const T *const before_, *const chunk_, *const kernel_;
  const Pointwise<const T*>& w_;
  T *const y_, *const after_;
};
