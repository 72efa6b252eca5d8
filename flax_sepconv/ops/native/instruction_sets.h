// The versions of the kernels, and which of them calls run with.
#pragma once

#include <cstdlib>
#include <string>
#include <vector>

#include "problem.h"
#include "quantized.h"

namespace sepconv {

// Whether the environment names this version.
inline bool is_named(const std::string& version) {
  const char* const name = std::getenv("FLAX_SEPCONV_INSTRUCTION_SET");
  return name != nullptr && name == version;
}

// Null where this build or this processor lacks the instruction set.
const Kernels* avx512_bf16_kernels();
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* neon_bf16_kernels();
const Kernels* baseline_kernels();  // SSE2 on x86-64, NEON on AArch64; never null.
const Kernels* amx_bf16_kernels();  // Null where it is not named, too.

// Those that this processor runs, the fastest first; behind them the one that was never timed.
inline std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> all;
  for (const Kernels* kernels : {avx512_bf16_kernels(), avx512_kernels(), avx2_kernels(),
                                 neon_bf16_kernels(), baseline_kernels(), amx_bf16_kernels()})
    if (kernels != nullptr) all.push_back(kernels);
  return all;
}

// The fastest, or the one that the environment names. What it names and is not there is an error
// already where the library is loaded (library.py).
inline const Kernels& chosen_kernels() {
  static const Kernels* const chosen = [] {
    const std::vector<const Kernels*> all = all_kernels();
    for (const Kernels* kernels : all)
      if (is_named(kernels->name)) return kernels;
    return all.front();
  }();
  return *chosen;
}

// The same for the operation in integers, which has versions of its own names besides.
const QuantizedKernels* avx512_vnni_quantized();
const QuantizedKernels* avx512_quantized();
const QuantizedKernels* avx_vnni_quantized();
const QuantizedKernels* avx2_quantized();
const QuantizedKernels* neon_dotprod_quantized();
const QuantizedKernels* baseline_quantized();  // Never null.

// The fastest first.
inline std::vector<const QuantizedKernels*> all_quantized() {
  std::vector<const QuantizedKernels*> all;
  for (const QuantizedKernels* kernels :
       {avx512_vnni_quantized(), avx512_quantized(), avx_vnni_quantized(), avx2_quantized(),
        neon_dotprod_quantized(), baseline_quantized()})
    if (kernels != nullptr) all.push_back(kernels);
  return all;
}

// The one that the environment names, or else the fastest.
inline const QuantizedKernels& chosen_quantized() {
  static const QuantizedKernels* const chosen = [] {
    const std::vector<const QuantizedKernels*> all = all_quantized();
    for (const QuantizedKernels* kernels : all)
      if (is_named(kernels->name)) return kernels;
    return all.front();
  }();
  return *chosen;
}

}  // namespace sepconv
