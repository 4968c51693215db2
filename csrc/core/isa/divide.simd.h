// Sizes, for vector code: each instruction set has its own (see vector.simd.h).
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

PYENGINE_INLINE int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

// a / b, rounded up.
PYENGINE_INLINE int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// The least multiple of unit that is not below value.
PYENGINE_INLINE int64_t round_up(int64_t value, int64_t unit) {
    return ceil_divide(value, unit) * unit;
}

}  // namespace pyengine::PYENGINE_NS
