#pragma once

#include <stdint.h>

#include "dtype.h"
#include "panel.h"

namespace pyengine {

// Of a convolution's input, after scale and shift.
enum class InputActivation : int { none, silu, gelu, relu };
constexpr int kInputActivations = 4;

// y = leak(conv(activation([x, x2] * scale + shift)) + bias + channel_add) + residual, all NHWC,
// with leak(v) = v where v > 0, v * slopes elsewhere.
// Null: absent. x2 lies beside x in C. Where `upsample`, the convolution sees the input twice as
// high and wide, each pixel four times.
struct Conv2dArgs {
    const void* x;            // [pictures, height, width, channels]
    const void* x2;           // [pictures, height, width, channels2]
    const void* weight;       // [panels, kernel_height, kernel_width, channels + channels2, 16]
    const float* bias;        // [channels_out]
    const float* scale;       // [pictures, channels + channels2]
    const float* shift;       // [pictures, channels + channels2]
    const void* channel_add;  // [pictures, channels_out]
    const float* slopes;      // [channels_out]
    const void* residual;     // [pictures, height_out, width_out, channels_out]; may be y itself
    void* y;                  // [pictures, height_out, width_out, channels_out]
    int64_t pictures, height, width, channels, channels2;
    int64_t height_out, width_out, channels_out, kernel_height, kernel_width;
    int64_t stride, top, left;  // zeros above and left of the (enlarged) picture
    InputActivation activation;
    bool upsample;
    // A transposed convolution of stride 2 that crops a pixel on each side: kernel 4x4, twice as
    // high and wide a result; stride, top and left are 1.
    bool transposed;
    DType dtype;         // of x, x2, channel_add, residual and y
    DType weight_dtype;  // of weight
};

// algorithm: -1 for the one that algorithm.h's table names, or a ConvAlgorithm.
// Throws std::invalid_argument for sizes and pointers that cannot be, std::bad_alloc.
void conv2d(const Conv2dArgs& args, int algorithm, int threads);

}  // namespace pyengine
