// The loop behind peak.h; table.simd.cc compiles it.
#pragma once

#include "isa/peak_args.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// A chain's own value is a factor, since the portable build would multiply constants once, before
// the loop; chains begin with different values, or the compiler would compute one of them, and none
// with 2, which stays 2.
void multiply_adds(const PeakArgs& args, int64_t begin, int64_t end) {
    const Floats half = splat(0.5f), one = splat(1.0f);
    for (int64_t item = begin; item < end; ++item) {
        Floats x[kPeakChains];
#pragma GCC unroll 12
        for (int c = 0; c < kPeakChains; ++c) x[c] = splat(static_cast<float>(c + 3));
        for (int64_t i = 0; i < args.turns; ++i)
#pragma GCC unroll 12
            for (int c = 0; c < kPeakChains; ++c) x[c] = fma(x[c], half, one);
        float last = 0;
#pragma GCC unroll 12
        for (int c = 0; c < kPeakChains; ++c) last += x[c][c % kLanes];
        args.last[item] = last;
    }
}

}  // namespace pyengine::PYENGINE_NS
