#include "conv/direct_bf16.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "conv2d";
// Elements of a band's strip: 8 MB.
constexpr int64_t kStripElements = int64_t{1} << 22;
// Pixels of a share, as in direct.cc.
constexpr int64_t kPixelsOfShare = 256;

// The padded row that output row `row` of all pictures reads first.
int64_t padded_row(const DirectBf16Args& band, int64_t row) {
    return row / band.conv.height_out * band.rows + row % band.conv.height_out * band.conv.stride;
}

// Rows that the band's outputs read.
int64_t strip_rows(const DirectBf16Args& band) {
    return padded_row(band, band.end_row - 1) + band.conv.kernel_height -
           padded_row(band, band.first_row);
}

void share(DirectBf16Args& band, int threads) {
    const int64_t pixels = (band.end_row - band.first_row) * band.conv.width_out;
    const int64_t groups = ceil_divide(band.conv.channels_out, 2 * kPanel);
    band.pixel_shares = std::clamp<int64_t>(pixels / kPixelsOfShare, 1, threads);
    band.panel_shares = std::min<int64_t>(threads / band.pixel_shares, groups);
}

}  // namespace

void conv2d_direct_bf16(const Conv2dArgs& args, int threads) {
    DirectBf16Args band{};
    band.conv = args;
    band.rows = (args.height_out - 1) * args.stride + args.kernel_height;
    band.columns = (args.width_out - 1) * args.stride + args.kernel_width;
    const int64_t line = checked_count(kOp, band.columns, args.channels + args.channels2);
    const int64_t all = args.pictures * args.height_out;
    // Bands of about one height.
    const int64_t fits = std::max<int64_t>(kStripElements / line - args.kernel_height, 1);
    const int64_t most = std::max<int64_t>(fits / args.stride, 1);
    const int64_t height = ceil_divide(all, ceil_divide(all, most));
    threads = std::max(threads, 1);

    const auto cut = [&](int64_t row) {
        band.first_row = row;
        band.end_row = std::min(row + height, all);
        band.strip_row = padded_row(band, row);
        share(band, threads);
    };
    int64_t strip = 0;
    for (int64_t row = 0; row < all; row += height) {
        cut(row);
        strip = std::max(strip, checked_count(kOp, strip_rows(band), line));
        band.scratch_stride =
            std::max(band.scratch_stride, round_up(table().conv2d_bf16_scratch(band), 1024));
    }
    const int64_t strip_floats = round_up(ceil_divide(strip, 2), 1024);
    float* memory = scratch(checked_count(kOp, strip_floats + threads * band.scratch_stride));
    band.strip = memory;
    band.scratch = memory + strip_floats;
    const auto fill = table().conv2d_bf16_strip;
    const auto run = table().conv2d_bf16;
    for (int64_t row = 0; row < all; row += height) {
        cut(row);
        parallel_for(strip_rows(band), 4, threads,
                     [&](int64_t begin, int64_t end) { fill(band, begin, end); });
        parallel_for(band.pixel_shares * band.panel_shares, 1, threads,
                     [&](int64_t begin, int64_t end) { run(band, begin, end); });
    }
}

}  // namespace pyengine
