// The gradients of both stages, those that are wanted.

template <typename T>
class SeparableGradients {
 public:
  using A = Accumulator<T>;
  using P = Factor<T>;

  SeparableGradients(const Problem& p, const Separated<const T*>& in, const T* y,
                     const Separated<T*>& out)
      : plan_(p, in, y, out) {}

  void run(Pool& pool) const {
    const std::int64_t lanes = plan_.p.lanes(), item_lanes = plan_.lanes_of_item(pool.threads());
    const std::int64_t ranges = ceil_div(lanes, item_lanes);
    const Scratch partials(sizeof(A) * plan_.chunks * plan_.sums_size());
    A* const sums = static_cast<A*>(partials.data());
    const std::size_t bytes = GradientsItem<T>(plan_, 0, item_lanes, nullptr, nullptr).bytes();
    parallel_for(pool, plan_.chunks * ranges, bytes, [&](std::int64_t item, void* scratch) {
      const std::int64_t chunk = item / ranges, lane = item % ranges * item_lanes;
      A* const own = sums + chunk * plan_.sums_size();
      GradientsItem<T>(plan_, lane, std::min(item_lanes, lanes - lane), scratch, own).run(chunk);
    });
    const std::int64_t panels = plan_.out.weights == nullptr ? 0 : panels_of<P>(plan_.filters);
    parallel_for(pool, panels + 1, 0, [&](std::int64_t item, void*) {
      if (item < panels)
        finish_panel(sums + item * plan_.panel_rows() * kPanel<P>, item);
      else
        finish_taps(sums + plan_.weights_size());
    });
  }

 private:
  // The chunks' sums, added in their order.
  void add_chunks(A* sums, std::int64_t size) const {
    for (std::int64_t chunk = 1; chunk < plan_.chunks; ++chunk)
      for (std::int64_t j = 0; j < size; ++j) sums[j] += sums[chunk * plan_.sums_size() + j];
  }

  void finish_panel(A* sums, std::int64_t panel) const {
    const std::int64_t f = panel * kPanel<P>, columns = std::min(kPanel<P>, plan_.filters - f);
    const std::int64_t lanes = plan_.p.lanes();
    if (!plan_.writes_in_place(columns) && !plan_.rounds_in_place(columns)) {
      add_chunks(sums, plan_.panel_rows() * kPanel<P>);
      for (std::int64_t r = 0; r < lanes; ++r)
        convert_row(sums + r * kPanel<P>, plan_.out.weights + r * plan_.filters + f, columns);
    }
    if (plan_.out.bias != nullptr)
      convert_row(sums + lanes * kPanel<P>, plan_.out.bias + f, columns);
  }

  void finish_taps(A* sums) const {
    add_chunks(sums, plan_.taps_size());
    convert_row(sums, plan_.out.k, plan_.taps_size());
  }

  const GradientsPlan<T> plan_;
};
