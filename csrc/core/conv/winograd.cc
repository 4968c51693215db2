#include "conv/winograd.h"

#include <algorithm>
#include <numeric>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "conv2d_winograd";

// Floats of a block's transformed input, which is read from the last-level cache once per group.
constexpr int64_t kInputFloats = 3 << 20;
// Most tiles in a block. From here on the weights' transform, once per block, is 2% of the
// products, and M, 590 KB per thread, grows out of the second-level cache.
constexpr int64_t kMostTiles = 128;
// Floats of a strip of pixels: half of a second-level cache of 512 KB.
constexpr int64_t kStripFloats = 32 << 10;
constexpr int64_t kSegment = 16;
// Input channels multiplied at a time: the U of two panels (369 KB for 4x4) stays in a
// second-level cache of 512 KB, and sums of so few terms keep the error small.
constexpr int64_t kPass = 80;

// `whole` in equal parts of at most `most`, each a multiple of 16 (the last may be smaller).
int64_t equal_part(int64_t whole, int64_t most) {
    const int64_t parts = ceil_divide(whole, most);
    return round_up(ceil_divide(whole, parts), 16);
}

// In how many parts the tiles go, so that parts * units divide evenly among the shares: 1 where
// there are many units anyway, since each part transforms all weights.
int64_t tile_parts(int64_t units, int64_t shares, int64_t tiles) {
    if (units >= 8 * shares) return 1;
    return std::min(shares / std::gcd(units, shares), std::max(tiles / 8, int64_t{1}));
}

// Threads have tiles of their own from this many on: what one has transformed it multiplies itself,
// out of caches that are near, and none waits for another between the phases. On fewer the weights'
// transform, which then all of them do, costs more than that brings: two threads of a Zen 2 took
// 0.88 times as long for 2x 64^2x320 (512 tiles), 0.65 for 256^2x128, but 1.30 for 2x 8^2x1280.
constexpr int64_t kOwnTiles = 64;
// Each needs room for a block's input.
constexpr int64_t kMostOwners = 8;

// How many threads have tiles of their own; 1: all share the outputs of each block of tiles.
int64_t owners_of(int64_t tiles, int64_t segments, int threads) {
    const int64_t owners = std::min(int64_t{threads}, segments);
    return owners > 1 && owners <= kMostOwners && tiles >= owners * kOwnTiles ? owners : 1;
}

// What conv2d() has not checked: the products of sizes that only this algorithm forms.
void check(const Conv2dArgs& a) {
    checked_count(kOp, a.pictures, a.height, a.width, a.upsample ? 4 : 1, a.channels + a.channels2);
    checked_count(kOp, a.pictures, a.height_out, a.width_out, a.channels_out, 36);
    checked_count(kOp, a.channels_out, a.channels + a.channels2, 9, 36);
}

}  // namespace

void conv2d_winograd(const Conv2dArgs& conv, int64_t output_tile, int threads) {
    check(conv);
    WinogradArgs a{};
    a.conv = conv;
    a.output_tile = output_tile;
    const int64_t positions = (output_tile + 2) * (output_tile + 2);
    a.tiles_high = ceil_divide(conv.height_out, output_tile);
    a.tiles_wide = ceil_divide(conv.width_out, output_tile);
    const int64_t channels = conv.channels + conv.channels2;
    const int64_t panels = ceil_divide(conv.channels_out, kPanel);
    const int64_t tiles = conv.pictures * a.tiles_high * a.tiles_wide;
    if (tiles == 0 || panels == 0) return;

    const int64_t tile_depth = table().tile_depth;
    a.slab = equal_part(channels, tile_depth);
    a.pass = equal_part(a.slab, kPass);
    const int64_t slabs = ceil_divide(channels, a.slab);

    const int64_t most_tiles =
        std::clamp(kInputFloats / (slabs * positions * tile_depth), int64_t{1}, kMostTiles);
    const int64_t segment = std::min(kSegment, most_tiles);
    a.segments_wide = ceil_divide(a.tiles_wide, segment);
    a.segment = ceil_divide(a.tiles_wide, a.segments_wide);
    const int64_t segments = conv.pictures * a.tiles_high * a.segments_wide;
    const int64_t owners = owners_of(tiles, segments, threads);
    // Of an owner; `block` is in segments.
    const int64_t blocks = ceil_divide(ceil_divide(tiles, owners), most_tiles);
    const int64_t block = std::min(std::max(most_tiles / a.segment, int64_t{1}),
                                   ceil_divide(ceil_divide(segments, owners), blocks));
    const int64_t block_tiles = block * a.segment;
    const int64_t strip_pixels = (output_tile + 2) * (output_tile * a.segment + 2);
    a.depth = equal_part(a.slab, std::max(kStripFloats / strip_pixels, int64_t{64}));

    // One line more, so that the positions do not all fall into the same set of the cache.
    a.position_stride = block_tiles * tile_depth + 16;
    a.slab_stride = positions * a.position_stride;
    const int64_t units = table().lanes == 16 ? ceil_divide(panels, 2) : panels;
    a.shares = owners > 1 ? 1 : std::clamp(int64_t{threads}, int64_t{1}, block_tiles * units);
    a.tile_parts = tile_parts(units, a.shares, block_tiles);
    const int64_t products = winograd_weights_floats(output_tile, a.pass) +
                             block_tiles * positions * kWinogradGroup * kPanel;
    a.scratch_stride = round_up(std::max(strip_pixels * a.depth, products), 16);
    const int64_t input_floats = checked_count(kOp, slabs, a.slab_stride);
    const int64_t owner_floats = input_floats + checked_count(kOp, a.shares, a.scratch_stride);
    float* memory = scratch(checked_count(kOp, owners, owner_floats));

    const auto tile_of = [&](int64_t s) {  // the first tile of a segment
        return s / a.segments_wide * a.tiles_wide + s % a.segments_wide * a.segment;
    };
    const auto run_owner = [&](int64_t owner) {
        WinogradArgs own = a;
        own.input = memory + owner * owner_floats;
        own.scratch = own.input + input_floats;
        const int64_t end = segments * (owner + 1) / owners;
        for (int64_t s = segments * owner / owners; s < end; s += block) {
            own.first_segment = s;
            own.last_segment = std::min(s + block, end);
            own.first_tile = tile_of(s);
            own.tiles = tile_of(own.last_segment) - own.first_tile;
            const auto run = [&](auto phase) {
                parallel_for(own.shares, 1, static_cast<int>(own.shares),
                             [&](int64_t begin, int64_t end) { phase(own, begin, end); });
            };
            run(table().winograd_input[conv.dtype]);
            run(table().winograd_output[conv.weight_dtype]);
        }
    };
    parallel_for(owners, 1, static_cast<int>(owners), [&](int64_t begin, int64_t end) {
        for (int64_t owner = begin; owner < end; ++owner) run_owner(owner);
    });
}

}  // namespace pyengine
