// Products of pairs of bfloat16 by the tiles of AMX. A tile register has 16 rows of 64 bytes; one
// instruction adds to 16 x 16 sums the products of 16 rows of 16 pairs and 16 columns of 16 pairs.
//
// The registers are named by literals alone: 0 to 3 are sums, 4 and 5 rows, 6 and 7 columns.

constexpr bool kHasAmx = true;
constexpr std::int64_t kAmx = 16;  // Rows of a register, and the pairs or sums in one of them.

struct alignas(64) AmxConfiguration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(AmxConfiguration) == 64);

// Lets this thread use tile registers while it lives. They are empty and off at the end: other code
// that runs on the thread finds them as it left them, and the system has nothing of them to save.
class AmxInUse {
 public:
  AmxInUse() {
    static constexpr AmxConfiguration all_whole;
    _tile_loadconfig(&all_whole);
  }
  ~AmxInUse() { _tile_release(); }
  AmxInUse(const AmxInUse&) = delete;
  AmxInUse& operator=(const AmxInUse&) = delete;
};

// Pairs of neighbouring rows as rows of pairs, `to_step` from column to column of `from`.
template <typename T>
void pack_pairs_transposed(const T* from, std::int64_t step, std::int64_t rows, std::int64_t columns,
                           Pair* to, std::int64_t to_step) {
  for (std::int64_t r = 0; r < rows; r += 2, from += 2 * step, ++to)
    for (std::int64_t j = 0; j < columns; ++j)
      to[j * to_step] = paired(from[j], r + 1 < rows ? from[step + j] : T{0});
}

// out = start + a b for M * 16 rows of a, one panel b, and a depth of a multiple of 16 pairs.
template <int M, typename E>
SEPCONV_INLINE void amx_tile(const Matrix<E>& a, Panel<Pair> b, std::int64_t depth,
                             Sums<const float> start, Sums<float> out) {
  static_assert(M <= 2 && kPanel<Pair> == 2 * kAmx);
  const std::int64_t a_bytes = a.row_step * sizeof(E), b_bytes = b.step * sizeof(Pair);
  const std::int64_t start_bytes = start.step * sizeof(float), bytes = out.step * sizeof(float);
  const float* const lower_start = start.data + kAmx * start.step;
  float* const lower_out = out.data + kAmx * out.step;
  // GCC's loads of tiles do not say that they read memory: what was stored must be there.
  __asm__ volatile("" ::: "memory");
  _tile_loadd(0, start.data, start_bytes);
  _tile_loadd(1, start.data + kAmx, start_bytes);
  if constexpr (M == 2) {
    _tile_loadd(2, lower_start, start_bytes);
    _tile_loadd(3, lower_start + kAmx, start_bytes);
  }
  const E* upper = a.data;
  for (std::int64_t d = 0; d < depth; d += kAmx) {
    _tile_loadd(6, b.data, b_bytes);
    _tile_loadd(4, upper, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b.data + kAmx, b_bytes);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (M == 2) {
      _tile_loadd(5, upper + kAmx * a.row_step, a_bytes);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    upper += kAmx * a.column_step;
    b.data += kAmx * b.step;
  }
  _tile_stored(0, out.data, bytes);
  _tile_stored(1, out.data + kAmx, bytes);
  if constexpr (M == 2) {
    _tile_stored(2, lower_out, bytes);
    _tile_stored(3, lower_out + kAmx, bytes);
  }
}

template <int V, Write write, typename P, typename E, typename A, typename R>
void product_rows(Matrix<E> a, std::int64_t rows, Panel<P> b, std::int64_t depth,
                  Sums<const A> start, Sums<R> out, Activation activation);

// As product_rows, for as many of the rows as fill tiles; return their number. Vectors add the pairs
// that fill no tile, and write what is not float, is activated, or goes past the caches.
template <Write write, typename E, typename R>
std::int64_t amx_rows(Matrix<E> a, std::int64_t rows, Panel<Pair> b, std::int64_t depth,
                      Sums<const float> start, Sums<R> out, Activation activation) {
  constexpr bool in_place = std::is_same_v<R, float> && write == Write::kCached;
  const std::int64_t whole = depth / kAmx * kAmx;
  const bool neighbours = a.column_step * sizeof(E) == sizeof(Pair);
  if (whole == 0 || !neighbours) return 0;
  const Panel<Pair> rest{b.data + whole * b.step, b.step};
  std::int64_t done = 0;
  while (rows - done >= kAmx) {
    alignas(64) float buffer[in_place ? 1 : 2 * kAmx * kPanel<Pair>];
    Sums<float> sums{buffer, kPanel<Pair>};
    if constexpr (in_place) sums = out;
    const std::int64_t n = rows - done >= 2 * kAmx ? 2 * kAmx : kAmx;
    if (n > kAmx)
      amx_tile<2>(a, b, whole, start, sums);
    else
      amx_tile<1>(a, b, whole, start, sums);
    if (!in_place || whole < depth || activation != Activation::kNone)
      product_rows<kTileVectors, write>(
          Matrix<E>{a.data + whole * a.column_step, a.row_step, a.column_step}, n, rest,
          depth - whole, Sums<const float>{sums.data, sums.step}, out, activation);
    a.data += n * a.row_step;
    start.data += n * start.step;
    out.data += n * out.step;
    done += n;
  }
  return done;
}
