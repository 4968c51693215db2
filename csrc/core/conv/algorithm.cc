#include "conv/algorithm.h"

#include "gemm/pairs.h"

namespace pyengine {

ConvShape shape_of(const Conv2dArgs& args) {
    return {.height_out = args.height_out,
            .width_out = args.width_out,
            .channels = args.channels + args.channels2,
            .channels_out = args.channels_out,
            .kernel_height = args.kernel_height,
            .kernel_width = args.kernel_width,
            .stride = args.stride,
            .upsample = args.upsample,
            .weight_dtype = args.weight_dtype,
            .dtype = args.dtype};
}

bool winograd_applies(const ConvShape& shape) {
    return shape.kernel_height == 3 && shape.kernel_width == 3 && shape.stride == 1;
}

// The times behind each of the other rows are in docs/performance.md. Where an enlargement comes
// first, F(4x4) needs 2.25 products an output and the direct way's four 2x2 convolutions 4: the
// same rows hold.
bool direct_bf16_applies(const ConvShape& shape) {
    const bool bf16 = shape.dtype == DType::bfloat16 && is_bfloat16(shape.weight_dtype);
    // Whole steps of K in each tap, and a panel of outputs at least.
    return bf16 && shape.kernel_height == 3 && shape.kernel_width == 3 &&
           shape.channels % 32 == 0 && shape.channels_out >= 16;
}

ConvAlgorithm choose_algorithm(const ConvShape& shape, bool tiles) {
    if (tiles && direct_bf16_applies(shape)) return ConvAlgorithm::direct_bf16;
    if (!winograd_applies(shape)) return ConvAlgorithm::direct;
    // Transforms are paid per input and per output channel, and save products of both.
    if (shape.channels < 32 || shape.channels_out < 32) return ConvAlgorithm::direct;
    // One tile of 4x4 a picture: 36 transformed weights for each 9 cost more than they save.
    if (shape.height_out <= 4 && shape.width_out <= 4) return ConvAlgorithm::winograd2;
    return ConvAlgorithm::winograd4;
}

}  // namespace pyengine
