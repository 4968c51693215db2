// linear where activations are rounded to int8, a row at a time, and multiplied by int8 weights.
//
// A row's numbers are x * (127 / m), rounded to nearest, ties to even, with m its largest magnitude
// but at least 2^-100; its scale is m / 127. Sums of products are exact; then
// (sum * weight's scale) * row's scale, in float32, and the epilogue of linear.
#pragma once

#include "gemm/linear.h"
#include "gemm/product_int8.h"

namespace pyengine {

// Some rows of a call, in the parts that threads do.
struct LinearInt8Work {
    LinearArgs args;   // weight: panels [ceil(outputs / 16)][steps][16][16][4]
    int64_t row, end;  // of args.rows
    int64_t steps;     // of K
    int8_t* a;         // tiles [ceil((end - row) / 16)][steps][16][64]
    float* row_scale;  // [end - row]
    float* line;       // of each share of the rows: K floats
    int64_t line_stride, lines, row_tiles_of_line;
    // Items of the product: row_shares x unit_shares of the rows and of the units of outputs.
    int64_t row_shares, unit_shares, units;
    int32_t* sums;  // of each item: sum_stride
    int64_t sum_stride;
    const Int8Product* product;
};

// Rows whose sums of a group of outputs are kept from pass to pass of K.
constexpr int64_t kInt8BlockRows = 256;

// Checks all sizes and pointers, for linear too; returns whether there is anything to compute.
// Throws std::invalid_argument, which names op.
bool check_linear(const LinearArgs& args, const char* op);

// As linear, with the weight in LinearInt8Work's order; at most 2^17 channels. Takes scratch memory
// of at most 4 MB and 0.2 MB per thread, more only where 256 rows are larger.
void linear_int8(const LinearArgs& args, int threads);

}  // namespace pyengine
