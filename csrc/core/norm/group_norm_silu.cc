#include "norm/group_norm_silu.h"

#include <cmath>
#include <memory>
#include <string>

#include "check.h"
#include "parallel.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "group_norm_silu";

// Checks the sizes and pointers of the input; returns the channels of both tensors together.
int64_t check_pictures(const void* x, const void* x2, int64_t pictures, int64_t pixels,
                       int64_t channels, int64_t channels2) {
    for (int64_t size : {pictures, pixels, channels, channels2}) checked_count(kOp, size, 2);
    const int64_t width = channels + channels2;
    if (checked_count(kOp, pictures, pixels, width) > 0) {
        require(channels2 == 0 || x2, kOp, "null pointer x2");
        require(channels == 0 || x, kOp, "null pointer x");
    }
    return width;
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
    const int64_t width = args.channels + args.channels2;
    const int64_t size = width / weights.groups, from = group * size, to = from + size;
    const int64_t strips = (args.pixels + kStripRows - 1) / kStripRows;
    const float* first = args.partial + picture * strips * 3 * width;
    const double origin = first[from];
    double total = 0, squares = 0;  // of (x - origin)
    for (int64_t strip = 0; strip < strips; ++strip) {
        const float* centre = first + strip * 3 * width;
        const float *sums = centre + width, *square_sums = sums + width;
        const int64_t left = args.pixels - strip * kStripRows;
        const double rows = static_cast<double>(left < kStripRows ? left : kStripRows);
        for (int64_t c = from; c < to; ++c) {
            const double offset = static_cast<double>(centre[c]) - origin;
            const double sum = sums[c];
            total += sum + rows * offset;
            squares += square_sums[c] + offset * (2 * sum + rows * offset);
        }
    }
    const double count = static_cast<double>(args.pixels) * static_cast<double>(size);
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

void statistics(const GroupNormArgs& given, const GroupNormWeights& weights, const Affine& result,
                DType dtype, int threads) {
    GroupNormArgs args = given;
    const int64_t width =
        check_pictures(args.x, args.x2, args.pictures, args.pixels, args.channels, args.channels2);
    require(weights.groups > 0 && width % weights.groups == 0, kOp,
            std::to_string(width) + " channels do not divide into " +
                std::to_string(weights.groups) + " groups");
    require(weights.eps >= 0, kOp, "eps must not be negative");
    if (args.pictures == 0 || width == 0) return;
    require(args.pixels > 0, kOp, "a picture without pixels has no mean");
    require(result.scale && result.shift, kOp, "null pointer");

    const int64_t strips = (args.pixels + kStripRows - 1) / kStripRows;
    const int64_t partials = checked_count(kOp, args.pictures, strips, 3, width);
    const std::unique_ptr<float[]> partial(new float[static_cast<size_t>(partials)]);
    args.partial = partial.get();
    const auto run = table().group_norm_statistics[dtype];
    parallel_for(args.pictures * strips, 1 + 32768 / (kStripRows * width), threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
    const int64_t group_work = strips * (width / weights.groups);
    parallel_for(args.pictures * weights.groups, 1 + 8192 / group_work, threads,
                 [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i)
                         combine(args, weights, i / weights.groups, i % weights.groups, result);
                 });
}

}  // namespace

void group_norm_scale_shift(const GroupNormArgs& args, const GroupNormWeights& weights,
                            float* scale, float* shift, DType dtype, int threads) {
    statistics(args, weights, {scale, shift, nullptr}, dtype, threads);
}

void group_norm_apply(const GroupNormApplyArgs& args, DType dtype, int threads) {
    const int64_t width =
        check_pictures(args.x, args.x2, args.pictures, args.pixels, args.channels, args.channels2);
    if (checked_count(kOp, args.pictures, args.pixels, width) == 0) return;
    require(args.scale && args.shift && args.y, kOp, "null pointer");
    const auto run = table().group_norm_apply[dtype];
    parallel_for(args.pictures * args.pixels, 1 + 16384 / width, threads,
                 [&](int64_t begin, int64_t end) { run(args, begin, end); });
}

void group_norm_silu(const GroupNormApplyArgs& given, const GroupNormWeights& weights, DType dtype,
                     int threads) {
    GroupNormApplyArgs args = given;
    const int64_t width =
        check_pictures(args.x, args.x2, args.pictures, args.pixels, args.channels, args.channels2);
    const int64_t count = checked_count(kOp, args.pictures, width);
    require(count == 0 || args.pixels > 0, kOp, "a picture without pixels has no mean");
    const std::unique_ptr<float[]> memory(new float[static_cast<size_t>(3 * count)]);
    float* scale = memory.get();
    const Affine affine{scale, scale + count, scale + 2 * count};
    statistics(
        {args.x, args.x2, args.pictures, args.pixels, args.channels, args.channels2, nullptr},
        weights, affine, dtype, threads);
    args.scale = affine.scale;
    args.shift = affine.shift;
    args.centre = affine.centre;
    group_norm_apply(args, dtype, threads);
}

}  // namespace pyengine
