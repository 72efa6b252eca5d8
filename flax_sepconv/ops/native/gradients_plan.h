// How the gradients of both stages are cut into work, and where their sums lie.

// Lanes of one item: as many as the caches hold the weights and sums of.
constexpr std::int64_t kItemLanes = 256;
constexpr std::int64_t kItemsPerThread = 3;

// Cut by shape alone, so that the order of every sum is the same for any number of threads: the steps
// into chunks, of whole groups of examples, or, where these are few, `splits` of each group.
template <typename T>
struct GradientsPlan {
  using A = Accumulator<T>;
  using P = Factor<T>;
  using H = Hidden<T>;

  GradientsPlan(const Problem& problem, const Separated<const T*>& operands, const T* cotangents,
                const Separated<T*>& results)
      : p(problem), in(operands), y(cotangents), out(results), filters(in.filters),
        to_y(output_schedule(p)), to_x(input_gradient_schedule(p)),
        fold(examples_side_by_side<A>(p.lanes(), p.batch)),
        positions(cached_positions<A>(std::min(p.lanes(), kItemLanes), filters)) {
    const Correlation<T, H> correlation = forward(0, p.lanes());
    const HiddenBlock<T, H> hidden{correlation, p.output_length, p.lanes(), p.batch, p.y_parts};
    block = correlation.block();
    blocks = correlation.blocks();
    groups = hidden.groups();
    const std::int64_t reach = (p.taps - 1) * p.dilation / p.stride;
    halo = out.x == nullptr || blocks == 1 ? 0 : std::min(reach, p.output_length);
    const std::int64_t steps = p.batch * p.output_length, size = (p.lanes() + p.taps) * filters;
    // Sums of a chunk are written and read once more. Where these and the steps are few, so that
    // there would be few chunks, they may be shorter.
    std::int64_t least = std::max<std::int64_t>(512, 4 * halo);
    if (steps < 4096 && size <= 1 << 18)
      least = std::min(least, std::max<std::int64_t>(size <= 1 << 15 ? 128 : 256, 8 * halo));
    chunks = std::min(steps / least, (1 << 24) / size);
    chunks = std::clamp<std::int64_t>(chunks, 1, 64);
    if (chunks > groups) {
      splits = std::min(chunks / groups, blocks);
      chunks = groups * splits;
    }
  }
  GradientsPlan(const GradientsPlan&) = delete;
  GradientsPlan& operator=(const GradientsPlan&) = delete;

  // Whole columns of x and, where that can be, whole panels, for enough items for so many threads.
  // How lanes are divided changes no sum.
  std::int64_t lanes_of_item(std::int64_t threads) const {
    const std::int64_t panels = std::lcm(p.multiplier, kPanel<P>);
    const std::int64_t unit = panels <= kItemLanes ? panels : p.multiplier;
    const std::int64_t even = ceil_div(p.lanes(), ceil_div(kItemsPerThread * threads, chunks));
    const std::int64_t wanted = std::clamp(even, kPanel<P>, kItemLanes);
    return std::min(p.lanes(), ceil_div(wanted, unit) * unit);
  }

  // Sums of a chunk: of the weights and, below them, of the bias, panel by panel; of the taps.
  std::int64_t panel_rows() const { return p.lanes() + (out.bias != nullptr); }
  std::int64_t weights_size() const {
    return out.weights == nullptr ? 0 : panels_of<P>(filters) * panel_rows() * kPanel<P>;
  }
  std::int64_t taps_size() const { return out.k == nullptr ? 0 : p.taps * p.lanes(); }
  std::int64_t sums_size() const { return weights_size() + taps_size(); }

  // Those of so many columns of the weights lie where they belong if there is one chunk, and tiles
  // write nothing else.
  bool writes_in_place(std::int64_t columns) const {
    return is_all<A, T> && chunks == 1 && columns == columns_written<P>(columns);
  }
  // The same in 16 bits, where nothing is added to them later: all steps are those of one block.
  bool rounds_in_place(std::int64_t columns) const {
    return in_vectors<T> && p.batch == 1 && p.y_parts == nullptr && blocks == 1 &&
           block <= kDepth && columns == columns_written<P>(columns);
  }

  Rows<const T> x() const {
    return {in.x, p.length, p.channels, p.channels, p.multiplier, 0, 0, p.x_parts};
  }
  // Of h, some lanes.
  Correlation<T, H> forward(std::int64_t lane, std::int64_t lanes) const {
    return {to_y, x().of_lanes(lane, lanes), Taps<T>{in.k + lane, p.taps, p.lanes()}, 1, p.batch,
            positions, fold};
  }

  const Problem p;
  const Separated<const T*> in;
  const T* const y;
  const Separated<T*> out;
  const std::int64_t filters;
  const Schedule to_y, to_x;
  const std::int64_t fold;  // examples side by side in a strip
  const std::int64_t positions;
  std::int64_t block, blocks, groups, chunks, splits = 1;
  // Steps of dh before a block's own that x needs.
  std::int64_t halo;
};
