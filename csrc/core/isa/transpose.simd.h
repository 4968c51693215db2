// Transposes kLanes vectors of kLanes floats.
#pragma once

#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

// The first (second) halves of a and b, their lanes in turn: a0 b0 a1 b1 ...
#if PYENGINE_LANES == 4
PYENGINE_INLINE Floats first_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 0, 4, 1, 5);
}
PYENGINE_INLINE Floats second_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 2, 6, 3, 7);
}
#elif PYENGINE_LANES == 8
PYENGINE_INLINE Floats first_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
PYENGINE_INLINE Floats second_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
#else
PYENGINE_INLINE Floats first_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
PYENGINE_INLINE Floats second_in_turn(Floats a, Floats b) {
    return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                   31);
}
#endif

// rows[i][j] becomes rows[j][i]. Each round shuffles the block as a deck of cards, rows and lanes
// as one index; log2(kLanes) of them exchange the index's two halves.
PYENGINE_INLINE void transpose(Floats (&rows)[kLanes]) {
    for (int round = 1; round < kLanes; round *= 2) {
        Floats next[kLanes];
        for (int i = 0; i < kLanes / 2; ++i) {
            next[2 * i] = first_in_turn(rows[i], rows[i + kLanes / 2]);
            next[2 * i + 1] = second_in_turn(rows[i], rows[i + kLanes / 2]);
        }
        for (int i = 0; i < kLanes; ++i) rows[i] = next[i];
    }
}

}  // namespace pyengine::PYENGINE_NS
