// Group normalisation of pictures, alone or followed by SiLU. Wu & He 2018, arXiv:1803.08494.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// Pictures in NHWC order, of one or two tensors lying side by side in the channels.
struct GroupNormArgs {
    const void* x;   // [pictures, pixels, channels]
    const void* x2;  // [pictures, pixels, channels2], or null with channels2 = 0
    int64_t pictures, pixels, channels, channels2;
    // Scratch of the statistics: per picture, strip of kStripRows pixels and channel, in this order
    // of planes: a centre, the sum of (x - centre), the sum of its square.
    float* partial;
};

constexpr int64_t kStripRows = 64;

struct GroupNormApplyArgs {
    const void* x;
    const void* x2;
    int64_t pictures, pixels, channels, channels2;
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
// shift. args.partial is ignored.
void group_norm_scale_shift(const GroupNormArgs& args, const GroupNormWeights& weights,
                            float* scale, float* shift, DType dtype, int threads);

// y = (x - centre) * scale + shift, through SiLU where args.silu.
void group_norm_apply(const GroupNormApplyArgs& args, DType dtype, int threads);

// Both: y = SiLU(group_norm(x)), or without SiLU. args.scale, shift and centre are ignored.
void group_norm_silu(const GroupNormApplyArgs& args, const GroupNormWeights& weights, DType dtype,
                     int threads);

}  // namespace pyengine
