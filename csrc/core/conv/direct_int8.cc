#include "conv/direct_int8.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "conv2d_int8";
constexpr int64_t kMostChannels = int64_t{1} << 17;
constexpr int64_t kStripBytes = int64_t{1} << 23;

// The padded row that output row `row` of all pictures reads first.
int64_t padded_row(const ConvInt8Work& work, int64_t row) {
    return row / work.conv.height_out * work.rows + row % work.conv.height_out * work.conv.stride;
}

int64_t strip_rows(const ConvInt8Work& work) {
    return padded_row(work, work.end_row - 1) + work.conv.kernel_height - work.strip_row;
}

// What a last tile and its taps may read beyond the strip, in pixels.
int64_t slack(const ConvInt8Work& work) {
    return 2 * kInt8TileRows * work.conv.stride + work.conv.kernel_height * work.columns;
}

void cut(ConvInt8Work& work, int64_t row, int64_t height, int threads) {
    const Conv2dArgs& conv = work.conv;
    work.first_row = row;
    work.end_row = std::min(row + height, conv.pictures * conv.height_out);
    work.strip_row = padded_row(work, row);
    const int64_t last = padded_row(work, work.end_row - 1) - work.strip_row;
    work.tiles = work.exact ? (work.end_row - row) * (conv.width_out / kInt8TileRows)
                            : ceil_divide((last + 1) * work.columns / conv.stride, kInt8TileRows);
    const int64_t groups = ceil_divide(conv.channels_out, kInt8Columns);
    // Each share reads its pixels and its weights: the larger of the two is divided.
    const bool by_panels =
        work.tiles * kInt8TileRows * conv.stride * conv.stride <= 9 * conv.channels_out;
    const int64_t first = std::min<int64_t>(threads, by_panels ? groups : work.tiles);
    const int64_t second = std::min(threads / first, by_panels ? work.tiles : groups);
    work.tile_shares = by_panels ? second : first;
    work.panel_shares = by_panels ? first : second;
    work.lines = std::min<int64_t>(threads, strip_rows(work));
    work.rows_of_line = ceil_divide(strip_rows(work), work.lines);
    work.lines = ceil_divide(strip_rows(work), work.rows_of_line);
}

}  // namespace

void conv2d_int8(const ConvInt8Args& args, int threads) {
    const Conv2dArgs& conv = args.conv;
    if (!check_conv2d(conv, kOp)) return;
    const int64_t channels = conv.channels + conv.channels2;
    require(channels <= kMostChannels, kOp, "too many channels for sums of 32 bits");
    require(conv.weight_dtype == DType::int8, kOp, "weights of another dtype");
    require(!conv.transposed && !conv.slopes, kOp, "no transposed convolution and no slopes");
    require(args.weight_scale, kOp, "null pointer weight_scale");
    threads = std::clamp(threads, 1, 1024);
    ConvInt8Work work{};
    work.conv = conv;
    work.weight_scale = args.weight_scale;
    work.product = &int8_product();
    work.steps = ceil_divide(channels, kInt8Step);
    work.exact = conv.width_out % kInt8TileRows == 0;
    work.rows = (conv.height_out - 1) * conv.stride + conv.kernel_height;
    // A multiple of the stride, so that positions of all rows lie a stride apart.
    work.columns = round_up((conv.width_out - 1) * conv.stride + conv.kernel_width, conv.stride);
    const int64_t line = checked_count(kOp, work.columns, work.steps * kInt8Step);
    const int64_t all = conv.pictures * conv.height_out;
    // Bands of about one height.
    const int64_t fits = std::max<int64_t>(kStripBytes / line - conv.kernel_height, 1);
    const int64_t most = std::max<int64_t>(fits / conv.stride, 1);
    const int64_t height = ceil_divide(all, ceil_divide(all, most));
    int64_t rows = 0;
    for (int64_t row = 0; row < all; row += height) {
        cut(work, row, height, threads);
        rows = std::max(rows, strip_rows(work));
    }
    const int64_t pixels = checked_count(kOp, rows, work.columns) + slack(work);
    const int64_t strip = round_up(checked_count(kOp, pixels, work.steps * kInt8Step) / 4, 32);
    const int64_t scales = round_up(pixels, 32);
    work.line_stride = round_up(channels, 32);
    float* memory = scratch(
        checked_count(kOp, strip + scales + threads * (work.line_stride + kConvInt8Floats)));
    work.strip = reinterpret_cast<int8_t*>(memory);
    work.strip_scale = memory + strip;
    work.line = work.strip_scale + scales;
    work.sums = work.line + threads * work.line_stride;
    const auto fill = table().conv2d_int8_strip, run = table().conv2d_int8;
    for (int64_t row = 0; row < all; row += height) {
        cut(work, row, height, threads);
        parallel_for(work.lines, 1, threads,
                     [&](int64_t begin, int64_t end) { fill(work, begin, end); });
        parallel_for(work.tile_shares * work.panel_shares, 1, threads,
                     [&](int64_t begin, int64_t end) { run(work, begin, end); });
    }
}

}  // namespace pyengine
