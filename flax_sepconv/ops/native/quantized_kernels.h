// One instruction set's kernels for the operation in integers; included in its namespace, behind
// vector.h.

#include "bytes.h"
#include "byte_groups.h"
#include "byte_endings.h"
#include "byte_rows.h"
#include "byte_taps.h"
#include "byte_stage.h"
#include "byte_product.h"
#include "quantized_output.h"

constexpr QuantizedKernels kQuantized = {
    SEPCONV_QUANTIZED_NAME, quantized_depthwise<std::int8_t>, quantized_depthwise<float>,
    quantized_separable<std::int8_t>, quantized_separable<float>};
