#include "norm/group_norm_silu.h"

#include <cmath>
#include <string>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "group_norm_silu";

// Checks the sizes and pointers of the input; returns the channels of both tensors together.
int64_t check_input(const GroupNormInput& in) {
    for (int64_t size : {in.pictures, in.pixels, in.channels, in.channels2})
        checked_count(kOp, size, 2);
    const int64_t width = in.channels + in.channels2;
    if (checked_count(kOp, in.pictures, in.pixels, width) > 0) {
        require(in.channels2 == 0 || in.x2, kOp, "null pointer x2");
        require(in.channels == 0 || in.x, kOp, "null pointer x");
    }
    return width;
}

int64_t strips_of(const GroupNormInput& in) {
    return ceil_divide(in.pixels, kStripRows);
}

// Where the result of the statistics goes, each [pictures, channels + channels2]; centre may be
// null.
struct Affine {
    float *scale, *shift, *centre;
};

// From the strips' partial sums to scale and shift, for one group of one picture. In double, about
// the first channel's first centre: exact enough for any mean that float32 leaves a variance to.
void combine(const GroupNormArgs& args, const GroupNormWeights& weights, int64_t picture,
             int64_t group, const Affine& result) {
    const int64_t width = args.in.channels + args.in.channels2;
    const int64_t size = width / weights.groups, from = group * size, to = from + size;
    const int64_t strips = strips_of(args.in);
    const float* first = args.partial + picture * strips * 3 * width;
    const double origin = first[from];
    double total = 0, squares = 0;  // of (x - origin)
    for (int64_t strip = 0; strip < strips; ++strip) {
        const float* centre = first + strip * 3 * width;
        const float *sums = centre + width, *square_sums = sums + width;
        const int64_t left = args.in.pixels - strip * kStripRows;
        const double rows = static_cast<double>(left < kStripRows ? left : kStripRows);
        for (int64_t c = from; c < to; ++c) {
            const double offset = static_cast<double>(centre[c]) - origin;
            const double sum = sums[c];
            total += sum + rows * offset;
            squares += square_sums[c] + offset * (2 * sum + rows * offset);
        }
    }
    const double count = static_cast<double>(args.in.pixels) * static_cast<double>(size);
    const double mean = total / count;
    double variance = squares / count - mean * mean;
    variance = variance < 0 ? 0 : variance;
    const double rstd = 1 / std::sqrt(variance + weights.eps);
    // With a centre, what the shift has to make up for is only the rounding of that to float32.
    const float centre = static_cast<float>(origin + mean);
    const double rest = result.centre ? origin + mean - centre : origin + mean;
    for (int64_t c = from; c < to; ++c) {
        const double slope = weights.weight ? rstd * weights.weight[c] : rstd;
        const double bias = weights.bias ? weights.bias[c] : 0;
        result.scale[picture * width + c] = static_cast<float>(slope);
        result.shift[picture * width + c] = static_cast<float>(bias - rest * slope);
        if (result.centre) result.centre[picture * width + c] = centre;
    }
}

// Floats of the statistics' partial sums; checks all that they need.
int64_t check_statistics(const GroupNormInput& in, const GroupNormWeights& weights) {
    const int64_t width = check_input(in);
    require(weights.groups > 0 && width % weights.groups == 0, kOp,
            std::to_string(width) + " channels do not divide into " +
                std::to_string(weights.groups) + " groups");
    require(weights.eps >= 0, kOp, "eps must not be negative");
    if (in.pictures == 0 || width == 0) return 0;
    require(in.pixels > 0, kOp, "a picture without pixels has no mean");
    return checked_count(kOp, in.pictures, strips_of(in), 3, width);
}

// partial: check_statistics' floats, of which there are some.
void statistics(const GroupNormInput& in, const GroupNormWeights& weights, float* partial,
                const Affine& result, DType dtype, int threads) {
    const GroupNormArgs args{.in = in, .partial = partial};
    const int64_t width = in.channels + in.channels2, strips = strips_of(in);
    const auto run = table().group_norm_statistics[dtype];
    parallel_for(in.pictures * strips, 1 + 32768 / (kStripRows * width), threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
    const int64_t group_work = strips * (width / weights.groups);
    parallel_for(in.pictures * weights.groups, 1 + 8192 / group_work, threads,
                 [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i)
                         combine(args, weights, i / weights.groups, i % weights.groups, result);
                 });
}

void apply(const GroupNormApplyArgs& args, DType dtype, int threads) {
    const int64_t width = check_input(args.in);
    if (checked_count(kOp, args.in.pictures, args.in.pixels, width) == 0) return;
    require(args.scale && args.shift && args.y, kOp, "null pointer");
    const auto run = table().group_norm_apply[dtype];
    parallel_for(args.in.pictures * args.in.pixels, 1 + 16384 / width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

}  // namespace

void group_norm_scale_shift(const GroupNormInput& in, const GroupNormWeights& weights, float* scale,
                            float* shift, DType dtype, int threads) {
    const int64_t partials = check_statistics(in, weights);
    if (partials == 0) return;
    require(scale && shift, kOp, "null pointer");
    statistics(in, weights, scratch(partials), {.scale = scale, .shift = shift, .centre = nullptr},
               dtype, threads);
}

void group_norm_apply(const GroupNormInput& in, const float* scale, const float* shift, bool silu,
                      void* y, DType dtype, int threads) {
    apply({.in = in, .scale = scale, .shift = shift, .centre = nullptr, .y = y, .silu = silu},
          dtype, threads);
}

void group_norm_silu(const GroupNormInput& in, const GroupNormWeights& weights, bool silu, void* y,
                     DType dtype, int threads) {
    const int64_t partials = check_statistics(in, weights);
    if (partials == 0) return;
    const int64_t count = checked_count(kOp, in.pictures, in.channels + in.channels2);
    float* memory = scratch(3 * count + partials);
    const Affine affine{.scale = memory, .shift = memory + count, .centre = memory + 2 * count};
    statistics(in, weights, memory + 3 * count, affine, dtype, threads);
    apply({.in = in,
           .scale = affine.scale,
           .shift = affine.shift,
           .centre = affine.centre,
           .y = y,
           .silu = silu},
          dtype, threads);
}

}  // namespace pyengine
