// All that contractions.h uses from outside: included before an instruction set is switched on, so
// that the standard library's functions stay ones that every processor runs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "parallel.h"
#include "problem.h"
#include "quantized.h"
#include "schedule.h"
