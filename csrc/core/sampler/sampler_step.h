#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// A row of coefficients, in the order of pyengine.ops.COLUMNS.
struct SamplerCoefficients {
    float g, p, q, limit, dscale;
    float x_x, x_m, x_d, x_d1, x_d2, x_d3, x_base, x_noise;
    float y_x, y_d, y_d1, y_d2, y_d3, y_base;
    float v_1, v_v;
};
constexpr int64_t kSamplerColumns = 21;
static_assert(sizeof(SamplerCoefficients) == kSamplerColumns * sizeof(float));

struct SamplerStepArgs {
    const void* x;              // [pictures, size]
    const void* out;            // [pictures, size], the conditional one where guided
    const void* unconditional;  // [pictures, size] or null
    const float* coefficients;  // [pictures, kSamplerColumns]
    const void *d1, *d2, *d3;   // [pictures, size] or null
    const void *base, *noise;   // [pictures, size] or null
    const void* variance;       // [pictures, size] or null: the noise's factor depends on it
    void *x_new, *d, *y;        // [pictures, size]
    int64_t pictures, size;
};

// One step of a linear sampler; the formula is in pyengine/ops/reference/sampler_step.py.
// What is null counts as zero and is not read.
void sampler_step(const SamplerStepArgs& args, DType dtype, int threads);

constexpr int64_t kSamplerBlock = 4096;  // elements of one picture that are one item of work

}  // namespace pyengine
