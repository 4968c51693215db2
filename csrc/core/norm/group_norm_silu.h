// Group normalisation of pictures, alone or followed by SiLU. Wu & He 2018, arXiv:1803.08494.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// Pictures in NHWC order, of one or two tensors lying side by side in the channels.
struct GroupNormInput {
    const void* x;   // [pictures, pixels, channels]
    const void* x2;  // [pictures, pixels, channels2], or null with channels2 = 0
    int64_t pictures, pixels, channels, channels2;
};

constexpr int64_t kStripRows = 64;

// What the kernel of the statistics is given.
struct GroupNormArgs {
    GroupNormInput in;
    // Per picture, strip of kStripRows pixels and channel, in this order of planes: a centre, the
    // sum of (x - centre), the sum of its square.
    float* partial;
};

// And the one that applies them: y = (x - centre) * scale + shift, through SiLU where silu.
struct GroupNormApplyArgs {
    GroupNormInput in;
    const float* scale;  // [pictures, channels + channels2]
    const float* shift;
    const float* centre;  // likewise, or null for zeros
    void* y;              // [pictures, pixels, channels + channels2]
    bool silu;
};

struct GroupNormWeights {
    const float* weight;  // [channels + channels2], or null for ones
    const float* bias;    // [channels + channels2], or null for zeros
    int64_t groups;
    double eps;
};

// scale and shift, each [pictures, channels + channels2], so that group_norm(x) = x * scale +
// shift.
void group_norm_scale_shift(const GroupNormInput& in, const GroupNormWeights& weights, float* scale,
                            float* shift, DType dtype, int threads);

// y = x * scale + shift, through SiLU where silu; y: [pictures, pixels, channels + channels2].
void group_norm_apply(const GroupNormInput& in, const float* scale, const float* shift, bool silu,
                      void* y, DType dtype, int threads);

// Both: y = SiLU(group_norm(x)), or without SiLU.
void group_norm_silu(const GroupNormInput& in, const GroupNormWeights& weights, bool silu, void* y,
                     DType dtype, int threads);

}  // namespace pyengine
