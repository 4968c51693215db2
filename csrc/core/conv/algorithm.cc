#include "conv/algorithm.h"

namespace pyengine {

ConvShape shape_of(const Conv2dArgs& args) {
    return {args.height_out,   args.width_out,     args.channels + args.channels2,
            args.channels_out, args.kernel_height, args.kernel_width,
            args.stride,       args.upsample,      args.weight_dtype};
}

bool winograd_applies(const ConvShape& shape) {
    return shape.kernel_height == 3 && shape.kernel_width == 3 && shape.stride == 1;
}

ConvAlgorithm choose_algorithm(const ConvShape& shape, int) {
    if (!winograd_applies(shape)) return ConvAlgorithm::direct;
    // Four 2x2 convolutions need 4 products where F(4x4) needs 2.25 and its transforms.
    if (shape.upsample) return ConvAlgorithm::direct;
    // Transforms are paid per input and per output channel, and save products of both.
    if (shape.channels < 32 || shape.channels_out < 32) return ConvAlgorithm::direct;
    // One tile a picture: transforming the weights then costs more than it saves.
    if (shape.height_out <= 4 && shape.width_out <= 4) return ConvAlgorithm::direct;
    return ConvAlgorithm::winograd4;
}

}  // namespace pyengine
