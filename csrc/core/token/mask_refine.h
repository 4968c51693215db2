// One step of masked generation: tokens for all masked places, the least certain masked again.
// Chang et al. 2022, arXiv:2202.04200 (MaskGIT); Patil et al. 2024, arXiv:2401.01808 (aMUSEd).
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

struct MaskRefineArgs {
    const void* logits;         // [pictures, places, size]
    const void* unconditional;  // likewise or null
    const float* guidance;      // [pictures], or null without unconditional
    const int64_t* tokens;      // [pictures, places]
    const double* uniform;      // [pictures, places] in [0, 1); or null, and then
    const float* race;          // [pictures, places, size], exponential
    const double* gumbel;       // [pictures, places], uniform in [0, 1)
    const int64_t* masked;      // [pictures]: how many are to be masked again
    const float* temperature;   // [pictures]
    int64_t pictures, places, size, mask_token;
    int64_t* next;       // [pictures, places]
    int64_t* predicted;  // [pictures, places]; a negative one is a SamplingFault
    double* confidence;  // [pictures, places], scratch
};

// Items are tokens of one place.
struct RaceArgs {
    const float* weights;
    const float* race;
    int64_t* winner;
};

void mask_refine(const MaskRefineArgs& args, DType dtype, int threads);

}  // namespace pyengine
