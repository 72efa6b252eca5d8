// The operation in integers for AArch64 with FEAT_DotProd, whose instruction adds the products of four
// bytes at once.
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
#pragma clang attribute push(__attribute__((target("arch=armv8.2-a+dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

namespace sepconv::neon_dotprod {
#define SEPCONV_QUANTIZED_NAME "neon_dotprod"
#define SEPCONV_VECTOR_BYTES 16
#define SEPCONV_DOT_BYTES(sums, a, b) vdotq_s32(sums, a, b)
#include "vector.h"
#include "quantized_kernels.h"
}  // namespace sepconv::neon_dotprod

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

bool has_dotprod() {
#if defined(__linux__)
  constexpr unsigned long dotprod = 1ul << 20;  // HWCAP_ASIMDDP, which old headers do not name.
  return (getauxval(AT_HWCAP) & dotprod) != 0;
#else
  int found = 0;
  std::size_t size = sizeof found;
  return sysctlbyname("hw.optional.arm.FEAT_DotProd", &found, &size, nullptr, 0) == 0 && found != 0;
#endif
}

}  // namespace

const sepconv::QuantizedKernels* sepconv::neon_dotprod_quantized() {
  return has_dotprod() ? &neon_dotprod::kQuantized : nullptr;
}

#else

const sepconv::QuantizedKernels* sepconv::neon_dotprod_quantized() { return nullptr; }

#endif
