// Rotary positions (Su et al. 2021, arXiv:2104.09864), and new keys and values into a cache.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// Rows of heads side by side, each head's halves turned against one another by the row's position:
// y = (a cos - b sin, b cos + a sin). Steps count elements; the last dimension is contiguous.
struct RotaryArgs {
    const void* x;  // [pictures, rows, heads * width]
    void* y;        // the same shape; or a cache [cache rows, most, heads * width]
    int64_t x_picture, x_row, y_picture, y_row;
    const float* cosines;  // [table_rows, width / 2], or null: nothing is turned
    const float* sines;
    int64_t table_rows;
    // One of the two. A row's position: positions[picture][row], or lengths[picture] + row, which
    // is then also where it goes in y if that is a cache.
    const int64_t* positions;  // [pictures, rows]
    const int64_t* lengths;    // [pictures]
    bool into_cache;
    // [pictures]: with into_cache the row of y for each, all different; null: a picture's own
    // index.
    const int64_t* slots;
    int64_t pictures, rows, heads, width;
    DType y_dtype;
};

// Returns -1, or the first picture * rows + row whose position is outside the table; then y is as
// it was.
int64_t rotary(const RotaryArgs& args, DType dtype, int threads);

// New rows on their way into a cache; steps as in RotaryArgs.
struct RotaryCacheArgs {
    const void* q;  // [pictures, rows, heads * width]
    const void* k;  // [pictures, rows, kv_heads * width]
    const void* v;  // as k
    void* y;        // as q, contiguous
    void* k_cache;  // [cache_rows, most, kv_heads * width]
    void* v_cache;  // as k_cache
    int64_t q_picture, q_row, k_picture, k_row, v_picture, v_row;
    int64_t k_cache_picture, k_cache_row, v_cache_picture, v_cache_row;
    const float* cosines;  // [table_rows, width / 2], or null: nothing is turned
    const float* sines;
    int64_t table_rows;
    const int64_t* lengths;  // [pictures]: rows that are there already
    const int64_t* slots;    // [pictures]: the cache row of each; null: a picture's own index
    int64_t pictures, rows, cache_rows, most, heads, kv_heads, width;
    DType dtype;        // of q, k, v and y
    DType cache_dtype;  // of both caches
};

// q is turned, k too on its way into its cache, v goes into its cache as it is. Returns -1, or the
// first picture whose slot is not in the cache, or is an earlier one's, or whose new rows do not
// fit in the table or the cache; then nothing was written.
int64_t rotary_cache(const RotaryCacheArgs& args, int threads);

}  // namespace pyengine
