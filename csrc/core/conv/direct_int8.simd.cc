#include "conv/direct_int8.h"

#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/round_int8.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// --- the strip -----------------------------------------------------------------------------------

template <InputActivation Chosen>
PYENGINE_INLINE Floats input_activation(Floats v) {
    if constexpr (Chosen == InputActivation::silu) return silu(v);
    if constexpr (Chosen == InputActivation::gelu) return gelu(v);
    if constexpr (Chosen == InputActivation::relu) return at_least(v, Floats{});
    return v;
}

// One input's channels of a pixel; the magnitudes' largest bits, lane by lane.
template <InputActivation Chosen, class T>
Bits read_pixel(const T* x, int64_t channels, const float* scale, const float* shift, float* line,
                Bits most) {
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v = load(x + c, lanes);
        if (scale) v = fma(v, load(scale + c, lanes), load(shift + c, lanes));
        v = input_activation<Chosen>(v);
        store(line + c, v, lanes);
        most = larger(most, magnitude(first_lanes(v, lanes)));
    });
    return most;
}

template <class T>
using ReadPixel = Bits (*)(const T*, int64_t, const float*, const float*, float*, Bits);

template <class T>
ReadPixel<T> reader(InputActivation activation) {
    switch (activation) {
        case InputActivation::silu:
            return read_pixel<InputActivation::silu, T>;
        case InputActivation::gelu:
            return read_pixel<InputActivation::gelu, T>;
        case InputActivation::relu:
            return read_pixel<InputActivation::relu, T>;
        case InputActivation::none:
            break;
    }
    return read_pixel<InputActivation::none, T>;
}

// One row of the picture with the zeros around, whose scale is 0.
template <class T>
void fill_row(const ConvInt8Work& work, int64_t padded, float* line, int8_t* to, float* scales) {
    const Conv2dArgs& conv = work.conv;
    const int64_t channels = conv.channels, channels2 = conv.channels2;
    const int64_t width = work.steps * kInt8Step, repeat = conv.upsample ? 2 : 1;
    const int64_t picture = padded / work.rows, y = padded % work.rows - conv.top;
    const auto zero = [&](int64_t from, int64_t end) {
        if (from >= end) return;
        __builtin_memset(to + from * width, 0, static_cast<size_t>((end - from) * width));
        for (int64_t i = from; i < end; ++i) scales[i] = 0.0f;
    };
    if (y < 0 || y >= conv.height * repeat) return zero(0, work.columns);
    const ReadPixel<T> read = reader<T>(conv.activation);
    const int64_t all = channels + channels2;
    const float* scale = conv.scale ? conv.scale + picture * all : nullptr;
    const float* shift = conv.scale ? conv.shift + picture * all : nullptr;
    const int64_t row = (picture * conv.height + y / repeat) * conv.width;
    const T* x = static_cast<const T*>(conv.x) + row * channels;
    const T* x2 = static_cast<const T*>(conv.x2) + row * channels2;
    zero(0, least(conv.left, work.columns));
    int64_t column = conv.left;
    for (int64_t i = 0; i < conv.width && column < work.columns; ++i, column += repeat) {
        Bits most = read(x + i * channels, channels, scale, shift, line, Bits{});
        if (channels2)
            most = read(x2 + i * channels2, channels2, scale ? scale + channels : nullptr,
                        scale ? shift + channels : nullptr, line + channels, most);
        const RowScale of_pixel = row_scale(most);
        int8_t* pixel = to + column * width;
        for (int64_t k = 0; k < all; k += kInt8Step)
            round_step(line + k, least(kInt8Step, all - k), of_pixel.inverse, pixel + k);
        scales[column] = of_pixel.scale;
        if (repeat == 2 && column + 1 < work.columns) {
            __builtin_memcpy(pixel + width, pixel, static_cast<size_t>(width));
            scales[column + 1] = of_pixel.scale;
        }
    }
    zero(column, work.columns);
}

// --- the product ---------------------------------------------------------------------------------

// Positions [begin, begin + 16) of a tile: in the strip, a stride apart.
PYENGINE_INLINE int64_t strip_pixel(const ConvInt8Work& work, int64_t tile) {
    const Conv2dArgs& conv = work.conv;
    if (!work.exact) return tile * kInt8TileRows * conv.stride;
    const int64_t in_row = conv.width_out / kInt8TileRows, row = work.first_row + tile / in_row;
    const int64_t padded =
        row / conv.height_out * work.rows + row % conv.height_out * conv.stride - work.strip_row;
    return padded * work.columns + tile % in_row * kInt8TileRows * conv.stride;
}

// The output pixel, over all pictures, at that place of the strip; -1 for none.
PYENGINE_INLINE int64_t output_pixel(const ConvInt8Work& work, int64_t at) {
    const Conv2dArgs& conv = work.conv;
    const int64_t padded = work.strip_row + at / work.columns, x = at % work.columns / conv.stride;
    const int64_t picture = padded / work.rows, y = padded % work.rows;
    if (x >= conv.width_out || y % conv.stride) return -1;
    const int64_t row = picture * conv.height_out + y / conv.stride;
    if (y / conv.stride >= conv.height_out || row < work.first_row || row >= work.end_row)
        return -1;
    return row * conv.width_out + x;
}

// sums (+)= products * the input pixels' scales, of `rows` positions.
PYENGINE_INLINE void add_tap(const int32_t* products, const float* scale, int64_t stride,
                             int64_t rows, bool first, float* sums) {
    for (int64_t r = 0; r < rows; ++r) {
        const Floats factor = splat(scale[r * stride]);
#pragma GCC unroll 8
        for (int64_t c = 0; c < kInt8Columns; c += kLanes) {
            const int64_t at = r * kInt8Columns + c;
            const Floats value = floats_at(products + at) * factor;
            store(sums + at, first ? value : load(sums + at) + value);
        }
    }
}

// y = sums * weight's scale + bias + channel_add + residual, of one position.
template <class T>
void finish_pixel(const ConvInt8Work& work, int64_t pixel, int64_t column, const float* sums) {
    const Conv2dArgs& conv = work.conv;
    const int64_t picture = pixel / (conv.height_out * conv.width_out), width = conv.channels_out;
    const T* add = static_cast<const T*>(conv.channel_add);
    const T* residual = static_cast<const T*>(conv.residual);
    T* y = static_cast<T*>(conv.y) + pixel * width;
    for_vectors(least(width - column, kInt8Columns), [&](int64_t i, auto lanes) {
        const int64_t c = column + i;
        Floats v = load(sums + i) * load(work.weight_scale + c, lanes);
        if (conv.bias) v += load(conv.bias + c, lanes);
        if (add) v += load(add + picture * width + c, lanes);
        if (residual) v += load(residual + pixel * width + c, lanes);
        store(y + c, v, lanes);
    });
}

using FinishPixel = void (*)(const ConvInt8Work&, int64_t pixel, int64_t column, const float* sums);

struct Share {
    const ConvInt8Work& work;
    FinishPixel finish;
    float* sums;        // of kConvInt8Tiles tiles
    int32_t* products;  // of two
    const int64_t* offset;

    // Tiles [begin, end), at most kConvInt8Tiles, by a group of two panels.
    void multiply(int64_t begin, int64_t end, int64_t group) const {
        const Conv2dArgs& conv = work.conv;
        const int64_t taps = conv.kernel_height * conv.kernel_width;
        const int64_t tap_bytes = work.steps * kInt8TileBytes, panel = taps * tap_bytes;
        const int64_t panels = least(2, ceil_divide(conv.channels_out, kPanel) - group * 2);
        const int8_t* weight = static_cast<const int8_t*>(conv.weight) + group * 2 * panel;
        const int64_t pixel_bytes = work.steps * kInt8Step;
        for (int64_t tap = 0; tap < taps; ++tap) {
            const int64_t shift = tap / conv.kernel_width * work.columns + tap % conv.kernel_width;
            for (int64_t tile = begin; tile < end; tile += 2) {
                const int64_t count = least(2, end - tile);
                const int64_t at[2] = {strip_pixel(work, tile) + shift,
                                       count > 1 ? strip_pixel(work, tile + 1) + shift : 0};
                const Int8Rows lines{
                    {work.strip + at[0] * pixel_bytes, work.strip + at[1] * pixel_bytes},
                    conv.stride * pixel_bytes,
                    offset};
                work.product->multiply(lines, count * kInt8TileRows, weight + tap * tap_bytes,
                                       panel, static_cast<int>(panels), work.steps, products,
                                       false);
                for (int64_t t = 0; t < count; ++t) {
                    const int64_t tile_sums = kInt8TileRows * kInt8Columns;
                    add_tap(products + t * tile_sums, work.strip_scale + at[t], conv.stride,
                            kInt8TileRows, tap == 0, sums + (tile + t - begin) * tile_sums);
                }
            }
        }
        for (int64_t tile = begin; tile < end; ++tile) {
            const float* of_tile = sums + (tile - begin) * kInt8TileRows * kInt8Columns;
            for (int64_t r = 0; r < kInt8TileRows; ++r) {
                const int64_t pixel = output_pixel(work, strip_pixel(work, tile) + r * conv.stride);
                if (pixel >= 0)
                    finish(work, pixel, group * kInt8Columns, of_tile + r * kInt8Columns);
            }
        }
    }
};

}  // namespace

// Shares [begin, end) of the strip's rows.
void conv2d_int8_strip(const ConvInt8Work& work, int64_t begin, int64_t end) {
    const Conv2dArgs& conv = work.conv;
    const int64_t last = (work.end_row - 1) / conv.height_out * work.rows +
                         (work.end_row - 1) % conv.height_out * conv.stride + conv.kernel_height -
                         work.strip_row;
    for (int64_t i = begin; i < end; ++i) {
        float* line = work.line + i * work.line_stride;
        const int64_t to = least((i + 1) * work.rows_of_line, last);
        for (int64_t row = i * work.rows_of_line; row < to; ++row) {
            int8_t* pixels = work.strip + row * work.columns * work.steps * kInt8Step;
            float* scales = work.strip_scale + row * work.columns;
            const int64_t padded = work.strip_row + row;
            with_type(conv.dtype,
                      [&](auto t) { fill_row<decltype(t)>(work, padded, line, pixels, scales); });
        }
    }
}

void conv2d_int8(const ConvInt8Work& work, int64_t begin, int64_t end) {
    constexpr int64_t kMostSteps = (int64_t{1} << 17) / kInt8Step;
    int64_t offset[kMostSteps];
    for (int64_t s = 0; s < work.steps; ++s) offset[s] = s * kInt8Step;
    FinishPixel finish = nullptr;
    with_type(work.conv.dtype, [&](auto t) { finish = finish_pixel<decltype(t)>; });
    const int64_t groups = ceil_divide(work.conv.channels_out, kInt8Columns);
    work.product->begin();
    for (int64_t i = begin; i < end; ++i) {
        float* sums = work.sums + i * kConvInt8Floats;
        int32_t* products =
            reinterpret_cast<int32_t*>(sums + kConvInt8Tiles * kInt8TileRows * kInt8Columns);
        const Share share{work, finish, sums, products, offset};
        const int64_t t = i / work.panel_shares, p = i % work.panel_shares;
        const int64_t last = work.tiles * (t + 1) / work.tile_shares;
        for (int64_t tile = work.tiles * t / work.tile_shares; tile < last; tile += kConvInt8Tiles)
            for (int64_t group = groups * p / work.panel_shares;
                 group < groups * (p + 1) / work.panel_shares; ++group)
                share.multiply(tile, least(tile + kConvInt8Tiles, last), group);
    }
    work.product->end();
}

}  // namespace pyengine::PYENGINE_NS
