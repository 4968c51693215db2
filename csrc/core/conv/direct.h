// Direct convolution as an implicit matrix product: output pixels x (taps x channels) times packed
// panels of weights, gathered tile by tile from a strip of prepared input.
#pragma once

#include "conv/conv2d.h"

namespace pyengine {

// Output pixels multiplied at a time, by all weights of a pass: a multiple of every instruction
// set's rows of a tile (3, 6, 14). Their A takes 188 KB of the second-level cache
// with 16 lanes, 376 with fewer. Sixteen pictures of 4x4 are one block.
constexpr int64_t kDirectBlock = 294;
// The most that kDepth of gemm/tile.simd.h is, which only vector code sees.
constexpr int64_t kDirectDepth = 320;
// Up to so many output channels, sums run over a vector's lanes.
constexpr int64_t kDirectNarrow = 4;
// Floats that kernels may read and write, without use, past the end of a row.
constexpr int64_t kSlack = 16;

// The products of the matrix: from the layer's shape alone.
//
// A nearest-neighbour enlargement followed by 3x3 (with one zero around) is four convolutions of
// 2x2 taps, one for each parity of the output's row and column: taps that see the same pixel are
// added up first. That is 4 products where there were 9. A transposed convolution of stride 2 with
// 4x4 taps is four of 2x2, too: each parity has four of the taps. Where their outputs fit into one
// panel, it is one convolution of 2x2 taps over windows a row and a column more than the input has.
struct DirectShape {
    bool narrow;                          // few output channels
    bool parities;                        // the four convolutions; otherwise one
    bool joined;                          // a transposed convolution, the four in one panel
    int64_t kernel_height, kernel_width;  // taps of each
    int64_t height, width;                // output pixels of each
    int64_t rows, columns;                // padded input of a picture
    int64_t depth;                        // taps * channels
    int64_t panels;
};

struct DirectArgs {
    Conv2dArgs conv;  // with upsample off where shape.parities
    DirectShape shape;
    // Items are pixel_shares x panel_shares, the pixels of all pictures in order.
    int64_t pixel_shares, panel_shares;
    int64_t pixels_per_share, panels_per_share;
    int64_t ring;  // rows of the strip; row r lies at r % ring
    // An item's scratch: the strip, the gathered block, the sums, bias + channel_add, weights made
    // of the given ones.
    float* scratch;
    int64_t scratch_stride, block_at, sums_at, base_at, weights_at;
};

DirectShape direct_shape(const Conv2dArgs& args);

// Runs on at most `threads` threads. The arguments are checked.
void conv2d_direct(const Conv2dArgs& args, int threads);

}  // namespace pyengine
