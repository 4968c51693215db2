// Direct convolution of bfloat16 inputs and weights, for instruction sets that multiply tiles of
// them: output pixels x (taps x channels) times packed panels of weights. What the prologue makes
// of the input is rounded to bfloat16 once, into a strip with the zeros around.
#pragma once

#include "conv/conv2d.h"

namespace pyengine {

// One band of a call: some output rows, which count over all pictures.
struct DirectBf16Args {
    Conv2dArgs conv;
    int64_t rows, columns;       // of a picture with the zeros around, enlarged
    int64_t first_row, end_row;  // output rows
    int64_t strip_row;           // the strip's first row; padded rows count over all pictures
    void* strip;                 // bfloat16 [strip rows, columns, channels + channels2]
    // Items are pixel_shares x panel_shares of the band's pixels and the panels.
    int64_t pixel_shares, panel_shares;
    float* scratch;
    int64_t scratch_stride;  // floats of an item
};

// Takes scratch memory for a strip of 8 MB, more only where three rows are larger, and 2.4 MB per
// thread. The arguments are checked.
void conv2d_direct_bf16(const Conv2dArgs& args, int threads);

}  // namespace pyengine
