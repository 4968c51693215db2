// Division of sizes. For vector code: isa/divide.simd.h.
#pragma once

#include <stdint.h>

namespace pyengine {

// a / b, rounded up.
inline int64_t ceil_divide(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// The least multiple of unit that is not below value.
inline int64_t round_up(int64_t value, int64_t unit) {
    return ceil_divide(value, unit) * unit;
}

}  // namespace pyengine
