#include "conv/direct.h"

#include "conv/strip.simd.h"
#include "gemm/tile.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

static_assert(kDirectDepth >= kDepth && kPanelWidth == kPanel && kDirectBlock % kTileRows == 0);

constexpr int64_t kGroup = kTilePanels * kPanel;  // channels that a tile computes side by side

PYENGINE_INLINE int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

struct Range {
    int64_t begin, end;
};

// --- weights -----------------------------------------------------------------------------------

// Adds `count` weights of one tap to sums, or sets them.
template <class W>
PYENGINE_INLINE void add_weights(const W* from, int64_t count, bool first, float* sums) {
    for (int64_t i = 0; i < count; i += kLanes) {
        const Floats w = load(from + i);
        store(sums + i, first ? w : load(sums + i) + w);
    }
}

// The taps of 3 that tap s of the 2 stands for, in output rows (or columns) of one parity.
PYENGINE_INLINE Range merged_taps(int64_t parity, int64_t s) {
    return s == 0 ? Range{0, parity + 1} : Range{parity + 1, 3};
}

// [depth][16] of a panel from element `from` of its K, summed over the taps that a parity merges.
template <class W>
void merge_weights(const DirectArgs& direct, int64_t panel, int64_t parity, int64_t from,
                   int64_t depth, float* out) {
    const Conv2dArgs& conv = direct.conv;
    const int64_t channels = conv.channels + conv.channels2;
    const W* weight = static_cast<const W*>(conv.weight) + panel * 9 * channels * kPanel;
    for (int64_t k = from; k < from + depth;) {
        const int64_t tap = k / channels, channel = k - tap * channels;
        const int64_t count = smaller(channels - channel, from + depth - k);
        const Range rows = merged_taps(parity / 2, tap / 2);
        const Range columns = merged_taps(parity % 2, tap % 2);
        bool first = true;
        for (int64_t row = rows.begin; row < rows.end; ++row)
            for (int64_t column = columns.begin; column < columns.end; ++column, first = false)
                add_weights(weight + ((row * 3 + column) * channels + channel) * kPanel,
                            count * kPanel, first, out);
        out += count * kPanel;
        k += count;
    }
}

template <class W>
void widen_weights(const DirectArgs& direct, int64_t panel, int64_t from, int64_t depth,
                   float* out) {
    const W* weight = static_cast<const W*>(direct.conv.weight);
    add_weights(weight + (panel * direct.shape.depth + from) * kPanel, depth * kPanel, true, out);
}

struct Weights {
    const float* first;
    int64_t stride;  // from panel to panel
};

// `count` panels' [depth][16] from element `from` of K on: where they are, or made in `scratch`.
Weights weights_of(const DirectArgs& direct, int64_t panel, int64_t count, int64_t parity,
                   int64_t from, int64_t depth, float* scratch) {
    const DType dtype = direct.conv.weight_dtype;
    const bool parities = direct.shape.parities;
    if (dtype == DType::float32 && !parities)
        return {static_cast<const float*>(direct.conv.weight) +
                    (panel * direct.shape.depth + from) * kPanel,
                direct.shape.depth * kPanel};
    for (int64_t i = 0; i < count; ++i) {
        float* out = scratch + i * kDepth * kPanel;
        if (dtype == DType::float32)
            merge_weights<float>(direct, panel + i, parity, from, depth, out);
        else if (dtype == DType::bfloat16)
            parities ? merge_weights<BFloat16>(direct, panel + i, parity, from, depth, out)
                     : widen_weights<BFloat16>(direct, panel + i, from, depth, out);
        else
            parities ? merge_weights<Float16>(direct, panel + i, parity, from, depth, out)
                     : widen_weights<Float16>(direct, panel + i, from, depth, out);
    }
    return {scratch, kDepth * kPanel};
}

// Asks for part `part` of `parts` of what weights_of will read next, while tiles are computed:
// weights come from memory once, and a tile computes as long as 5 KB take from there.
void prefetch_weights(const DirectArgs& direct, int64_t panel, int64_t count, int64_t from,
                      int64_t depth, int64_t part, int64_t parts) {
    const int64_t size = size_of(direct.conv.weight_dtype);
    const int64_t bytes = depth * kPanel * size;
    for (int64_t i = 0; i < count; ++i) {
        const char* first = static_cast<const char*>(direct.conv.weight) +
                            ((panel + i) * direct.shape.depth + from) * kPanel * size;
        const int64_t end = bytes * (part + 1) / parts;
        for (int64_t at = bytes * part / parts / 64 * 64; at < end; at += 64)
            __builtin_prefetch(first + at, 0, 2);
    }
}

// --- the product -------------------------------------------------------------------------------

// Where an output pixel of one of the parities' pictures is: all pictures' pixels in order.
struct Pixel {
    int64_t picture, row, column;

    Pixel(const DirectShape& shape, int64_t index)
        : picture(index / (shape.height * shape.width)),
          row(index / shape.width % shape.height),
          column(index % shape.width) {}
    void advance(const DirectShape& shape) {
        if (++column < shape.width) return;
        column = 0;
        if (++row < shape.height) return;
        row = 0;
        ++picture;
    }
};

// a: [count][kDepth] gets elements [from, from + depth) of the pixels' rows of the matrix: of each
// row of taps, a piece of the strip.
void gather(const DirectArgs& direct, Range pixels, int64_t parity, int64_t from, int64_t depth,
            const float* strip, float* a) {
    const DirectShape& shape = direct.shape;
    const int64_t channels = direct.conv.channels + direct.conv.channels2;
    const int64_t stride = direct.conv.stride, line = shape.kernel_width * channels;
    const int64_t row_size = shape.columns * channels;
    const int64_t first_tap = from / line + parity / 2, first_at = from % line;
    Pixel pixel(shape, pixels.begin);
    for (int64_t i = pixels.begin; i < pixels.end; ++i, a += kDepth, pixel.advance(shape)) {
        int64_t row = pixel.picture * shape.rows + pixel.row * stride + first_tap;
        const int64_t column = (pixel.column * stride + parity % 2) * channels;
        for (int64_t k = 0, at = first_at; k < depth; ++row, at = 0) {
            const float* source = strip + row % direct.ring * row_size + column + at;
            const int64_t count = smaller(line - at, depth - k);
            // Up to a vector too much, which the next piece or row overwrites.
            for (int64_t j = 0; j < count; j += kLanes) store(a + k + j, load(source + j));
            k += count;
        }
    }
}

// sums: [groups][kDirectBlock][kGroup] += a times the panels' weights of one pass.
void multiply(const DirectArgs& direct, Range panels, int64_t parity, int64_t from, int64_t depth,
              int64_t rows, const float* a, float* sums, float* scratch) {
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    for (int64_t panel = panels.begin; panel < panels.end; panel += kTilePanels) {
        const int64_t count = smaller(kTilePanels, panels.end - panel);
        const Weights weights = weights_of(direct, panel, count, parity, from, depth, scratch);
        // The next panels of this pass, or the first of the next.
        const bool last = panel + kTilePanels >= panels.end;
        const int64_t next = last ? panels.begin : panel + kTilePanels;
        const int64_t next_from = last ? from + depth : from;
        const int64_t next_depth =
            direct.shape.parities ? 0 : smaller(depth, direct.shape.depth - next_from);
        const int64_t next_count = smaller(kTilePanels, panels.end - next);
        for (int64_t t = 0; t < tiles; ++t) {
            prefetch_weights(direct, next, next_count, next_from, next_depth, t, tiles);
            const int64_t row = t * kTileRows, left = smaller(kTileRows, rows - row);
            float* c = sums + row * kGroup;
            if (count == kTilePanels)
                tile_of<kTilePanels>(left, a + row * kDepth, weights.first, weights.stride, depth,
                                     c, kGroup, from > 0);
            else
                tile_of<1>(left, a + row * kDepth, weights.first, weights.stride, depth, c, kGroup,
                           from > 0);
        }
        sums += kDirectBlock * kGroup;
    }
}

// --- what goes in, what comes out --------------------------------------------------------------

// Fills the strip with the input rows that the pixels read; rows below `filled` are there already.
template <class T>
void fill_strip(const DirectArgs& direct, Range pixels, int64_t& filled, float* strip) {
    const DirectShape& shape = direct.shape;
    const Pixel first(shape, pixels.begin), last(shape, pixels.end - 1);
    const int64_t stride = direct.conv.stride;
    const int64_t row_size = shape.columns * (direct.conv.channels + direct.conv.channels2);
    const int64_t begin = first.picture * shape.rows + first.row * stride;
    const int64_t end = last.picture * shape.rows + last.row * stride + shape.kernel_height +
                        (shape.parities ? 1 : 0);
    const int64_t start = filled > begin ? filled : begin;
    for (int64_t row = start; row < end; ++row) {
        const int64_t in_picture = row % shape.rows;
        float* out = strip + row % direct.ring * row_size;
        if (row > start && in_picture > 0 && repeats_row(direct.conv, in_picture))
            __builtin_memcpy(out, strip + (row - 1) % direct.ring * row_size,
                             static_cast<size_t>(row_size) * sizeof(float));
        else
            fill_row<T>(direct.conv, row / shape.rows, in_picture, shape.columns, out);
    }
    filled = end;
}

// y = sums + bias + channel_add + residual for the channels of some panels.
template <class T>
void finish(const DirectArgs& direct, Range pixels, Range panels, int64_t parity,
            const float* sums) {
    const Conv2dArgs& conv = direct.conv;
    const DirectShape& shape = direct.shape;
    const int64_t repeat = shape.parities ? 2 : 1, first = panels.begin * kPanel;
    const int64_t channels = smaller(panels.end * kPanel, conv.channels_out) - first;
    const float* bias = conv.bias + first;
    Pixel pixel(shape, pixels.begin);
    for (int64_t i = pixels.begin; i < pixels.end; ++i, pixel.advance(shape), sums += kGroup) {
        const int64_t row = pixel.row * repeat + parity / 2;
        const int64_t column = pixel.column * repeat + parity % 2;
        const int64_t at = ((pixel.picture * conv.height_out + row) * conv.width_out + column) *
                               conv.channels_out +
                           first;
        const T* add =
            static_cast<const T*>(conv.channel_add) + pixel.picture * conv.channels_out + first;
        const T* residual = static_cast<const T*>(conv.residual) + at;
        T* y = static_cast<T*>(conv.y) + at;
        for (int64_t group = 0; group < channels; group += kGroup) {
            const float* from = sums + group * kDirectBlock;
            for_vectors(smaller(kGroup, channels - group), [&](int64_t c, auto lanes) {
                Floats v = load(from + c);
                if (conv.bias) v += load(bias + group + c, lanes);
                if (conv.channel_add) v += load(add + group + c, lanes);
                if (conv.residual) v += load(residual + group + c, lanes);
                store(y + group + c, v, lanes);
            });
        }
    }
}

// One share of the pixels by one share of the panels.
template <class T>
void convolve(const DirectArgs& direct, Range pixels, Range panels, float* scratch) {
    float* a = scratch + direct.block_at;
    float* sums = scratch + direct.sums_at;
    float* weights = scratch + direct.weights_at;
    const int64_t depth = direct.shape.depth, parities = direct.shape.parities ? 4 : 1;
    const int64_t count = pixels.end - pixels.begin;
    // Blocks of like size: the last would otherwise read all weights for a few pixels.
    const int64_t blocks = (count + kDirectBlock - 1) / kDirectBlock;
    const int64_t size = (count + blocks * kTileRows - 1) / (blocks * kTileRows) * kTileRows;
    int64_t filled = 0;
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += size) {
        const Range block{begin, smaller(begin + size, pixels.end)};
        fill_strip<T>(direct, block, filled, scratch);
        for (int64_t parity = 0; parity < parities; ++parity) {
            for (int64_t from = 0; from < depth; from += kDepth) {
                const int64_t pass = smaller(kDepth, depth - from);
                gather(direct, block, parity, from, pass, scratch, a);
                multiply(direct, panels, parity, from, pass, block.end - block.begin, a, sums,
                         weights);
            }
            finish<T>(direct, block, panels, parity, sums);
        }
    }
}

}  // namespace

template <class T>
void conv2d_direct(const DirectArgs& direct, int64_t begin, int64_t end) {
    const DirectShape& shape = direct.shape;
    const int64_t all = direct.conv.pictures * shape.height * shape.width;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t pixel = item / direct.panel_shares * direct.pixels_per_share;
        const int64_t panel = item % direct.panel_shares * direct.panels_per_share;
        const Range pixels{pixel, smaller(pixel + direct.pixels_per_share, all)};
        const Range panels{panel, smaller(panel + direct.panels_per_share, shape.panels)};
        convolve<T>(direct, pixels, panels, direct.scratch + item * direct.scratch_stride);
    }
}

template void conv2d_direct<float>(const DirectArgs&, int64_t, int64_t);
template void conv2d_direct<BFloat16>(const DirectArgs&, int64_t, int64_t);
template void conv2d_direct<Float16>(const DirectArgs&, int64_t, int64_t);

}  // namespace pyengine::PYENGINE_NS
