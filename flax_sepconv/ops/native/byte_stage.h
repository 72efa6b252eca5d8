// The depthwise stage in integers of some rows of the result, those of all examples one after the other.
//
// Where lanes are few, pieces of examples lie side by side in a strip, as many as fill it.

// Packs a matrix, and holds it.
class PackedMatrix {
 public:
  PackedMatrix(std::int64_t rows, std::int64_t columns)
      : rows_(rows), columns_(columns), depth_(groups_of(rows)), panels_(panels_of_bytes(columns)),
        groups_(sizeof(Group) * panels_ * depth_ * kBytes),
        start_(sizeof(std::int32_t) * panels_ * kBytes) {}

  // Up to so many bytes before others have come to help.
  static constexpr std::int64_t kAlone = 1 << 16;
  void pack(const std::int8_t* from, std::int32_t zero, const std::int32_t* bias, Pool& pool) const {
    const auto panel = [&](std::int64_t p, void*) {
      const std::int64_t f = p * kBytes;
      pack_groups(from + f, columns_, rows_, columns_ - f, zero, bias == nullptr ? nullptr : bias + f,
                  groups() + p * depth_ * kBytes, start() + f);
    };
    if (rows_ * columns_ <= kAlone)
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

// Positions [first, first + count) of an example, and the row, behind the first of some, that is
// their first.
struct Piece {
  std::int64_t example, first, count, row;
};

// Call f(piece) for rows [first, last), of an example each, and of `most` rows at most.
template <typename F>
void each_piece(std::int64_t positions, std::int64_t first, std::int64_t last, std::int64_t most, F f) {
  for (std::int64_t row = first, n; row < last; row += n) {
    const std::int64_t position = row % positions;
    n = std::min({last - row, positions - position, most});
    f(Piece{row / positions, position, n, row - first});
  }
}

class ByteStage {
 public:
  ByteStage(const Problem& p, const QuantizedDepthwise& in, const std::int32_t* bias, Pool& pool)
      : p_(p), in_(in), lanes_(p.lanes()), fold_(pieces_side_by_side(p)),
        packed_(p.taps, fold_ * lanes_), taps_(p, in.zero, packed_.packed()) {
    if (fold_ == 1) {
      packed_.pack(in.k, in.zero, bias, pool);
      return;
    }
    std::vector<std::int8_t> taps(p.taps * fold_ * lanes_);
    std::vector<std::int32_t> biases(bias == nullptr ? 0 : fold_ * lanes_);
    for (std::int64_t i = 0; i < fold_; ++i) {
      copy_lanes(in.k, lanes_, taps.data() + i * lanes_, fold_ * lanes_, lanes_, p.taps);
      if (bias != nullptr) std::copy(bias, bias + lanes_, biases.data() + i * lanes_);
    }
    packed_.pack(taps.data(), in.zero, bias == nullptr ? nullptr : biases.data(), pool);
  }

  std::int64_t fold() const { return fold_; }
  std::int64_t strips() const { return panels_of_bytes(lanes_); }

  // For so many rows of a result of type R.
  template <typename R>
  std::size_t scratch_bytes(std::int64_t rows) const {
    const std::int64_t n = std::min(p_.output_length, ceil_div(rows, fold_));
    return taps_.scratch_bytes(n) + (fold_ > 1 ? kBytes * (sizeof(R) * n + copied_rows(n)) : 0);
  }

  // Lanes of strips [strip, last_strip) of rows [first, last), as `ending` makes them.
  template <typename To, typename R>
  void run(std::int64_t first, std::int64_t last, std::int64_t strip, std::int64_t last_strip,
           const To& ending, R* to, std::int64_t to_step, void* scratch) const {
    if (fold_ > 1) return side_by_side(first, last, ending, to, to_step, scratch);
    each_piece(p_.output_length, first, last, last - first, [&](const Piece& piece) {
      const float* const multipliers = in_.multipliers.row(piece.example);
      for (std::int64_t s = strip; s < last_strip; ++s) {
        float copy[kBytes];
        const std::int64_t lane = s * kBytes;
        taps_.run(RowsOfExample(p_, in_.x, piece.example, origin(piece), s), piece.count, s,
                  Target<To, R>{panel_of_floats(multipliers, lane, lanes_, copy), ending,
                                to + piece.row * to_step + lane, to_step, std::min(kBytes, lanes_ - lane)},
                  scratch);
      }
    });
  }

 private:
  // Only where pieces of some positions do not meet many times as many rows.
  static std::int64_t pieces_side_by_side(const Problem& p) {
    constexpr std::int64_t positions = 8, far = 16;
    if (p.lanes() == 0 || p.lanes() > kBytes / 2 || p.dilation > far) return 1;
    return std::clamp<std::int64_t>(p.batch * p.output_length / positions, 1, kBytes / p.lanes());
  }

  std::int64_t origin(const Piece& piece) const { return piece.first * p_.stride - p_.pad_low; }
  // Of one piece; taps that fill the last group meet some.
  std::int64_t copied_rows(std::int64_t n) const {
    return taps_.rows_met(n) + (kGroup - 1) * p_.dilation;
  }

  template <typename To, typename R>
  void side_by_side(std::int64_t first, std::int64_t last, const To& ending, R* to,
                    std::int64_t to_step, void* scratch) const {
    const std::int64_t length = ceil_div(last - first, fold_);
    Piece pieces[kBytes];
    std::int64_t n = 0;
    const auto compute = [&] {
      together(pieces, n, ending, to, to_step, static_cast<char*>(scratch));
      n = 0;
    };
    each_piece(p_.output_length, first, last, length, [&](const Piece& piece) {
      pieces[n++] = piece;
      if (n == fold_) compute();
    });
    if (n > 0) compute();
  }

  template <typename To, typename R>
  void together(const Piece* pieces, std::int64_t n, const To& ending, R* to, std::int64_t to_step,
                char* scratch) const {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < n; ++i) count = std::max(count, pieces[i].count);
    const std::int64_t rows = copied_rows(count);
    std::int8_t* const copies = reinterpret_cast<std::int8_t*>(scratch);
    R* const results = reinterpret_cast<R*>(copies + rows * kBytes);
    std::fill(copies, copies + rows * kBytes, std::int8_t{0});
    float multipliers[kBytes] = {};
    for (std::int64_t i = 0; i < n; ++i) {
      copy_piece(pieces[i], rows, copies + i * lanes_);
      const float* const own = in_.multipliers.row(pieces[i].example);
      std::copy(own, own + lanes_, multipliers + i * lanes_);
    }
    taps_.run(CopiedRows{copies}, count, 0,
              Target<To, R>{multipliers, ending, results, kBytes, n * lanes_}, results + count * kBytes);
    for (std::int64_t i = 0; i < n; ++i)
      copy_lanes(results + i * lanes_, kBytes, to + pieces[i].row * to_step, to_step, lanes_,
                 pieces[i].count);
  }

  // The rows that a piece meets and its example has.
  void copy_piece(const Piece& piece, std::int64_t rows, std::int8_t* to) const {
    const std::int64_t low = std::clamp<std::int64_t>(-origin(piece), 0, rows);
    const std::int64_t high = std::clamp<std::int64_t>(p_.length - origin(piece), low, rows);
    if (low == high) return;
    const std::int8_t* from =
        in_.x + (piece.example * p_.length + origin(piece) + low) * p_.channels;
    to += low * kBytes;
    if (p_.multiplier == 1) return copy_lanes(from, p_.channels, to, kBytes, lanes_, high - low);
    for (std::int64_t r = low; r < high; ++r, from += p_.channels, to += kBytes)
      for (std::int64_t c = 0; c < p_.channels; ++c)
        for (std::int64_t m = 0; m < p_.multiplier; ++m) to[c * p_.multiplier + m] = from[c];
  }

  const Problem& p_;
  const QuantizedDepthwise& in_;
  const std::int64_t lanes_, fold_;  // pieces in a strip
  const PackedMatrix packed_;
  const ByteTaps taps_;
};
