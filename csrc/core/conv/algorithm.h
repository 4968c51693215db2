// Which algorithm convolves a layer: one table, a pure function of one picture's shape, the dtype
// and the instruction set. Never of the batch, the threads or a timing, on which no bit may depend.
#pragma once

#include <stdint.h>

#include "conv/conv2d.h"

namespace pyengine {

enum class ConvAlgorithm : int { direct = 0, winograd4 = 1, winograd2 = 2, direct_bf16 = 3 };
constexpr const char* kConvAlgorithms[] = {"direct", "winograd4", "winograd2", "direct_bf16"};

// One picture through one layer.
struct ConvShape {
    int64_t height_out, width_out, channels, channels_out;  // channels: both inputs'
    int64_t kernel_height, kernel_width, stride;
    bool upsample;
    DType weight_dtype;
    DType dtype;  // of the activations
};

ConvShape shape_of(const Conv2dArgs& args);

// Whether Winograd's F(m x m, 3x3) is defined for the layer at all.
bool winograd_applies(const ConvShape& shape);

// Whether bfloat16 direct convolution is defined for the layer.
bool direct_bf16_applies(const ConvShape& shape);

// tiles: whether the instruction set has it.
ConvAlgorithm choose_algorithm(const ConvShape& shape, bool tiles);

}  // namespace pyengine
