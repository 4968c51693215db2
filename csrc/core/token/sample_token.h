// A token drawn from logits: guidance, temperature, top-k, top-p, min-p.
// Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2019, arXiv:1904.09751 (top-p).
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// In the order of pyengine.ops.SAMPLING_COLUMNS.
struct SamplingSettings {
    float guidance, temperature, top_k, top_p, min_p;
};
constexpr int64_t kSamplingColumns = 5;
static_assert(sizeof(SamplingSettings) == kSamplingColumns * sizeof(float));

// One row of logits on its way to weights; items are tokens, and a call takes all of them.
struct TokenWeightsArgs {
    const void* logits;         // [size]
    const void* unconditional;  // [size] or null
    float guidance, temperature;
    float* guided;   // [size]: u + guidance (c - u); minus infinity where either is
    float* weights;  // [size]: exp((guided - top) / temperature), or left alone at temperature 0
    float* top;      // the largest of guided; NaN where one is NaN or plus infinity
};

struct SampleTokenArgs {
    const void* logits;         // [rows, size]
    const void* unconditional;  // [rows, size] or null
    const double* uniform;      // [rows], in [0, 1)
    const float* settings;      // [rows, kSamplingColumns]
    int64_t rows, size;
    int64_t* tokens;  // [rows]; a negative one is a SamplingFault
};

// Why a row has no token.
enum SamplingFault : int64_t {
    kNoNumber = -1,     // a logit is NaN or plus infinity
    kAllMasked = -2,    // all are minus infinity
    kBadSettings = -3,  // outside of what docs of sample_token allow
    kBadUniform = -4,   // not in [0, 1)
};

void sample_token(const SampleTokenArgs& args, DType dtype, int threads);

// The first token whose weight and those before it sum to more than `share` of all; share in [0,
// 1). kept(i) says which count; at least one of those has a weight.
template <class Kept>
int64_t draw_token(const float* weights, int64_t size, double share, const Kept& kept) {
    double total = 0;
    for (int64_t i = 0; i < size; ++i)
        if (kept(i)) total += weights[i];
    const double target = share * total;
    double sum = 0;
    int64_t last = -1;
    for (int64_t i = 0; i < size; ++i) {
        if (!(weights[i] > 0) || !kept(i)) continue;
        last = i;
        sum += weights[i];
        if (sum > target) break;
    }
    return last;
}

}  // namespace pyengine
