// Vectors of bytes, and exact sums of their products.
//
// A lane's, or a column's, values of neighbouring terms lie together in 32 bits, a group: four bytes
// where the processor adds their products at once, else two numbers of 16 bits. On x86-64 one factor
// is not negative, so the values of x and of h have 128 added (kShift); what that adds to a sum is a
// multiple of the sum of the other factors, and is taken off where the sum begins.

using Bytes = Vector<std::int8_t>;
using Group = std::uint32_t;
using Groups = Vector<Group>;
using Counts = Vector<std::int32_t>;
using Floats = Vector<float>;

#if defined(SEPCONV_DOT_BYTES) || defined(__aarch64__)
constexpr std::int64_t kGroup = 4;
using Value = std::uint8_t;  // of h, in memory
#else
constexpr std::int64_t kGroup = 2;
using Value = std::uint16_t;
#endif
#if defined(__aarch64__)
constexpr std::int32_t kShift = 0;
#else
constexpr std::int32_t kShift = 128;
#endif

constexpr std::int64_t kBytes = kWidth<std::int8_t>;
constexpr std::int64_t kCounts = kWidth<std::int32_t>;
// Whether 32 registers hold the sums in the making: without DOT_BYTES NEON's take two each.
#if SEPCONV_VECTOR_BYTES == 64 || (defined(__aarch64__) && defined(SEPCONV_DOT_BYTES))
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif
// Vectors of 32 bits that hold what a vector of bytes holds.
constexpr int kParts = 4;

#if defined(__x86_64__)
#include "bytes_x86.h"
#elif defined(__aarch64__)
#include "bytes_neon.h"
#endif

// Groups of the bytes of kGroup rows, spread apart.
template <bool is_signed>
SEPCONV_INLINE void interleave(const Bytes (&rows)[kGroup], Groups (&groups)[kParts]) {
  const Pairs last = paired_bytes(rows[kGroup - 2], rows[kGroup - 1]);
  make_groups<is_signed>(kGroup == 4 ? paired_bytes(rows[0], rows[1]) : last, last, groups);
}

// Up to a vector of bytes, as a vector; the others are zero.
SEPCONV_INLINE Bytes load_some(const std::int8_t* from, std::int64_t n) {
  if (n >= kBytes) return load<std::int8_t>(from);
#if SEPCONV_VECTOR_BYTES == 64
  return bits_of<Bytes>(_mm512_maskz_loadu_epi8((std::uint64_t{1} << n) - 1, from));
#else
  std::int8_t all[kBytes] = {};
  for (std::int64_t j = 0; j < n; ++j) all[j] = from[j];
  return load<std::int8_t>(all);
#endif
}
SEPCONV_INLINE void store_some(std::int8_t* to, Bytes v, std::int64_t n) {
  if (n >= kBytes) return store<std::int8_t>(to, v);
#if SEPCONV_VECTOR_BYTES == 64
  _mm512_mask_storeu_epi8(to, (std::uint64_t{1} << n) - 1, bits_of<Native>(v));
#else
  std::int8_t all[kBytes];
  store<std::int8_t>(all, v);
  for (std::int64_t j = 0; j < n; ++j) to[j] = all[j];
#endif
}
