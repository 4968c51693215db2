// From codebook indices to vectors: a gather, a 1x1 convolution behind it where wanted.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct VqDecodeArgs {
    const int64_t* indices;  // [rows, levels]
    const void* codebook;    // [levels, entries, width]
    int64_t rows, levels, entries, width;
    bool residual;        // the levels' entries are added up; otherwise they lie side by side
    const float* weight;  // [inputs, outputs], inputs = width (* levels if side by side), or null
    const float* bias;    // [outputs], or null
    int64_t outputs;      // without a weight: inputs
    void* y;              // [rows, outputs]
};

// What the kernel is given.
struct VqDecodeWork : VqDecodeArgs {
    float* gathered;  // of the share: [inputs]
};

// Returns the position of the first index outside [0, entries), or -1. There nothing was done.
int64_t vq_decode(const VqDecodeArgs& args, DType dtype, int threads);

}  // namespace pyengine
