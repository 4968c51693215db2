// The input of a convolution as it is multiplied: rows of float32 pixels, x and x2 side by side,
// after the prologue, enlarged, with the zeros around. Direct convolution and Winograd read the
// same strips of it, prepared once in cache.
#pragma once

#include "conv/conv2d.h"
#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

template <InputActivation Chosen>
PYENGINE_INLINE Floats activated(Floats value) {
    if constexpr (Chosen == InputActivation::silu) return silu(value);
    if constexpr (Chosen == InputActivation::gelu) return gelu(value);
    if constexpr (Chosen == InputActivation::relu) return at_least(value, Floats{});
    return value;
}

// One pixel of one input: `out` gets x * scale + shift, activated; scale null: x itself.
template <bool Scaled, InputActivation Chosen, class T>
PYENGINE_INLINE void prepare_pixel(const T* x, int64_t channels, const float* scale,
                                   const float* shift, float* out) {
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v = load(x + c, lanes);
        if (Scaled) v = fma(v, load(scale + c, lanes), load(shift + c, lanes));
        store(out + c, activated<Chosen>(v), lanes);
    });
}

// `pixels` pixels of the picture beside each other, from (y, x) on; each twice where `upsample`.
template <bool Scaled, InputActivation Chosen, class T>
void prepare_pixels(const Conv2dArgs& args, int64_t picture, int64_t y, int64_t x, int64_t pixels,
                    float* out) {
    const int64_t channels = args.channels, channels2 = args.channels2;
    const int64_t width = channels + channels2;
    const int64_t at = (picture * args.height + y) * args.width + x;
    const T* first = static_cast<const T*>(args.x) + at * channels;
    if (sizeof(T) == sizeof(float) && !Scaled && Chosen == InputActivation::none && !channels2 &&
        !args.upsample) {
        __builtin_memcpy(out, first, static_cast<size_t>(pixels * channels) * sizeof(float));
        return;
    }
    const T* second = static_cast<const T*>(args.x2) + at * channels2;
    const float* scale = Scaled ? args.scale + picture * width : nullptr;
    const float* shift = Scaled ? args.shift + picture * width : nullptr;
    for (int64_t i = 0; i < pixels; ++i) {
        prepare_pixel<Scaled, Chosen>(first + i * channels, channels, scale, shift, out);
        if (channels2)
            prepare_pixel<Scaled, Chosen>(second + i * channels2, channels2,
                                          Scaled ? scale + channels : nullptr,
                                          Scaled ? shift + channels : nullptr, out + channels);
        out += width;
        if (args.upsample) {
            __builtin_memcpy(out, out - width, static_cast<size_t>(width) * sizeof(float));
            out += width;
        }
    }
}

template <bool Scaled, class T>
PYENGINE_INLINE void prepare_activated(const Conv2dArgs& args, int64_t picture, int64_t y,
                                       int64_t x, int64_t pixels, float* out) {
    switch (args.activation) {
        case InputActivation::none:
            return prepare_pixels<Scaled, InputActivation::none, T>(args, picture, y, x, pixels,
                                                                    out);
        case InputActivation::silu:
            return prepare_pixels<Scaled, InputActivation::silu, T>(args, picture, y, x, pixels,
                                                                    out);
        case InputActivation::gelu:
            return prepare_pixels<Scaled, InputActivation::gelu, T>(args, picture, y, x, pixels,
                                                                    out);
        case InputActivation::relu:
            return prepare_pixels<Scaled, InputActivation::relu, T>(args, picture, y, x, pixels,
                                                                    out);
    }
}

template <class T>
PYENGINE_INLINE void prepare_pixels(const Conv2dArgs& args, int64_t picture, int64_t y, int64_t x,
                                    int64_t pixels, float* out) {
    args.scale ? prepare_activated<true, T>(args, picture, y, x, pixels, out)
               : prepare_activated<false, T>(args, picture, y, x, pixels, out);
}

// Writes [columns][channels + channels2] floats: row `row` of the picture from its first column of
// zeros on. Rows count likewise, from the first row of zeros, in the enlarged picture; whatever
// lies outside the picture, on any side and any distance away, is zero.
template <class T>
void fill_row(const Conv2dArgs& args, int64_t picture, int64_t row, int64_t columns, float* out) {
    const int64_t width = args.channels + args.channels2, repeat = args.upsample ? 2 : 1;
    const auto zero = [&](float* from, int64_t pixels) {
        __builtin_memset(from, 0, static_cast<size_t>(pixels * width) * sizeof(float));
    };
    const int64_t y = row - args.top;
    if (y < 0 || y >= args.height * repeat) return zero(out, columns);
    const int64_t left = args.left < columns ? args.left : columns;
    zero(out, left);
    const int64_t room = columns - left, have = args.width * repeat;
    int64_t inside = room < have ? room : have;
    zero(out + (left + inside) * width, room - inside);
    if (inside % repeat) {  // the last pixel has room for one of its two copies
        --inside;
        Conv2dArgs single = args;
        single.upsample = false;
        prepare_pixels<T>(single, picture, y / repeat, inside / repeat, 1,
                          out + (left + inside) * width);
    }
    prepare_pixels<T>(args, picture, y / repeat, 0, inside / repeat, out + left * width);
}

// Whether the row holds the same numbers as the one before it, which can be copied then.
PYENGINE_INLINE bool repeats_row(const Conv2dArgs& args, int64_t row) {
    const int64_t y = row - args.top;
    return args.upsample && y > 0 && y % 2 == 1 && y < 2 * args.height;
}

}  // namespace pyengine::PYENGINE_NS
