#include "memory/moves.h"

#include <cstring>

#include "check.h"
#include "parallel.h"

namespace pyengine {

namespace {

// Bytes that are worth a thread of their own.
constexpr int64_t kGrainBytes = 64 << 10;

int64_t grain(int64_t bytes) {
    return 1 + kGrainBytes / (bytes + 1);
}

const char* bytes_at(const void* p, int64_t offset) {
    return static_cast<const char*>(p) + offset;
}

void copy(void* y, int64_t offset, const char* from, int64_t bytes) {
    std::memcpy(static_cast<char*>(y) + offset, from, static_cast<size_t>(bytes));
}

// The mean of four pixels side by side and below each other: x and the row below it.
void mean_row(const float* x, const float* below, int64_t width, int64_t channels, float* y) {
    for (int64_t i = 0; i < width; ++i, x += 2 * channels, below += 2 * channels, y += channels)
        for (int64_t c = 0; c < channels; ++c)
            y[c] = ((x[c] + x[channels + c]) + (below[c] + below[channels + c])) * 0.25f;
}

// Of x and y; returns the elements of a row of y.
int64_t check_sizes(const char* op, const ResizeArgs& a, int64_t bytes) {
    checked_count(op, a.pictures, a.height, a.width, a.channels, bytes);
    checked_count(op, a.pictures, a.height_out, a.width_out, a.channels, bytes);
    const int64_t row = a.width_out * a.channels;
    const bool empty = a.pictures == 0 || a.height_out == 0 || row == 0;
    require(empty || (a.x && a.y), op, "null pointer");
    return empty ? 0 : row;
}

}  // namespace

void join_rows(const JoinArgs& a, int threads) {
    constexpr const char* kOp = "join_rows";
    const int64_t rows = a.first_rows + a.second_rows;
    checked_count(kOp, a.pictures, a.first_rows, a.bytes);
    checked_count(kOp, a.pictures, a.second_rows, a.bytes);
    for (int64_t step : {a.first_picture, a.first_row, a.second_picture, a.second_row})
        require(step >= 0, kOp, "negative step");
    if (checked_count(kOp, a.pictures, rows, a.bytes) == 0) return;
    require((a.first || !a.first_rows) && (a.second || !a.second_rows) && a.y, kOp, "null pointer");
    parallel_for(a.pictures * rows, grain(a.bytes), threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t picture = i / rows, row = i % rows, behind = row - a.first_rows;
            const char* from =
                behind < 0 ? bytes_at(a.first, picture * a.first_picture + row * a.first_row)
                           : bytes_at(a.second, picture * a.second_picture + behind * a.second_row);
            copy(a.y, i * a.bytes, from, a.bytes);
        }
    });
}

void halve(const ResizeArgs& a, int threads) {
    constexpr const char* kOp = "halve";
    const int64_t row = check_sizes(kOp, a, sizeof(float));
    require(a.height_out == a.height / 2 && a.width_out == a.width / 2, kOp, "not half the size");
    if (row == 0) return;
    const float* x = static_cast<const float*>(a.x);
    const int64_t line = a.width * a.channels;
    parallel_for(a.pictures * a.height_out, grain(row * 4), threads,
                 [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                         const int64_t at = i / a.height_out * a.height + i % a.height_out * 2;
                         mean_row(x + at * line, x + (at + 1) * line, a.width_out, a.channels,
                                  static_cast<float*>(a.y) + i * row);
                     }
                 });
}

void enlarge(const ResizeArgs& a, int64_t bytes, int threads) {
    constexpr const char* kOp = "enlarge";
    const int64_t row = check_sizes(kOp, a, bytes) * bytes, pixel = a.channels * bytes;
    if (row == 0) return;
    require(a.height > 0 && a.width > 0, kOp, "nothing to enlarge");
    checked_count(kOp, a.height_out, a.height);
    checked_count(kOp, a.width_out, a.width);
    parallel_for(a.pictures * a.height_out, grain(row), threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t source =
                i / a.height_out * a.height + i % a.height_out * a.height / a.height_out;
            for (int64_t j = 0; j < a.width_out; ++j)
                copy(a.y, i * row + j * pixel,
                     bytes_at(a.x, (source * a.width + j * a.width / a.width_out) * pixel), pixel);
        }
    });
}

void divide(float* x, float by, int64_t count, int threads) {
    if (checked_count("divide", count) == 0) return;
    require(x, "divide", "null pointer");
    parallel_for(count, kGrainBytes / 4, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) x[i] /= by;
    });
}

void modulate(const ModulateArgs& a) {
    constexpr const char* kOp = "modulate";
    if (checked_count(kOp, a.pictures, a.channels, 2) == 0) return;
    require(a.scale && a.shift && a.by && a.scale_out && a.shift_out, kOp, "null pointer");
    for (int64_t n = 0; n < a.pictures; ++n)
        for (int64_t c = 0; c < a.channels; ++c) {
            const int64_t i = n * a.channels + c;
            const float factor = 1 + a.by[i + n * a.channels];
            const float product = a.shift[i] * factor;
            a.scale_out[i] = a.scale[i] * factor;
            a.shift_out[i] = product + a.by[i + (n + 1) * a.channels];
        }
}

}  // namespace pyengine
