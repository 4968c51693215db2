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

ConvAlgorithm choose_algorithm(const ConvShape& shape, int lanes) {
    (void)lanes;
    if (!winograd_applies(shape)) return ConvAlgorithm::direct;
    return ConvAlgorithm::direct;
}

}  // namespace pyengine
