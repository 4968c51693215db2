#include "norm/group_norm_silu.h"

#include "isa/math.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

constexpr int64_t kRows = 8;  // pixels read side by side

// Adds `rows` pixels of one tensor to the running sums of each channel, about centres that the
// strip's first call chooses: the mean of its pixels.
template <int Rows, class T>
PYENGINE_INLINE void add_rows(const T* x, int64_t channels, bool first, float* centre, float* sums,
                              float* square_sums) {
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v[Rows];
        for (int r = 0; r < Rows; ++r) v[r] = load(x + r * channels + c, lanes);
        Floats middle;
        if (first) {
            middle = v[0];
            for (int r = 1; r < Rows; ++r) middle += v[r];
            middle *= splat(1.0f / Rows);
            store(centre + c, middle, lanes);
        } else {
            middle = load(centre + c, lanes);
        }
        Floats sum{}, squares{};
        for (int r = 0; r < Rows; ++r) {
            const Floats d = v[r] - middle;
            sum += d;
            squares = fma(d, d, squares);
        }
        if (!first) {
            sum += load(sums + c, lanes);
            squares += load(square_sums + c, lanes);
        }
        store(sums + c, sum, lanes);
        store(square_sums + c, squares, lanes);
    });
}

// One strip of one tensor. The centre comes from 8 of at most 64 pixels, so even where those are
// unlike the rest, the squares about it are at most 8 times those about the mean, and no more than
// 3 bits cancel when the variance is taken from them. A second pass over memory is not needed.
template <class T>
void strip_of(const T* x, int64_t channels, int64_t rows, float* centre, float* sums,
              float* square_sums) {
    bool first = true;
    int64_t r = 0;
    for (; r + kRows <= rows; r += kRows, first = false)
        add_rows<kRows>(x + r * channels, channels, first, centre, sums, square_sums);
    for (; r < rows; ++r, first = false)
        add_rows<1>(x + r * channels, channels, first, centre, sums, square_sums);
}

// scale, shift and centre at the row's first channel; centre is not read unless Centred.
template <bool Silu, bool Centred, class T>
void apply_row(const T* x, int64_t channels, const float* scale, const float* shift,
               const float* centre, T* y) {
    for_vectors(channels, [&](int64_t c, auto lanes) {
        Floats v = load(x + c, lanes);
        if (Centred) v -= load(centre + c, lanes);
        v = fma(v, load(scale + c, lanes), load(shift + c, lanes));
        if (Silu) v = silu(v);
        store(y + c, v, lanes);
    });
}

template <bool Silu, bool Centred, class T>
void apply(const GroupNormApplyArgs& args, int64_t begin, int64_t end) {
    const int64_t channels = args.in.channels, channels2 = args.in.channels2;
    const int64_t width = channels + channels2;
    for (int64_t pixel = begin; pixel < end; ++pixel) {
        const int64_t first = pixel / args.in.pixels * width, second = first + channels;
        T* y = static_cast<T*>(args.y) + pixel * width;
        apply_row<Silu, Centred>(static_cast<const T*>(args.in.x) + pixel * channels, channels,
                                 args.scale + first, args.shift + first,
                                 Centred ? args.centre + first : nullptr, y);
        if (channels2)
            apply_row<Silu, Centred>(static_cast<const T*>(args.in.x2) + pixel * channels2,
                                     channels2, args.scale + second, args.shift + second,
                                     Centred ? args.centre + second : nullptr, y + channels);
    }
}

}  // namespace

// Items are strips: picture after picture, kStripRows pixels each, the last of a picture shorter.
template <class T>
void group_norm_statistics(const GroupNormArgs& args, int64_t begin, int64_t end) {
    const int64_t channels = args.in.channels, channels2 = args.in.channels2;
    const int64_t width = channels + channels2;
    const int64_t strips = (args.in.pixels + kStripRows - 1) / kStripRows;
    for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i % strips * kStripRows, left = args.in.pixels - row;
        const int64_t pixel = i / strips * args.in.pixels + row;
        const int64_t rows = left < kStripRows ? left : kStripRows;
        float* centre = args.partial + i * 3 * width;
        float *sums = centre + width, *square_sums = sums + width;
        strip_of(static_cast<const T*>(args.in.x) + pixel * channels, channels, rows, centre, sums,
                 square_sums);
        if (channels2)
            strip_of(static_cast<const T*>(args.in.x2) + pixel * channels2, channels2, rows,
                     centre + channels, sums + channels, square_sums + channels);
    }
}

// Items are pixels.
template <class T>
void group_norm_apply(const GroupNormApplyArgs& args, int64_t begin, int64_t end) {
    if (args.centre) {
        args.silu ? apply<true, true, T>(args, begin, end)
                  : apply<false, true, T>(args, begin, end);
    } else {
        args.silu ? apply<true, false, T>(args, begin, end)
                  : apply<false, false, T>(args, begin, end);
    }
}

PYENGINE_INSTANTIATE(group_norm_statistics, PYENGINE_RANGE(GroupNormArgs));
PYENGINE_INSTANTIATE(group_norm_apply, PYENGINE_RANGE(GroupNormApplyArgs));

}  // namespace pyengine::PYENGINE_NS
