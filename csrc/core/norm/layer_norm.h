#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct LayerNormArgs {
    const void* x;        // [rows, width]
    const float* weight;  // [width] or null for ones
    const float* bias;    // [width] or null for zeros
    void* y;              // [rows, width]
    int64_t rows, width;
    double eps;
};

// y = (x - mean) / sqrt(var + eps) * weight + bias over each row.
void layer_norm(const LayerNormArgs& args, DType dtype, int threads);

// y = x / sqrt(mean(x^2) + eps) * weight over each row; there is no bias.
void rms_norm(const LayerNormArgs& args, DType dtype, int threads);

}  // namespace pyengine
