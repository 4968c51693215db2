// The input of a Winograd convolution: strips of pixels, transformed along both axes.
#pragma once

#include "conv/strip.simd.h"
#include "conv/winograd.h"
#include "conv/winograd_transforms.simd.h"
#include "gemm/tile.simd.h"
#include "isa/divide.simd.h"

namespace pyengine::PYENGINE_NS {

// Tiles beside each other in one row of tiles of one picture.
struct Segment {
    int64_t picture, tile_row, tile_column, tiles;
    int64_t index;  // of its first tile, among all pictures'
};

PYENGINE_INLINE Segment segment_of(const WinogradArgs& args, int64_t i) {
    const int64_t row = i / args.segments_wide, from = i % args.segments_wide * args.segment;
    return {.picture = row / args.tiles_high,
            .tile_row = row % args.tiles_high,
            .tile_column = from,
            .tiles = least(args.segment, args.tiles_wide - from),
            .index = row * args.tiles_wide + from};
}

// Channels [first, first + count) of x or x2, whose channels begin at `begin` of both together.
template <bool Scaled, InputActivation Chosen, class T>
PYENGINE_INLINE void prepare_part(const void* x, int64_t pixel, int64_t channels, int64_t begin,
                                  int64_t first, int64_t count, const float* scale,
                                  const float* shift, float* out) {
    const int64_t from = first < begin ? begin : first;
    const int64_t to = least(first + count, begin + channels);
    if (from >= to) return;
    prepare_pixel<Scaled, Chosen>(static_cast<const T*>(x) + pixel * channels + from - begin,
                                  to - from, Scaled ? scale + from : nullptr,
                                  Scaled ? shift + from : nullptr, out + from - first);
}

// [rows][columns][depth] floats from (top, left) of the enlarged picture on, which may lie outside
// it; channels [first, first + count), depth is count rounded up to whole vectors.
template <bool Scaled, InputActivation Chosen, class T>
void fill_strip(const Conv2dArgs& args, int64_t picture, int64_t top, int64_t left, int64_t rows,
                int64_t columns, int64_t first, int64_t count, int64_t depth, float* out) {
    const int64_t height = args.upsample ? 2 * args.height : args.height;
    const int64_t width = args.upsample ? 2 * args.width : args.width;
    const int64_t channels = args.channels + args.channels2;
    const float* scale = Scaled ? args.scale + picture * channels : nullptr;
    const float* shift = Scaled ? args.shift + picture * channels : nullptr;
    for (int64_t y = top; y < top + rows; ++y)
        for (int64_t x = left; x < left + columns; ++x, out += depth) {
            if (y < 0 || y >= height || x < 0 || x >= width) {
                __builtin_memset(out, 0, static_cast<size_t>(depth) * sizeof(float));
                continue;
            }
            const int64_t from_y = args.upsample ? y / 2 : y, from_x = args.upsample ? x / 2 : x;
            const int64_t pixel = (picture * args.height + from_y) * args.width + from_x;
            if (depth > count) __builtin_memset(out + depth - kLanes, 0, sizeof(float) * kLanes);
            prepare_part<Scaled, Chosen, T>(args.x, pixel, args.channels, 0, first, count, scale,
                                            shift, out);
            prepare_part<Scaled, Chosen, T>(args.x2, pixel, args.channels2, args.channels, first,
                                            count, scale, shift, out);
        }
}

template <bool Scaled, class T, class... Rest>
PYENGINE_INLINE void fill_activated(const Conv2dArgs& args, Rest... rest) {
    switch (args.activation) {
        case InputActivation::none:
            return fill_strip<Scaled, InputActivation::none, T>(args, rest...);
        case InputActivation::silu:
            return fill_strip<Scaled, InputActivation::silu, T>(args, rest...);
        case InputActivation::gelu:
            return fill_strip<Scaled, InputActivation::gelu, T>(args, rest...);
        case InputActivation::relu:
            return fill_strip<Scaled, InputActivation::relu, T>(args, rest...);
    }
}

template <class T, class... Rest>
PYENGINE_INLINE void fill_strip_of(const Conv2dArgs& args, Rest... rest) {
    args.scale ? fill_activated<true, T>(args, rest...) : fill_activated<false, T>(args, rest...);
}

// Along the columns in place, then along the rows of each tile into V[position][tile][kDepth].
// Tiles share the columns between them, so the first is done once for all.
template <int Output>
void transform_strip(float* strip, int64_t tiles, int64_t depth, int64_t position_stride,
                     float* v) {
    constexpr int kSide = Output + 2;
    const int64_t row = (Output * tiles + 2) * depth;
    for (int64_t c = 0; c < row; c += kLanes) {
        Floats d[kSide], t[kSide];
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) d[i] = load(strip + i * row + c);
        Winograd<Output>::input(d, t);
#pragma GCC unroll 8
        for (int i = 0; i < kSide; ++i) store(strip + i * row + c, t[i]);
    }
    for (int64_t tile = 0; tile < tiles; ++tile)
        for (int i = 0; i < kSide; ++i) {
            const float* from = strip + i * row + Output * tile * depth;
            float* to = v + i * kSide * position_stride + tile * kDepth;
            for (int64_t c = 0; c < depth; c += kLanes) {
                Floats d[kSide], t[kSide];
#pragma GCC unroll 8
                for (int j = 0; j < kSide; ++j) d[j] = load(from + j * depth + c);
                Winograd<Output>::input(d, t);
#pragma GCC unroll 8
                for (int j = 0; j < kSide; ++j) store(to + j * position_stride + c, t[j]);
            }
        }
}

template <int Output, class T>
void transform_input(const WinogradArgs& args, int64_t share) {
    const int64_t channels = args.conv.channels + args.conv.channels2;
    const int64_t chunks = ceil_divide(args.slab, args.depth);  // of a slab
    const int64_t slabs = ceil_divide(channels, args.slab);
    const int64_t all = (args.last_segment - args.first_segment) * slabs * chunks;
    float* strip = args.scratch + share * args.scratch_stride;
    for (int64_t i = all * share / args.shares; i < all * (share + 1) / args.shares; ++i) {
        const Segment s = segment_of(args, args.first_segment + i / (slabs * chunks));
        const int64_t slab = i / chunks % slabs, column = i % chunks * args.depth;
        const int64_t first = slab * args.slab + column;
        const int64_t end = least(channels, (slab + 1) * args.slab);
        if (first >= end) continue;
        const int64_t count = least(args.depth, end - first);
        const int64_t depth = round_up(count, kLanes);
        fill_strip_of<T>(args.conv, s.picture, Output * s.tile_row - args.conv.top,
                         Output * s.tile_column - args.conv.left, int64_t{Output + 2},
                         Output * s.tiles + 2, first, count, depth, strip);
        transform_strip<Output>(
            strip, s.tiles, depth, args.position_stride,
            args.input + slab * args.slab_stride + (s.index - args.first_tile) * kDepth + column);
    }
}

}  // namespace pyengine::PYENGINE_NS
