// Both stages in bfloat16 for AArch64 with FEAT_BF16, whose instruction BFDOT adds products of pairs;
// all else as with NEON. BFDOT rounds to odd after each of its two additions: sums are at most twice
// as far off as those of float32.
#include "common.h"
#include "instruction_sets.h"

// Clang has the attribute below from version 16 on.
#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16) && \
    (defined(__linux__) || defined(__APPLE__))

#if defined(__linux__)
#include <sys/auxv.h>
#else
#include <sys/sysctl.h>
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("arch=armv8.2-a+bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+bf16")
#endif

namespace sepconv::neon_bf16 {
#define SEPCONV_VECTOR_BYTES 16
#define SEPCONV_VECTORS 2
#define SEPCONV_BF16_PAIRS(sums, a, b)                       \
  sums = vbfdotq_lane_f32(sums, vreinterpretq_bf16_u32(b),   \
                          vreinterpret_bf16_u64(vcreate_u64(a)), 0)
#define SEPCONV_ROUND_BFLOAT16
#include "contractions.h"
}  // namespace sepconv::neon_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

bool has_bf16() {
#if defined(__linux__)
  constexpr unsigned long bf16 = 1ul << 14;  // HWCAP2_BF16, which old headers do not name.
  return (getauxval(AT_HWCAP2) & bf16) != 0;
#else
  int found = 0;
  std::size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_BF16", &found, &size, nullptr, 0) == 0 && found != 0;
#endif
}

}  // namespace

const sepconv::Kernels* sepconv::neon_bf16_kernels() {
  if (!has_bf16()) return nullptr;
  static const Kernels kernels = [] {
    Kernels all = *baseline_kernels();
    all.name = "neon_bf16";
    all.separable_bf16 = neon_bf16::kSeparable<bfloat16>;
    return all;
  }();
  return &kernels;
}

#else

const sepconv::Kernels* sepconv::neon_bf16_kernels() { return nullptr; }

#endif
