#include "conv/direct.h"

#include "conv/direct_weights.simd.h"
#include "conv/strip.simd.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"
#include "isa/transpose.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

static_assert(kDirectDepth >= kDepth && kDirectBlock % kTileRows == 0);

constexpr int64_t kGroup = kTilePanels * kPanel;  // channels that a tile computes side by side

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
    // The first that it reads; all pictures' rows in order.
    int64_t row_of_strip(const DirectArgs& direct) const {
        return picture * direct.shape.rows + row * direct.conv.stride;
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
        int64_t slot = (pixel.row_of_strip(direct) + first_tap) % direct.ring;
        const int64_t column = (pixel.column * stride + parity % 2) * channels;
        for (int64_t k = 0, at = first_at; k < depth; at = 0) {
            const float* source = strip + slot * row_size + column + at;
            if (++slot == direct.ring) slot = 0;
            const int64_t count = least(line - at, depth - k);
            // Up to a vector too much, which the next piece or row overwrites.
            for (int64_t j = 0; j < count; j += kLanes) store(a + k + j, load(source + j));
            k += count;
        }
    }
}

// sums: [groups][kDirectBlock][kGroup] += a times the panels' weights of one pass.
void multiply(const DirectArgs& direct, Range panels, int64_t parity, int64_t from, int64_t depth,
              int64_t rows, const float* a, float* sums, float* scratch) {
    const int64_t tiles = ceil_divide(rows, kTileRows);
    for (int64_t panel = panels.begin; panel < panels.end; panel += kTilePanels) {
        const int64_t count = least(kTilePanels, panels.end - panel);
        const Weights weights = weights_of(direct, panel, count, parity, from, depth, scratch);
        // The next panels of this pass, or the first of the next.
        const bool last = panel + kTilePanels >= panels.end;
        const int64_t next = last ? panels.begin : panel + kTilePanels;
        const int64_t next_from = last ? from + depth : from;
        const int64_t next_depth = direct.shape.parities || direct.shape.joined
                                       ? 0
                                       : least(depth, direct.shape.depth - next_from);
        const int64_t next_count = least(kTilePanels, panels.end - next);
        for (int64_t t = 0; t < tiles; ++t) {
            prefetch_weights(direct, next, next_count, next_from, next_depth, t, tiles);
            // Of nearly equal height: one of a row or two that were left over would be slow.
            const int64_t row = rows * t / tiles, height = rows * (t + 1) / tiles - row;
            const float* at = a + row * kDepth;
            float* c = sums + row * kGroup;
            if (count == kTilePanels)
                tile_of<kTilePanels>(height, at, weights.first, weights.stride, depth, c, kGroup,
                                     from > 0);
            else
                tile_of<1>(height, at, weights.first, weights.stride, depth, c, kGroup, from > 0);
        }
        sums += kDirectBlock * kGroup;
    }
}

// --- few output channels: sums over lanes ------------------------------------------------------

// A vector then holds input channels of one tap and not output channels, of which a panel would
// have 12 or more for nothing.
constexpr int64_t kNarrowRows = 3;
static_assert(kDirectNarrow == 4);

// [kernel_height][vectors of a row of taps][4][kLanes], zero where there is nothing.
template <class W>
void transpose_weights(const DirectArgs& direct, float* out) {
    const DirectShape& shape = direct.shape;
    const W* weight = static_cast<const W*>(direct.conv.weight);
    const int64_t line = shape.depth / shape.kernel_height;
    for (int64_t row = 0; row < shape.kernel_height; ++row)
        for (int64_t i = 0; i < line; i += kLanes, out += 4 * kLanes)
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                float outputs[kLanes];
                store(outputs,
                      i + lane < line ? load(weight + (row * line + i + lane) * kPanel) : Floats{});
                for (int64_t o = 0; o < 4; ++o) out[o * kLanes + lane] = outputs[o];
            }
}

// The sums over the lanes of four vectors.
PYENGINE_INLINE void sum_lanes(const Floats (&v)[4], float* out) {
    const Floats even = first_in_turn(v[0], v[2]) + second_in_turn(v[0], v[2]);
    const Floats odd = first_in_turn(v[1], v[3]) + second_in_turn(v[1], v[3]);
    float lanes[kLanes];  // each of the four, again and again
    store(lanes, first_in_turn(even, odd) + second_in_turn(even, odd));
    for (int width = kLanes / 2; width >= 4; width /= 2)
        for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
    for (int o = 0; o < 4; ++o) out[o] = lanes[o];
}

// Four sums of each of `Rows` pixels, which it leaves behind.
template <int Rows>
PYENGINE_INLINE void narrow_tile(const DirectArgs& direct, Pixel& pixel, const float* strip,
                                 const float* weights, float* sums) {
    const DirectShape& shape = direct.shape;
    const int64_t channels = direct.conv.channels + direct.conv.channels2;
    const int64_t line = shape.kernel_width * channels, row_size = shape.columns * channels;
    int64_t slots[Rows], columns[Rows];
    for (int r = 0; r < Rows; ++r, pixel.advance(shape)) {
        slots[r] = pixel.row_of_strip(direct) % direct.ring;
        columns[r] = pixel.column * direct.conv.stride * channels;
    }
    Floats total[Rows][4] = {};
    for (int64_t row = 0; row < shape.kernel_height; ++row) {
        const float* from[Rows];
        for (int r = 0; r < Rows; ++r) {
            from[r] = strip + slots[r] * row_size + columns[r];
            if (++slots[r] == direct.ring) slots[r] = 0;
        }
        for_vectors(line, [&](int64_t i, auto lanes) {
            Floats a[Rows];
#pragma GCC unroll 4
            for (int r = 0; r < Rows; ++r) a[r] = first_lanes(load(from[r] + i), lanes);
#pragma GCC unroll 4
            for (int o = 0; o < 4; ++o) {
                const Floats w = load(weights + o * kLanes);
#pragma GCC unroll 4
                for (int r = 0; r < Rows; ++r) total[r][o] = fma(a[r], w, total[r][o]);
            }
            weights += 4 * kLanes;
        });
    }
    for (int r = 0; r < Rows; ++r) sum_lanes(total[r], sums + r * kGroup);
}

void narrow_products(const DirectArgs& direct, Range pixels, const float* strip,
                     const float* weights, float* sums) {
    Pixel pixel(direct.shape, pixels.begin);
    int64_t i = pixels.begin;
    for (; i + kNarrowRows <= pixels.end; i += kNarrowRows, sums += kNarrowRows * kGroup)
        narrow_tile<kNarrowRows>(direct, pixel, strip, weights, sums);
    for (; i < pixels.end; ++i, sums += kGroup) narrow_tile<1>(direct, pixel, strip, weights, sums);
}

// --- what goes in, what comes out --------------------------------------------------------------

// Fills the strip with the input rows that the pixels read; rows below `filled` are there already.
template <class T>
void fill_strip(const DirectArgs& direct, Range pixels, int64_t& filled, float* strip) {
    const DirectShape& shape = direct.shape;
    const Pixel first(shape, pixels.begin), last(shape, pixels.end - 1);
    const int64_t row_size = shape.columns * (direct.conv.channels + direct.conv.channels2);
    const int64_t begin = first.row_of_strip(direct);
    const int64_t end = last.row_of_strip(direct) + shape.kernel_height + (shape.parities ? 1 : 0);
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

// base = bias + channel_add of a picture, for `channels` channels from the first.
template <class T>
void fill_base(const Conv2dArgs& conv, int64_t picture, int64_t first, int64_t channels,
               float* base) {
    const T* add = static_cast<const T*>(conv.channel_add) + picture * conv.channels_out + first;
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v{};
        if (conv.bias) v = load(conv.bias + first + c, lanes);
        if (conv.channel_add) v += load(add + c, lanes);
        store(base + c, v);
    });
}

// y = leak(sums + base) + residual of some channels of a pixel. at: of the first in y.
template <class T>
PYENGINE_INLINE void finish_channels(const Conv2dArgs& conv, int64_t at, int64_t first,
                                     int64_t count, const float* sums, const float* base) {
    const T* residual = static_cast<const T*>(conv.residual) + at;
    T* y = static_cast<T*>(conv.y) + at;
    for_vectors(count, [&](int64_t c, auto lanes) {
        Floats v = load(sums + c) + load(base + c);
        if (conv.slopes) v = leak(v, load(conv.slopes + first + c, lanes));
        if (conv.residual) v += load(residual + c, lanes);
        store(y + c, v, lanes);
    });
}

// Of the channels of some panels.
template <class T>
void finish(const DirectArgs& direct, Range pixels, Range panels, int64_t parity, const float* sums,
            float* base) {
    const Conv2dArgs& conv = direct.conv;
    const DirectShape& shape = direct.shape;
    const int64_t repeat = shape.parities ? 2 : 1, first = panels.begin * kPanel;
    const int64_t channels = least(panels.end * kPanel, conv.channels_out) - first;
    Pixel pixel(shape, pixels.begin);
    int64_t picture = -1;
    for (int64_t i = pixels.begin; i < pixels.end; ++i, pixel.advance(shape), sums += kGroup) {
        if (pixel.picture != picture) {
            picture = pixel.picture;
            fill_base<T>(conv, picture, first, channels, base);
        }
        const int64_t row = pixel.row * repeat + parity / 2;
        const int64_t column = pixel.column * repeat + parity % 2;
        const int64_t at =
            ((picture * conv.height_out + row) * conv.width_out + column) * conv.channels_out +
            first;
        for (int64_t group = 0; group < channels; group += kGroup)
            finish_channels<T>(conv, at + group, first + group, least(kGroup, channels - group),
                               sums + group * kDirectBlock, base + group);
    }
}

// Of windows of a transposed convolution whose four outputs lie in one panel: window (m, n) has
// rows 2m and 2m - 1 and columns 2n and 2n - 1, but those outside.
template <class T>
void finish_joined(const DirectArgs& direct, Range pixels, const float* sums, float* base) {
    const Conv2dArgs& conv = direct.conv;
    const int64_t channels = conv.channels_out;
    Pixel pixel(direct.shape, pixels.begin);
    int64_t picture = -1;
    for (int64_t i = pixels.begin; i < pixels.end;
         ++i, pixel.advance(direct.shape), sums += kGroup) {
        if (pixel.picture != picture) {
            picture = pixel.picture;
            fill_base<T>(conv, picture, 0, channels, base);
        }
        for (int64_t parity = 0; parity < 4; ++parity) {
            const int64_t row = 2 * pixel.row - parity / 2;
            const int64_t column = 2 * pixel.column - parity % 2;
            if (row < 0 || row >= conv.height_out || column < 0 || column >= conv.width_out)
                continue;
            const int64_t at = ((picture * conv.height_out + row) * conv.width_out + column);
            finish_channels<T>(conv, at * channels, 0, channels, sums + parity * channels, base);
        }
    }
}

// A block's sums beside its A, which should stay in the second-level cache: of more panels fewer
// pixels.
constexpr int64_t kWidePanels = 32, kWideBlock = 252;

// One share of the pixels by one share of the panels.
template <class T>
void convolve(const DirectArgs& direct, Range pixels, Range panels, float* scratch) {
    float* a = scratch + direct.block_at;
    float* sums = scratch + direct.sums_at;
    float* weights = scratch + direct.weights_at;
    float* base = scratch + direct.base_at;
    const bool narrow = direct.shape.narrow;
    if (narrow)
        with_type(direct.conv.weight_dtype,
                  [&](auto w) { transpose_weights<decltype(w)>(direct, weights); });
    const int64_t depth = direct.shape.depth, parities = direct.shape.parities ? 4 : 1;
    const int64_t count = pixels.end - pixels.begin;
    // Blocks of like size: the last would otherwise read all weights for a few pixels.
    const bool wide = panels.end - panels.begin > kWidePanels;
    const int64_t blocks = ceil_divide(count, wide ? kWideBlock : kDirectBlock);
    const int64_t size = ceil_divide(count, blocks * kTileRows) * kTileRows;
    int64_t filled = 0;
    for (int64_t begin = pixels.begin; begin < pixels.end; begin += size) {
        const Range block{begin, least(begin + size, pixels.end)};
        fill_strip<T>(direct, block, filled, scratch);
        if (narrow) {
            narrow_products(direct, block, scratch, weights, sums);
            finish<T>(direct, block, panels, 0, sums, base);
            continue;
        }
        for (int64_t parity = 0; parity < parities; ++parity) {
            for (int64_t from = 0; from < depth; from += kDepth) {
                const int64_t pass = least(kDepth, depth - from);
                gather(direct, block, parity, from, pass, scratch, a);
                multiply(direct, panels, parity, from, pass, block.end - block.begin, a, sums,
                         weights);
            }
            if (direct.shape.joined)
                finish_joined<T>(direct, block, sums, base);
            else
                finish<T>(direct, block, panels, parity, sums, base);
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
        const Range pixels{pixel, least(pixel + direct.pixels_per_share, all)};
        const Range panels{panel, least(panel + direct.panels_per_share, shape.panels)};
        convolve<T>(direct, pixels, panels, direct.scratch + item * direct.scratch_stride);
    }
}

PYENGINE_INSTANTIATE(conv2d_direct, PYENGINE_RANGE(DirectArgs));

}  // namespace pyengine::PYENGINE_NS
