#pragma once

#include <stdint.h>

#include "panel.h"

namespace pyengine {

struct PackWeightArgs {
    const void* weight;  // [channels_out, channels, taps], as checkpoints have it
    void* packed;        // [ceil(channels_out / 16), taps, channels, 16]; missing channels zero
    int64_t channels_out, channels, taps;  // taps: kernel height * width; 1 for a matrix
};

// item_size: bytes of an element, 1, 2 or 4; they are moved, not computed with.
void pack_weight(const PackWeightArgs& a, int item_size, int threads);

}  // namespace pyengine
