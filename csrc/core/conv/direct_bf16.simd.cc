#include "conv/direct_bf16.h"

#include "gemm/pairs.h"
#include "gemm/product_bf16.simd.h"
#include "isa/bfloat16.simd.h"
#include "isa/math_bf16.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// --- the strip ---------------------------------------------------------------------------------

template <InputActivation Chosen>
PYENGINE_INLINE Floats activated(Floats value) {
    if constexpr (Chosen == InputActivation::silu) return silu_bf16(value);
    if constexpr (Chosen == InputActivation::gelu) return gelu_bf16(value);
    if constexpr (Chosen == InputActivation::relu) return at_least(value, Floats{});
    return value;
}

// One pixel of one input: x * scale + shift, activated; scale null: x itself.
template <bool Scaled, InputActivation Chosen>
PYENGINE_INLINE void round_pixel(const BFloat16* x, int64_t channels, const float* scale,
                                 const float* shift, BFloat16* out) {
    FlushedBFloat16* to = reinterpret_cast<FlushedBFloat16*>(out);
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v = load(reinterpret_cast<const FlushedBFloat16*>(x) + c, lanes);
        if (Scaled) v = fma(v, load(scale + c, lanes), load(shift + c, lanes));
        store(to + c, activated<Chosen>(v), lanes);
    });
}

using RoundPixel = void (*)(const BFloat16*, int64_t, const float*, const float*, BFloat16*);

template <InputActivation Chosen>
void round_pixels(const BFloat16* x, int64_t channels, const float* scale, const float* shift,
                  BFloat16* out) {
    if (scale) return round_pixel<true, Chosen>(x, channels, scale, shift, out);
    if (Chosen != InputActivation::none)
        return round_pixel<false, Chosen>(x, channels, nullptr, nullptr, out);
    __builtin_memcpy(out, x, static_cast<size_t>(channels) * sizeof(BFloat16));
}

RoundPixel prologue_of(InputActivation activation) {
    switch (activation) {
        case InputActivation::silu:
            return round_pixels<InputActivation::silu>;
        case InputActivation::gelu:
            return round_pixels<InputActivation::gelu>;
        case InputActivation::relu:
            return round_pixels<InputActivation::relu>;
        case InputActivation::none:
            break;
    }
    return round_pixels<InputActivation::none>;
}

// One row of the picture with the zeros around, as fill_row of strip.simd.h.
void fill_line(const DirectBf16Args& band, int64_t padded, BFloat16* out) {
    const Conv2dArgs& conv = band.conv;
    const int64_t channels = conv.channels, channels2 = conv.channels2;
    const int64_t width = channels + channels2, repeat = conv.upsample ? 2 : 1;
    const int64_t picture = padded / band.rows, y = padded % band.rows - conv.top;
    const auto zero = [&](int64_t from, int64_t end) {
        if (from < end)
            __builtin_memset(out + from * width, 0,
                             static_cast<size_t>((end - from) * width) * sizeof(BFloat16));
    };
    if (y < 0 || y >= conv.height * repeat) return zero(0, band.columns);
    const RoundPixel prologue = prologue_of(conv.activation);
    const float* scale = conv.scale ? conv.scale + picture * width : nullptr;
    const float* shift = conv.scale ? conv.shift + picture * width : nullptr;
    const int64_t row = (picture * conv.height + y / repeat) * conv.width;
    const BFloat16* x = static_cast<const BFloat16*>(conv.x) + row * channels;
    const BFloat16* x2 = static_cast<const BFloat16*>(conv.x2) + row * channels2;
    zero(0, least(conv.left, band.columns));
    int64_t column = conv.left;
    for (int64_t i = 0; i < conv.width && column < band.columns; ++i, column += repeat) {
        BFloat16* to = out + column * width;
        if (channels) prologue(x + i * channels, channels, scale, shift, to);
        if (channels2)
            prologue(x2 + i * channels2, channels2, scale ? scale + channels : nullptr,
                     scale ? shift + channels : nullptr, to + channels);
        if (repeat == 2 && column + 1 < band.columns)
            __builtin_memcpy(to + width, to, static_cast<size_t>(width) * sizeof(BFloat16));
    }
    zero(column, band.columns);
}

// --- A -------------------------------------------------------------------------------------------

// Rows are the band's output pixels, K the taps' channels in order.
struct Pixels {
    const DirectBf16Args& band;
    int64_t channels;

    explicit Pixels(const DirectBf16Args& band)
        : band(band), channels(band.conv.channels + band.conv.channels2) {}

    // Whether the pixels of each tile lie in one row of the picture.
    bool in_place() const { return band.conv.width_out % kTileHeight == 0; }
    // The first input that a pixel reads.
    const BFloat16* tile_at(int64_t pixel) const {
        const Conv2dArgs& conv = band.conv;
        const int64_t row = band.first_row + pixel / conv.width_out;
        const int64_t padded = row / conv.height_out * band.rows +
                               row % conv.height_out * conv.stride - band.strip_row;
        const int64_t column = pixel % conv.width_out * conv.stride;
        return static_cast<const BFloat16*>(band.strip) +
               (padded * band.columns + column) * channels;
    }
    int64_t stride() const { return band.conv.stride * channels; }
    int64_t offset_of(int64_t step) const { return offset(step * kStep); }

    int64_t offset(int64_t k) const {
        const int64_t tap = k / channels, width = band.conv.kernel_width;
        return (tap / width * band.columns + tap % width) * channels + k % channels;
    }

    // Each step lies within one tap.
    void gather(int64_t pixel, int64_t pixels, int64_t begin, int64_t end, BFloat16* a) const {
        int64_t from[kPassSteps];
        const int64_t steps = (end - begin) / kStep;
        for (int64_t s = 0; s < steps; ++s) from[s] = offset(begin + s * kStep);
        for (int64_t i = 0; i < pixels; ++i) {
            const BFloat16* at = tile_at(pixel + i);
            BFloat16* to = place_of(a, i, 0);
            for (int64_t s = 0; s < steps; ++s)
                _mm512_storeu_si512(to + s * kTileElements, _mm512_loadu_si512(at + from[s]));
        }
    }
};

// --- y -------------------------------------------------------------------------------------------

// y = leak(sums + bias + channel_add) + residual, for pixels [row, row + rows) of the band.
struct FinishPixels {
    const DirectBf16Args& band;

    void operator()(int64_t row, int64_t rows, int64_t column, int64_t panels, const float* sums,
                    int64_t stride) const {
        const int64_t width = least(band.conv.channels_out - column, panels * kPanel);
        for_vectors(width, [&](int64_t c, auto lanes) {
            finish(band.first_row * band.conv.width_out + row, rows, column + c, sums + c, stride,
                   lanes);
        });
    }

    void fetch(int64_t row, int64_t rows, int64_t column) const {
        const int64_t pixel = band.first_row * band.conv.width_out + row;
        fetch_lines(band.conv.y, band.conv.channels_out, pixel, rows, column);
        if (band.conv.residual)
            fetch_lines(band.conv.residual, band.conv.channels_out, pixel, rows, column);
    }

 private:
    template <class Lanes>
    void finish(int64_t pixel, int64_t rows, int64_t channel, const float* sums, int64_t stride,
                Lanes lanes) const {
        const Conv2dArgs& conv = band.conv;
        const int64_t of_picture = conv.height_out * conv.width_out;
        const BFloat16* add = static_cast<const BFloat16*>(conv.channel_add) + channel;
        const FlushedBFloat16* residual =
            static_cast<const FlushedBFloat16*>(conv.residual) + channel;
        FlushedBFloat16* y = static_cast<FlushedBFloat16*>(conv.y) + channel;
        const Floats bias = conv.bias ? load(conv.bias + channel, lanes) : Floats{};
        const Floats slopes = conv.slopes ? load(conv.slopes + channel, lanes) : Floats{};
        Floats base = bias;
        int64_t left = 0;  // pixels of the picture that base is of
        for (int64_t r = 0; r < rows; ++r, ++pixel, --left, sums += stride) {
            if (left == 0) {
                left = of_picture - pixel % of_picture;
                if (conv.channel_add)
                    base = bias + load(add + pixel / of_picture * conv.channels_out, lanes);
            }
            Floats v = load(sums) + base;
            if (conv.slopes) v = leak(v, slopes);
            if (conv.residual) v += load(residual + pixel * conv.channels_out, lanes);
            store(y + pixel * conv.channels_out, v, lanes);
        }
    }
};

struct Share {
    int64_t begin, end;  // pixels of the band
    PanelGroups groups;
};

Share share_of(const DirectBf16Args& band, int64_t item) {
    const Conv2dArgs& conv = band.conv;
    const int64_t taps = conv.kernel_height * conv.kernel_width;
    const int64_t tiles =
        ceil_divide((band.end_row - band.first_row) * conv.width_out, kTileHeight);
    const int64_t part = item / band.panel_shares, panel_part = item % band.panel_shares;
    Share share{};
    share.begin = tiles * part / band.pixel_shares * kTileHeight;
    share.end = least(tiles * (part + 1) / band.pixel_shares * kTileHeight,
                      (band.end_row - band.first_row) * conv.width_out);
    share.groups.weight = static_cast<const BFloat16*>(conv.weight);
    share.groups.paired = conv.weight_dtype == kBFloat16Pairs;
    share.groups.depth = taps * (conv.channels + conv.channels2);
    share.groups.panels = ceil_divide(conv.channels_out, kPanel);
    const int64_t groups = ceil_divide(share.groups.panels, 2);
    share.groups.begin = groups * panel_part / band.panel_shares;
    share.groups.end = groups * (panel_part + 1) / band.panel_shares;
    return share;
}

ProductCut cut_of(const DirectBf16Args& band, const Share& share) {
    const Pixels pixels(band);
    const bool in_place = pixels.in_place();
    // In place a row of pixels adds one row of the strip.
    const int64_t row_elements =
        in_place ? pixels.channels * band.conv.stride * band.conv.stride : share.groups.depth;
    return ProductCut(share.groups, share.end - share.begin, row_elements, !in_place);
}

}  // namespace

// Rows of the strip.
void conv2d_bf16_strip(const DirectBf16Args& band, int64_t begin, int64_t end) {
    const int64_t line = band.columns * (band.conv.channels + band.conv.channels2);
    for (int64_t row = begin; row < end; ++row)
        fill_line(band, band.strip_row + row, static_cast<BFloat16*>(band.strip) + row * line);
}

// The most that an item takes, in floats.
int64_t conv2d_bf16_scratch(const DirectBf16Args& band) {
    int64_t most = 0;
    for (int64_t item = 0; item < band.pixel_shares * band.panel_shares; ++item) {
        const int64_t floats = cut_of(band, share_of(band, item)).floats();
        most = most < floats ? floats : most;
    }
    return most;
}

void conv2d_bf16(const DirectBf16Args& band, int64_t begin, int64_t end) {
    const Pixels pixels(band);
    const FinishPixels finish{band};
    for (int64_t item = begin; item < end; ++item) {
        const Share share = share_of(band, item);
        const ProductCut cut = cut_of(band, share);
        Product(share.groups, cut, pixels, finish, band.scratch + item * band.scratch_stride)
            .run(share.begin, share.end);
    }
}

}  // namespace pyengine::PYENGINE_NS
