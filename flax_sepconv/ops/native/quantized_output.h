// The operation in integers: the depthwise stage alone, and both stages in one pass.
//
// The rows of the result, those of all examples one after the other, fall into blocks. The h of a
// block is kept in cache, and multiplied by one panel of the weights after the other.

// Values of h in a block, about, and the rows of one.
constexpr std::int64_t kHiddenBytes = 1 << 16;
constexpr std::int64_t kMostBlockRows = 128, kLeastBlockRows = 24;
// Up to so many rows, all of h is computed first, and each panel of weights packed where it is used;
// up to more of them where the weights would not stay in a core's cache.
constexpr std::int64_t kFewByteRows = 64, kFewRowsOfMany = 256, kManyWeights = 1 << 20;
// So many weights, at least, of an item of few rows, and instructions, about, of one of a block.
constexpr std::int64_t kItemWeights = 1 << 17, kItemInstructions = 1 << 15;

// Rows of a block, so that there are some blocks for each thread, but none that is sooner done than
// another thread has come.
inline std::int64_t block_rows(const ByteStage& stage, std::int64_t rows, std::int64_t row_bytes,
                               std::int64_t instructions, std::int64_t threads) {
  const std::int64_t together = std::min<std::int64_t>(stage.fold(), 8);
  const std::int64_t most = std::clamp<std::int64_t>(together * kHiddenBytes / row_bytes, kLeastBlockRows,
                                                     together * kMostBlockRows);
  const std::int64_t share = std::max(kLeastBlockRows, rows / (3 * threads) / 8 * 8);
  return std::min({rows, most, std::max(share, kItemInstructions / instructions)});
}

// Instructions of the depthwise stage for a row, about.
inline std::int64_t stage_instructions(const Problem& p) {
  return 1 + ceil_div(p.lanes() * (8 * groups_of(p.taps) + 40), kBytes);
}

template <typename R>
void quantized_depthwise(const Problem& p, const QuantizedDepthwise& in, const Ending& ending, R* y,
                         Pool& pool) {
  const std::int64_t lanes = p.lanes(), rows = p.batch * p.output_length;
  const ByteStage stage(p, in, ending.bias, pool);
  const std::int64_t block =
      block_rows(stage, rows, lanes * sizeof(R), stage_instructions(p), pool.threads());
  const EndingIn<R> to(ending);
  parallel_for(pool, ceil_div(rows, block), stage.scratch_bytes<R>(block),
               [&](std::int64_t item, void* scratch) {
                 const std::int64_t first = item * block;
                 stage.run(first, std::min(rows, first + block), 0, stage.strips(), to,
                           y + first * lanes, lanes, scratch);
               });
}

template <typename R>
class QuantizedSeparable {
 public:
  QuantizedSeparable(const Problem& p, const QuantizedDepthwise& in, const QuantizedPointwise& w,
                     const Ending& ending, R* y, Pool& pool)
      : p_(p), w_(w), ending_(ending), to_(ending), stage_(p, in, nullptr, pool), y_(y),
        lanes_(p.lanes()), rows_(p.batch * p.output_length),
        // Whole strips are written; rows a power of two apart would compete for lines of a cache.
        step_(stage_.fold() > 1 ? groups_of(lanes_) * kGroup
                                : stage_.strips() * kBytes + 64 / static_cast<std::int64_t>(sizeof(Value))) {}

  void run(Pool& pool) const {
    const bool has_many = lanes_ * w_.filters >= kManyWeights;
    if (rows_ <= (has_many ? kFewRowsOfMany : kFewByteRows))
      run_few(pool);
    else
      run_by_blocks(pool);
  }

 private:
  std::size_t hidden_bytes(std::int64_t rows) const { return sizeof(Value) * rows * step_; }

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
    each_piece(p_.output_length, first, last, last - first,
               [&](const Piece& piece) { some(piece.example, piece.count, piece.row); });
  }

  void run_few(Pool& pool) const {
    const std::int64_t strips = stage_.strips(), depth = groups_of(lanes_);
    const Scratch all(hidden_bytes(rows_));
    Value* const h = static_cast<Value*>(all.data());
    const std::int64_t all_instructions = rows_ * stage_instructions(p_);
    const std::int64_t together =
        std::max<std::int64_t>(1, strips * kItemInstructions / all_instructions);
    parallel_for(pool, ceil_div(strips, together), stage_.template scratch_bytes<Value>(rows_),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t first = item * together;
                   stage_.run(0, rows_, first, std::min(strips, first + together), ToHidden{w_.zero},
                              h, step_, scratch);
                 });
    by_panels(h, depth, pool);
  }

  // All rows by one panel of the weights after the other, some panels an item.
  void by_panels(const Value* h, std::int64_t depth, Pool& pool) const {
    const std::int64_t panels = panels_of_bytes(w_.filters);
    const std::int64_t together = std::max<std::int64_t>(1, kItemWeights / (1 + lanes_ * kBytes));
    const std::size_t bytes = sizeof(Group) * depth * kBytes;
    parallel_for(pool, ceil_div(panels, together), bytes, [&](std::int64_t item, void* scratch) {
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
    const std::int64_t instructions =
        stage_instructions(p_) + ceil_div(w_.filters, kBytes) * (kParts * packed.depth + 30);
    const std::int64_t block =
        block_rows(stage_, rows_, 1 + step_ * sizeof(Value), instructions, pool.threads());
    const std::size_t size = hidden_bytes(block);
    parallel_for(pool, ceil_div(rows_, block),
                 size + stage_.template scratch_bytes<Value>(block),
                 [&](std::int64_t item, void* scratch) {
                   const std::int64_t first = item * block, last = std::min(rows_, first + block);
                   Value* const h = static_cast<Value*>(scratch);
                   stage_.run(first, last, 0, stage_.strips(), ToHidden{w_.zero}, h, step_,
                              static_cast<char*>(scratch) + size);
                   for (std::int64_t f = 0; f < w_.filters; f += kBytes)
                     product(first, last, h, f, packed.panel(f / kBytes), packed.start_of(f / kBytes));
                 });
  }

  const Problem& p_;
  const QuantizedPointwise& w_;
  const Ending& ending_;
  const EndingIn<R> to_;
  const ByteStage stage_;
  R* const y_;
  const std::int64_t lanes_, rows_, step_;
};

template <typename R>
void quantized_separable(const Problem& p, const QuantizedDepthwise& in, const QuantizedPointwise& w,
                         const Ending& ending, R* y, Pool& pool) {
  QuantizedSeparable<R>(p, in, w, ending, y, pool).run(pool);
}
