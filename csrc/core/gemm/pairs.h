// Weights in bfloat16 in pairs: [K / 2][16][2] for a panel, elements 2i and 2i + 1 of K of a column
// side by side, as instructions for bfloat16 multiply them. K is a multiple of 32.
//
// Only instruction sets with such instructions read them, and of these only functions for
// activations in bfloat16; they read [K][16] too, and lay it out in pairs in every call.
#pragma once

#include "dtype.h"

namespace pyengine {

constexpr DType kBFloat16Pairs = static_cast<DType>(4);
constexpr int64_t kPairsDepth = 32;  // what K is a multiple of

// Whether weights are bfloat16, in pairs or not.
constexpr bool is_bfloat16(DType weight) {
    return weight == DType::bfloat16 || weight == kBFloat16Pairs;
}

}  // namespace pyengine
