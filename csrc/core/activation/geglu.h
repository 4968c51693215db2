#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct GegluArgs {
    const void* x;  // [rows, 2 * width]: value, gate
    void* y;        // [rows, width]
    int64_t rows, width;
};

// y = value * GELU(gate), the exact (erf) GELU.
void geglu(const GegluArgs& args, DType dtype, int threads);

// y = value * SiLU(gate).
void swiglu(const GegluArgs& args, DType dtype, int threads);

}  // namespace pyengine
