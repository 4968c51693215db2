// bfloat16 by AVX512_BF16's instruction.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// A BFloat16 in memory that values are widened from by one instruction and rounded to by
// vcvtneps2bf16: to nearest, ties to even, subnormal numbers to zero. Two instructions where
// BFloat16's rounding takes eight.
struct FlushedBFloat16 {
    uint16_t bits;
};

PYENGINE_INLINE Floats widen(Halves values, FlushedBFloat16) {
    // Of __builtin_convertvector GCC makes four instructions.
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)values), 16);
}
PYENGINE_INLINE Halves narrow(Floats value, FlushedBFloat16) {
    return (Halves)_mm512_cvtneps_pbh((__m512)value);
}

}  // namespace pyengine::PYENGINE_NS
