// Copies, and means of few numbers, between the kernels: what needs no vectors of its own.
#pragma once

#include <stdint.h>

namespace pyengine {

struct JoinArgs {
    const void *first, *second;  // [pictures, rows, bytes] each, as the steps tell
    void* y;                     // [pictures, first_rows + second_rows, bytes]
    int64_t pictures, first_rows, second_rows, bytes;
    // In bytes, between pictures and between rows.
    int64_t first_picture, first_row, second_picture, second_row;
};

// y: the rows of `first` and, behind them, those of `second`, picture by picture.
void join_rows(const JoinArgs& args, int threads);

struct ResizeArgs {
    const void* x;  // [pictures, height, width, channels]
    void* y;        // [pictures, height_out, width_out, channels]
    int64_t pictures, height, width, channels, height_out, width_out;
};

// y: the mean of every 2x2 pixels of float32; an odd last row or column is left out.
void halve(const ResizeArgs& args, int threads);

// y: each pixel is that of x which it falls into; `bytes` of an element.
void enlarge(const ResizeArgs& args, int64_t bytes, int threads);

struct ModulateArgs {
    const float *scale, *shift;  // [pictures, channels]
    const float* by;             // [pictures, 2 * channels]: a scale less 1, a shift
    float *scale_out, *shift_out;
    int64_t pictures, channels;
};

// (x * scale + shift) * (1 + by's scale) + by's shift, as one scale and shift.
void modulate(const ModulateArgs& args);

// x /= by, `count` elements.
void divide(float* x, float by, int64_t count, int threads);

}  // namespace pyengine
