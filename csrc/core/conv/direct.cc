#include "conv/direct.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "conv2d";
// A share of fewer pixels reads the weights too often for what it multiplies; below it, threads
// divide the panels instead and each weight is read once.
constexpr int64_t kPixelsOfShare = 256;

// Most rows of the strip that one block of pixels reads.
int64_t rows_of_block(const DirectShape& shape, int64_t pictures, int64_t stride) {
    const int64_t kernel = shape.kernel_height + (shape.parities ? 1 : 0);
    const int64_t span =
        std::min(pictures * shape.height, (kDirectBlock + shape.width - 2) / shape.width + 1);
    const int64_t borders = ceil_divide(span - 1, shape.height);  // between pictures
    return (span - 1) * stride + borders * std::max<int64_t>(kernel - stride, 0) + kernel;
}

void share(DirectArgs& direct, int threads) {
    const DirectShape& shape = direct.shape;
    const int64_t pixels = direct.conv.pictures * shape.height * shape.width;
    const int64_t groups = ceil_divide(shape.panels, 2);
    int64_t pixel_shares = std::clamp<int64_t>(pixels / kPixelsOfShare, 1, threads);
    const int64_t panel_shares = std::min<int64_t>(threads / pixel_shares, groups);
    // Threads that found no panels take pixels after all.
    pixel_shares = std::clamp<int64_t>(threads / panel_shares, 1, ceil_divide(pixels, 42));
    direct.pixels_per_share = round_up(ceil_divide(pixels, pixel_shares), 42);
    direct.panels_per_share = ceil_divide(groups, panel_shares) * 2;
    direct.pixel_shares = ceil_divide(pixels, direct.pixels_per_share);
    direct.panel_shares = ceil_divide(shape.panels, direct.panels_per_share);
}

}  // namespace

DirectShape direct_shape(const Conv2dArgs& args) {
    DirectShape shape{};
    const bool merges = args.upsample && args.stride == 1 && args.kernel_height == 3 &&
                        args.kernel_width == 3 && args.top == 1 && args.left == 1 &&
                        args.height_out == 2 * args.height && args.width_out == 2 * args.width;
    shape.joined = args.transposed && 4 * args.channels_out <= kPanel;
    shape.parities = !shape.joined && (merges || args.transposed);
    shape.narrow = !shape.parities && !shape.joined && args.channels_out <= kDirectNarrow;
    const int64_t parts = shape.parities ? 2 : 1;
    const bool halves = shape.parities || shape.joined;
    shape.kernel_height = halves ? 2 : args.kernel_height;
    shape.kernel_width = halves ? 2 : args.kernel_width;
    shape.height = shape.joined ? args.height + 1 : args.height_out / parts;
    shape.width = shape.joined ? args.width + 1 : args.width_out / parts;
    shape.rows = (shape.height - 1) * args.stride + shape.kernel_height + parts - 1;
    shape.columns = (shape.width - 1) * args.stride + shape.kernel_width + parts - 1;
    shape.depth = shape.kernel_height * shape.kernel_width * (args.channels + args.channels2);
    shape.panels = ceil_divide(args.channels_out, kPanel);
    return shape;
}

void conv2d_direct(const Conv2dArgs& args, int threads) {
    DirectArgs direct{};
    direct.conv = args;
    direct.shape = direct_shape(args);
    const DirectShape& shape = direct.shape;
    if (shape.parities) direct.conv.upsample = false;
    share(direct, std::max(threads, 1));

    const int64_t channels = args.channels + args.channels2;
    direct.ring = rows_of_block(shape, args.pictures, args.stride);
    const auto floats = [](int64_t count) { return round_up(count + kSlack, kSlack); };
    direct.block_at = floats(checked_count(kOp, direct.ring, shape.columns, channels));
    direct.sums_at = direct.block_at + floats(kDirectBlock * kDirectDepth);
    const int64_t outputs = direct.panels_per_share * kPanel;
    direct.base_at = direct.sums_at + kDirectBlock * outputs;
    direct.weights_at = direct.base_at + outputs;
    const int64_t line = shape.kernel_width * channels;
    direct.scratch_stride =
        direct.weights_at +
        (shape.narrow ? checked_count(kOp, kDirectNarrow, shape.kernel_height, floats(line))
                      : 2 * kPanel * kDirectDepth);
    const int64_t items = direct.pixel_shares * direct.panel_shares;
    direct.scratch = scratch(checked_count(kOp, items, direct.scratch_stride));

    const auto run = table().conv2d_direct[args.dtype];
    parallel_for(items, 1, threads, [&](int64_t begin, int64_t end) { run(direct, begin, end); });
}

}  // namespace pyengine
