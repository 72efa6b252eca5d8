// The instructions of AMX that the kernels use, after their definition in Intel's manual, for
// processors with AVX512_BF16 that have none. Included before anything else, it takes the intrinsics'
// place. What a processor would refuse ends the program, and so does a thread that begins with
// tiles which were not released before.
#pragma once

#if defined(__x86_64__)

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#define SEPCONV_EMULATED_AMX

namespace sepconv::testing {

class EmulatedAmx {
 public:
  static constexpr int kTiles = 8, kRows = 16, kBytes = 64;

  // The registers of the calling thread.
  static EmulatedAmx& own() {
    static thread_local EmulatedAmx registers;
    return registers;
  }

  void load_configuration(const void* from) {
    expect(palette_ == 0, "tiles are configured that nobody released");
    const auto* const bytes = static_cast<const std::uint8_t*>(from);
    expect(reinterpret_cast<std::uintptr_t>(from) % 64 == 0 && bytes[0] == 1, "palette 1, a line");
    for (int i = 1; i < 64; ++i) {
      const bool used = (i >= 16 && i < 32) || (i >= 48 && i < 56);
      expect(used || bytes[i] == 0, "what is reserved is zero");
    }
    palette_ = bytes[0];
    for (int t = 0; t < kTiles; ++t) {
      row_bytes_[t] = bytes[16 + 2 * t] + 256 * bytes[17 + 2 * t];
      rows_[t] = bytes[48 + t];
      expect(row_bytes_[t] <= kBytes && rows_[t] <= kRows, "tiles of at most 16 rows of 64 bytes");
      zero(t);
    }
  }
  void release() { palette_ = 0; }

  void zero(int tile) {
    expect(palette_ == 1, "tiles are configured");
    std::memset(data_[tile], 0, sizeof data_[tile]);
  }
  void load(int tile, const void* base, std::int64_t stride) {
    zero(tile);
    for (int r = 0; r < rows_[tile]; ++r)
      std::memcpy(data_[tile][r], static_cast<const char*>(base) + r * stride, row_bytes_[tile]);
  }
  void store(int tile, void* base, std::int64_t stride) const {
    expect(palette_ == 1, "tiles are configured");
    for (int r = 0; r < rows_[tile]; ++r)
      std::memcpy(static_cast<char*>(base) + r * stride, data_[tile][r], row_bytes_[tile]);
  }

  // Of each sum, the first and the second products of all pairs are added up by themselves.
  void multiply_pairs(int sums, int a, int b) {
    expect(palette_ == 1 && sums != a && sums != b && a != b, "three tiles that are configured");
    expect(rows_[sums] == rows_[a] && row_bytes_[sums] == row_bytes_[b] &&
               row_bytes_[a] == 4 * rows_[b], "shapes that fit");
    for (int m = 0; m < rows_[sums]; ++m)
      for (int n = 0; n < row_bytes_[sums] / 4; ++n) {
        float parts[2] = {0, 0};
        for (int k = 0; k < row_bytes_[a] / 4; ++k)
          for (int i = 0; i < 2; ++i)
            parts[i] = flushed(std::fma(factor(a, m, 2 * k + i), factor(b, k, 2 * n + i), parts[i]));
        float sum;
        std::memcpy(&sum, data_[sums][m] + 4 * n, sizeof sum);
        sum = flushed(flushed(sum) + flushed(parts[0] + parts[1]));
        std::memcpy(data_[sums][m] + 4 * n, &sum, sizeof sum);
      }
  }

 private:
  static float flushed(float value) {
    return std::abs(value) < std::numeric_limits<float>::min() ? std::copysign(0.0f, value) : value;
  }
  float factor(int tile, int row, int i) const {
    std::uint16_t half;
    std::memcpy(&half, data_[tile][row] + 2 * i, sizeof half);
    const std::uint32_t bits = std::uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return flushed(value);
  }
  static void expect(bool holds, const char* what) {
    if (holds) return;
    std::fprintf(stderr, "FAILED: AMX takes %s\n", what);
    std::abort();
  }

  int palette_ = 0, row_bytes_[kTiles], rows_[kTiles];
  std::uint8_t data_[kTiles][kRows][kBytes];
};

}  // namespace sepconv::testing

#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(from) sepconv::testing::EmulatedAmx::own().load_configuration(from)
#define _tile_release() sepconv::testing::EmulatedAmx::own().release()
#define _tile_loadd(tile, from, step) sepconv::testing::EmulatedAmx::own().load(tile, from, step)
#define _tile_stored(tile, to, step) sepconv::testing::EmulatedAmx::own().store(tile, to, step)
#define _tile_dpbf16ps(sums, a, b) sepconv::testing::EmulatedAmx::own().multiply_pairs(sums, a, b)

#endif
