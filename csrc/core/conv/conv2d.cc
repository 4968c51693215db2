#include "conv/conv2d.h"

#include "check.h"
#include "conv/algorithm.h"
#include "conv/direct.h"
#include "conv/direct_bf16.h"
#include "conv/direct_int8.h"
#include "conv/winograd.h"
#include "gemm/pairs.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "conv2d";

// Every product of sizes that a kernel forms to reach an element is one of these or smaller.
void check_sizes(const Conv2dArgs& a, const char* op) {
    for (int64_t size : {a.channels, a.channels2, a.top, a.left})
        require(size >= 0 && size <= INT32_MAX, op, "size out of range: " + std::to_string(size));
    for (int64_t size : {a.height, a.width, a.height_out, a.width_out, a.kernel_height,
                         a.kernel_width, a.stride, a.channels + a.channels2})
        require(size >= 1 && size <= INT32_MAX, op, "size out of range: " + std::to_string(size));
    const int64_t channels = a.channels + a.channels2;
    checked_count(op, a.pictures, a.height, a.width, channels);
    checked_count(op, a.pictures, a.height_out, a.width_out, a.channels_out);
    checked_count(op, a.channels_out + kPanel, a.kernel_height, a.kernel_width, channels);
    // The padded picture that the outputs read.
    checked_count(op, a.pictures, a.height_out * a.stride + a.kernel_height,
                  a.width_out * a.stride + a.kernel_width, channels);
}

bool is_doubling(const Conv2dArgs& a) {
    return a.kernel_height == 4 && a.kernel_width == 4 && a.stride == 1 && a.top == 1 &&
           a.left == 1 && !a.upsample && a.height_out == 2 * a.height && a.width_out == 2 * a.width;
}

void check_pointers(const Conv2dArgs& a, const char* op) {
    require(a.x || a.channels == 0, op, "null pointer x");
    require(a.x2 || a.channels2 == 0, op, "null pointer x2");
    require(a.weight && a.y, op, "null pointer weight or y");
    require(!a.scale == !a.shift, op, "one of scale and shift without the other");
}

}  // namespace

bool check_conv2d(const Conv2dArgs& args, const char* op) {
    check_sizes(args, op);
    require(args.activation >= InputActivation::none && args.activation <= InputActivation::relu,
            op, "no such activation");
    if (args.pictures == 0 || args.channels_out == 0) return false;
    check_pointers(args, op);
    return true;
}

void conv2d(const Conv2dArgs& args, int algorithm, int threads) {
    require(!args.transposed || is_doubling(args), kOp, "no such transposed convolution");
    if (!check_conv2d(args, kOp)) return;
    const ConvShape shape = shape_of(args);
    const bool tiles = table().conv2d_bf16 != nullptr;
    const ConvAlgorithm chosen =
        algorithm < 0 ? choose_algorithm(shape, tiles) : static_cast<ConvAlgorithm>(algorithm);
    const bool winograd = chosen == ConvAlgorithm::winograd4 || chosen == ConvAlgorithm::winograd2;
    require(!winograd || winograd_applies(shape), kOp,
            "Winograd's algorithm is for 3x3 with stride 1");
    require(
        chosen != ConvAlgorithm::direct_bf16 || (tiles && direct_bf16_applies(shape)), kOp,
        "direct_bf16 is for bfloat16, 3x3, channels in multiples of 32, 16 outputs or more, and "
        "an instruction set with tiles");
    require(args.weight_dtype != DType::int8, kOp, "weights in int8 are for conv2d_int8");
    require(args.weight_dtype != kBFloat16Pairs || chosen == ConvAlgorithm::direct_bf16, kOp,
            "weights in pairs are for direct_bf16");
    switch (chosen) {
        case ConvAlgorithm::direct:
            return conv2d_direct(args, threads);
        case ConvAlgorithm::direct_bf16:
            return conv2d_direct_bf16(args, threads);
        case ConvAlgorithm::winograd4:
            return conv2d_winograd(args, 4, threads);
        case ConvAlgorithm::winograd2:
            return conv2d_winograd(args, 2, threads);
    }
}

}  // namespace pyengine
