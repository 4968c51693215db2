// Convolution where each pixel is rounded to int8 under a scale of its own and multiplied by int8
// weights: output pixels x channels times panels, tap by tap.
//
// A tap's sums over the channels are exact. They are made floats, times the input pixel's scale,
// and added up in the taps' order; then the weight's scale and the epilogue of conv2d.
#pragma once

#include "conv/conv2d.h"
#include "gemm/product_int8.h"

namespace pyengine {

struct ConvInt8Args {
    Conv2dArgs conv;            // weight: panels [ceil(channels_out / 16)][taps][steps][16][16][4]
    const float* weight_scale;  // [channels_out]
};

// One band of a call: some output rows, which count over all pictures.
struct ConvInt8Work {
    Conv2dArgs conv;
    const float* weight_scale;
    int64_t rows, columns;       // of a picture with the zeros around, enlarged
    int64_t steps;               // of a pixel's channels
    int64_t first_row, end_row;  // output rows
    int64_t strip_row;           // the strip's first row; padded rows count over all pictures
    int8_t* strip;               // [strip rows][columns][steps][64]
    float* strip_scale;          // [strip rows][columns]
    // Tiles of 16 positions: of output pixels where these fill whole tiles of a row; otherwise of
    // all that lie a stride apart in the strip, of which some are no output's.
    bool exact;
    int64_t tiles;
    // Items are tile_shares x panel_shares.
    int64_t tile_shares, panel_shares;
    float* line;  // of each share of the strip's rows: channels
    int64_t line_stride, lines, rows_of_line;
    float* sums;  // of each item: kConvInt8Floats
    const Int8Product* product;
};

// Tiles whose sums wait from tap to tap, and floats of them and of a product.
constexpr int64_t kConvInt8Tiles = 16;
constexpr int64_t kConvInt8Floats = (kConvInt8Tiles + 2) * kInt8TileRows * kInt8Columns;

// Checks all sizes and pointers but the weight's, for conv2d too; returns whether there is anything
// to compute. Throws std::invalid_argument, which names op.
bool check_conv2d(const Conv2dArgs& args, const char* op);

// At most 2^17 channels; neither transposed nor with slopes. Takes scratch memory for a strip of
// 8 MB, more only where three rows are larger, and 40 KB per thread.
void conv2d_int8(const ConvInt8Args& args, int threads);

}  // namespace pyengine
