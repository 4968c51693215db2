// 3x3 convolution of stride 1 by minimal filtering (Winograd 1980; Lavin & Gray 2015,
// arXiv:1509.09308).
//
// The output is cut into tiles of 4x4 (2x2) pixels. Each needs 6x6 (4x4) pixels of the input, which
// become as many numbers per channel, as do the 3x3 weights of a pair of channels; at each of the
// 36 (16) positions a matrix product over the input channels is left. That is 36 multiplications
// for 16 outputs (16 for 4) where the definition takes 144 (36).
#pragma once

#include <stdint.h>

#include "conv/conv2d.h"

namespace pyengine {

// How one call is cut. Of the pixels, for tiles of 4x4 and segments of three:
//
//      a picture's output                              a segment's strip, prepared in cache:
//      +--------+--------+--------+--------+---        (4 + 2) x (4 * 3 + 2) input pixels of
//      `depth` | tile 0 |   1    |   2    |   3    |           channels, through the prologue
//      +--------+--------+--------+--------+---         . . . . . . . . . . . . . .
//      |<------- segment -------->|<-- next             . +-----+ +-----+ +-----+ .    tiles
//      overlap |        |        |        |                     . |  0  | |  1  | |  2  | .    by
//      two pixels
//      +--------+--------+--------+---                  . +-----+ +-----+ +-----+ .
//      ...                                              . . . . . . . . . . . . . .
//
// Segments are taken in blocks, whose transformed input stays in the last-level cache. Of the input
// channels:
//
//      |<------------- slab 0 ------------->|<------------- slab 1 ------------->|  rows of V
//      |<-- depth -->|<-- depth -->|<-depth>|<-- ...                               a strip each
//      |<---- pass ---->|<---- pass ---->|  |<-- ...                               products of U V
//
// The first phase, one strip after the other, fills V. The second multiplies and writes: an item is
// one unit (the panels of a register tile) of one part of the block's tiles, a share some items in
// a row, and two panels of neighbouring units that one share has are a group:
//
//                   unit 0    unit 1    unit 2    unit 3
//      part 0      [ share 0: group ] [ group ]| share 1
//      part 1       share 1          |           share 2
//
// Everything that decides the order of an output's operations (slab, pass)
// depends on the channels alone: neither the batch nor the threads change a bit.
struct WinogradArgs {
    Conv2dArgs conv;
    int64_t output_tile;                   // 4 or 2 pixels on a side
    int64_t tiles_high, tiles_wide;        // of one picture
    int64_t segments_wide, segment;        // of a row of tiles; tiles of each but the last
    int64_t slab;                          // input channels beside each other in `input`
    int64_t pass;                          // of those, how many are multiplied at a time
    int64_t depth;                         // of those, how many are prepared at a time
    int64_t first_segment, last_segment;   // this call's; segments count over all pictures
    int64_t first_tile, tiles;             // the same in tiles
    float* input;                          // [slabs][positions][tiles][kDepth], transformed
    int64_t position_stride, slab_stride;  // of input, in floats
    float* scratch;                        // of each share
    int64_t scratch_stride;
    int64_t shares;      // items of both phases: one per thread, or one in all where threads have
                         // tiles of their own
    int64_t tile_parts;  // the second phase divides tiles x panels
};

// Panels of 16 output channels that are multiplied together: their part of U at one position, 5 KB
// each, stays in the first-level cache while tiles of V pass by.
constexpr int64_t kWinogradGroup = 2;

// Floats of a group's transformed weights; each position has a line more than it fills, so that not
// all fall into one set of the cache.
constexpr int64_t winograd_weights_floats(int64_t output_tile, int64_t pass) {
    return (output_tile + 2) * (output_tile + 2) * (kWinogradGroup * pass * kPanel + 16);
}

// y = conv(x), where args.kernel_height = kernel_width = 3 and stride = 1. output_tile: 4 or 2.
// Largest error in float32: 2e-5 of the result's standard deviation. A value that is infinite or
// NaN spoils every pixel of its tiles. Takes scratch of at most 12.6 MB (more only for more than
// 87,360 input channels), for each of up to 8 threads where there are many tiles, and 1 MB per
// thread.
void conv2d_winograd(const Conv2dArgs& args, int64_t output_tile, int threads);

}  // namespace pyengine
