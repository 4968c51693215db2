// Products of int8: rows of A times panels of B, both from -127 to 127, summed in int32, exactly.
//
// K is cut into steps of 64, filled up with zeros. The sums are the same numbers whichever
// instructions multiply, so the choice among them touches no bit of a result.
#pragma once

#include <stdint.h>

namespace pyengine {

constexpr int64_t kInt8Step = 64;         // elements of K: a line of the cache of A
constexpr int64_t kInt8TileRows = 16;     // rows of a tile of A
constexpr int64_t kInt8TileBytes = 1024;  // of A, and of a panel of B, in a step
constexpr int64_t kInt8Columns = 32;      // of C: two panels

// At most two tiles of rows of A: row r of tile t has the elements of step s at
// tile[t] + offset[s] + r * stride.
struct Int8Rows {
    const int8_t* tile[2];
    int64_t stride;
    const int64_t* offset;
};

struct Int8Product {
    const char* name;
    // Of a thread, before and after it multiplies.
    void (*begin)();
    void (*end)();
    // C (+)= A B for 1 to 32 rows and 1 or 2 panels. Of A and C whole tiles are read and written.
    // b: [steps][16][16][4], the second panel b_stride bytes on. c: rows kInt8Columns apart.
    void (*multiply)(const Int8Rows& a, int64_t rows, const int8_t* b, int64_t b_stride, int panels,
                     int64_t steps, int32_t* c, bool accumulate);
};

// Those that suit the instruction set in use, unless one was chosen.
const Int8Product& int8_product();

}  // namespace pyengine
