// The operation in integers: the depthwise stage alone, and both stages in one pass.
//
// The rows of the result, those of all examples one after the other, fall into blocks. The h of a
// block is kept in cache, and multiplied by one panel of the weights after the other.

// Values of h in a block, about, and the rows of one.
constexpr std::int64_t kHiddenBytes = 1 << 16;
constexpr std::int64_t kMostBlockRows = 128;
// Up to so many rows, all of h is computed first, and each panel of weights packed where it is used.
constexpr std::int64_t kFewByteRows = 64;
// Up to so many weights or taps are packed before others have come to help; and weights, at least, of
// an item of few rows.
constexpr std::int64_t kPackedAloneBytes = 1 << 16;

// Packs a matrix, and holds it.
class PackedMatrix {
 public:
  PackedMatrix(std::int64_t rows, std::int64_t columns)
      : rows_(rows), columns_(columns), depth_(groups_of(rows)), panels_(panels_of_bytes(columns)),
        groups_(sizeof(Group) * panels_ * depth_ * kBytes),
        start_(sizeof(std::int32_t) * panels_ * kBytes) {}

  void pack(const std::int8_t* from, std::int32_t zero, const std::int32_t* bias, Pool& pool) const {
    const auto panel = [&](std::int64_t p, void*) {
      const std::int64_t f = p * kBytes;
      pack_groups(from + f, columns_, rows_, columns_ - f, zero, bias == nullptr ? nullptr : bias + f,
                  groups() + p * depth_ * kBytes, start() + f);
    };
    if (rows_ * columns_ <= kPackedAloneBytes)
      for (std::int64_t p = 0; p < panels_; ++p) panel(p, nullptr);
    else
      parallel_for(pool, panels_, 0, panel);
  }

  Packed packed() const { return {groups(), start(), depth_}; }

 private:
  Group* groups() const { return static_cast<Group*>(groups_.data()); }
  std::int32_t* start() const { return static_cast<std::int32_t*>(start_.data()); }

  const std::int64_t rows_, columns_, depth_, panels_;
  const Scratch groups_, start_;
};

// Call f(example, first position, number of positions, rows before) for rows [first, last).
template <typename F>
void each_example(std::int64_t positions, std::int64_t first, std::int64_t last, F f) {
  for (std::int64_t row = first; row < last;) {
    const std::int64_t example = row / positions, position = row % positions;
    const std::int64_t n = std::min(last - row, positions - position);
    f(example, position, n, row - first);
    row += n;
  }
}

// Rows of a block, so that there are some for each thread.
inline std::int64_t block_rows(std::int64_t rows, std::int64_t row_bytes, std::int64_t threads) {
  const std::int64_t most = std::clamp<std::int64_t>(kHiddenBytes / row_bytes, 24, kMostBlockRows);
  return std::min(most, std::max<std::int64_t>(24, rows / (3 * threads) / 8 * 8));
}

template <typename R>
void quantized_depthwise(const Problem& p, const QuantizedDepthwise& in, const Ending& ending, R* y,
                         Pool& pool) {
  const std::int64_t lanes = p.lanes(), rows = p.batch * p.output_length;
  const PackedMatrix taps(p.taps, lanes);
  taps.pack(in.k, in.zero, ending.bias, pool);
  const ByteTaps stage(p, in, taps.packed());
  const std::int64_t block = block_rows(rows, lanes * sizeof(R), pool.threads());
  const EndingIn<R> to(ending);
  parallel_for(pool, ceil_div(rows, block), stage.scratch_bytes(std::min(block, p.output_length)),
               [&](std::int64_t item, void* scratch) {
    const std::int64_t from = item * block, last = std::min(rows, from + block);
    each_example(p.output_length, from, last, [&](std::int64_t example, std::int64_t first, std::int64_t n, std::int64_t before) {
      for (std::int64_t lane = 0; lane < lanes; lane += kBytes) {
        float copy[kBytes];
        stage.run(example, first, n, lane / kBytes,
                  panel_of_floats(in.multipliers.row(example), lane, lanes, copy), to,
                  y + (from + before) * lanes + lane, lanes, scratch);
      }
    });
  });
}

template <typename R>
class QuantizedSeparable {
 public:
  QuantizedSeparable(const Problem& p, const QuantizedDepthwise& in, const QuantizedPointwise& w,
                     const Ending& ending, const Packed& taps, R* y)
      : p_(p), in_(in), w_(w), ending_(ending), to_(ending), stage_(p, in, taps), y_(y),
        lanes_(p.lanes()), rows_(p.batch * p.output_length),
        // Whole panels are written; rows a power of two apart would compete for lines of a cache.
        step_(panels_of_bytes(lanes_) * kBytes + 64 / static_cast<std::int64_t>(sizeof(Value))) {}

  void run(Pool& pool) const {
    if (rows_ <= kFewByteRows)
      run_few(pool);
    else
      run_by_blocks(pool);
  }

 private:
  std::size_t hidden_bytes(std::int64_t rows) const { return sizeof(Value) * rows * step_; }

  // h of rows [first, last), in strips [strip, last_strip).
  void hidden(std::int64_t first, std::int64_t last, std::int64_t strip, std::int64_t last_strip,
              Value* h, void* scratch) const {
    const ToHidden to{w_.zero};
    each_example(p_.output_length, first, last, [&](std::int64_t example, std::int64_t position, std::int64_t n, std::int64_t before) {
      for (std::int64_t s = strip; s < last_strip; ++s) {
        float copy[kBytes];
        stage_.run(example, position, n, s,
                   panel_of_floats(in_.multipliers.row(example), s * kBytes, lanes_, copy), to,
                   h + before * step_ + s * kBytes, step_, scratch);
      }
    });
  }

  // Rows [first, last), whose h begins at `h`, by the panel of columns from f on.
  void product(std::int64_t first, std::int64_t last, const Value* h, std::int64_t f,
               const Group* panel, const std::int32_t* start) const {
    const std::int64_t filters = w_.filters, columns = std::min(kBytes, filters - f);
    const auto some = [&](std::int64_t example, std::int64_t n, std::int64_t before) {
      float copy[kBytes];
      byte_product(HiddenRows{h + before * step_, step_}, n, panel, groups_of(lanes_), start,
                   panel_of_floats(w_.multipliers.row(example), f, filters, copy), to_,
                   y_ + (first + before) * filters + f, filters, columns);
    };
    if (!w_.multipliers.of_examples) return some(0, last - first, 0);
    each_example(p_.output_length, first, last,
                 [&](std::int64_t example, std::int64_t, std::int64_t n, std::int64_t before) {
                   some(example, n, before);
                 });
  }

  void run_few(Pool& pool) const {
    const std::int64_t strips = panels_of_bytes(lanes_), depth = groups_of(lanes_);
    const Scratch all(hidden_bytes(rows_));
    Value* const h = static_cast<Value*>(all.data());
    const std::int64_t strips_a_time =
        std::clamp<std::int64_t>((1 << 20) / (rows_ * p_.taps * kBytes), 1, strips);
    parallel_for(pool, ceil_div(strips, strips_a_time),
                 stage_.scratch_bytes(std::min(rows_, p_.output_length)),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t first = item * strips_a_time;
                   hidden(0, rows_, first, std::min(strips, first + strips_a_time), h, scratch);
                 });
    const std::int64_t panels = panels_of_bytes(w_.filters);
    const std::int64_t together = std::clamp<std::int64_t>(kPackedAloneBytes / (lanes_ * kBytes), 1, panels);
    const std::int64_t size = depth * kBytes;
    parallel_for(pool, ceil_div(panels, together), sizeof(Group) * size, [&](std::int64_t item, void* scratch) {
      Group* const panel = static_cast<Group*>(scratch);
      for (std::int64_t i = item * together; i < std::min(panels, (item + 1) * together); ++i) {
        const std::int64_t f = i * kBytes;
        std::int32_t start[kBytes];
        pack_groups(w_.weights + f, w_.filters, lanes_, w_.filters - f, w_.zero, ending_.bias + f,
                    panel, start);
        product(0, rows_, h, f, panel, start);
      }
    });
  }

  void run_by_blocks(Pool& pool) const {
    const PackedMatrix weights(lanes_, w_.filters);
    weights.pack(w_.weights, w_.zero, ending_.bias, pool);
    const Packed packed = weights.packed();
    const std::int64_t block = block_rows(rows_, step_ * sizeof(Value), pool.threads());
    const std::size_t size = hidden_bytes(block);
    parallel_for(pool, ceil_div(rows_, block),
                 size + stage_.scratch_bytes(std::min(block, p_.output_length)),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t first = item * block, last = std::min(rows_, first + block);
                   Value* const h = static_cast<Value*>(scratch);
                   hidden(first, last, 0, panels_of_bytes(lanes_), h, static_cast<char*>(scratch) + size);
                   for (std::int64_t f = 0; f < w_.filters; f += kBytes)
                     product(first, last, h, f, packed.panel(f / kBytes), packed.start_of(f / kBytes));
                 });
  }

  const Problem& p_;
  const QuantizedDepthwise& in_;
  const QuantizedPointwise& w_;
  const Ending& ending_;
  const EndingIn<R> to_;
  const ByteTaps stage_;
  R* const y_;
  const std::int64_t lanes_, rows_, step_;
};

template <typename R>
void quantized_separable(const Problem& p, const QuantizedDepthwise& in, const QuantizedPointwise& w,
                         const Ending& ending, R* y, Pool& pool) {
  const PackedMatrix taps(p.taps, p.lanes());
  taps.pack(in.k, in.zero, nullptr, pool);
  QuantizedSeparable<R>(p, in, w, ending, taps.packed(), y).run(pool);
}
