// The contractions for every processor of the architecture: SSE2 on x86-64, NEON on AArch64.
#include "common.h"
#include "instruction_sets.h"

namespace sepconv::baseline {
#define SEPCONV_NAME "baseline"
#define SEPCONV_VECTOR_BYTES 16
#if defined(__aarch64__)  // It has twice as many registers.
#define SEPCONV_VECTORS 2
#else
#define SEPCONV_VECTORS 1
#endif
#include "contractions.h"
#define SEPCONV_QUANTIZED_NAME SEPCONV_NAME
#include "quantized_kernels.h"
}  // namespace sepconv::baseline

const sepconv::Kernels* sepconv::baseline_kernels() { return &baseline::kKernels; }

const sepconv::QuantizedKernels* sepconv::baseline_quantized() { return &baseline::kQuantized; }
