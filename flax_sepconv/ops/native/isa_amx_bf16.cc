// Both stages in bfloat16 for x86-64 with AMX: products of whole tiles by its registers, all else as
// with AVX512_BF16. Linux alone lets programs ask for them.
#include "common.h"
#include "instruction_sets.h"

#if defined(__x86_64__) && defined(__linux__) && \
    (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("amx-tile,amx-bf16,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("amx-tile,amx-bf16,avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c")
#endif

namespace sepconv::amx_bf16 {
#define SEPCONV_VECTOR_BYTES 64
#define SEPCONV_VECTORS 2
#define SEPCONV_BF16_PAIRS(sums, a, b)                                        \
  sums = reinterpret_cast<Vector<float>>(                                     \
      _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums),                        \
                       reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(a))), \
                       reinterpret_cast<__m512bh>(b)))
#define SEPCONV_STREAM(to, v) _mm512_stream_ps(to, reinterpret_cast<__m512>(v))
#define SEPCONV_STREAM_HALF(to, v) \
  _mm256_stream_si256(static_cast<__m256i*>(to), reinterpret_cast<__m256i>(v))
#define SEPCONV_F16C
#define SEPCONV_ROUND_BFLOAT16
#define SEPCONV_AMX
#include "contractions.h"
}  // namespace sepconv::amx_bf16

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace {

// Whether processor and system have tiles, and the system lets this process use them. It then saves
// 8 KiB more whenever a thread gets a signal, and refuses signal stacks that have no room for them:
// so it is asked only where somebody names this version.
bool may_use_tiles() {
#if defined(SEPCONV_EMULATED_AMX)
  return true;
#else
  if (!sepconv::is_named("amx_bf16")) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, tile_state = 3u << 17;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  if ((d & amx_bf16) == 0 || (d & amx_tile) == 0) return false;
  unsigned enabled = 0, upper = 0;
  __asm__("xgetbv" : "=a"(enabled), "=d"(upper) : "c"(0));
  if ((enabled & tile_state) != tile_state) return false;
  constexpr long request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request, tile_data) == 0;
#endif
}

}  // namespace

const sepconv::Kernels* sepconv::amx_bf16_kernels() {
  const Kernels* const others = avx512_bf16_kernels();
  static const bool runs = others != nullptr && may_use_tiles();
  if (!runs) return nullptr;
  static const Kernels kernels = [others] {
    Kernels all = *others;
    all.name = "amx_bf16";
    all.separable_bf16 = amx_bf16::kSeparable<bfloat16>;
    return all;
  }();
  return &kernels;
}

#else

const sepconv::Kernels* sepconv::amx_bf16_kernels() { return nullptr; }

#endif
