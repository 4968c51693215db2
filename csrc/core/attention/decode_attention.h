// Attention of a few new tokens to a cache of keys and values.
// Vaswani et al. 2017, arXiv:1706.03762; online softmax: Milakov & Gimelshein 2018,
// arXiv:1805.02867; grouped queries: Ainslie et al. 2023, arXiv:2305.13245.
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// Steps count elements; the last dimension is contiguous.
struct DecodeAttentionArgs {
    const void* q;  // [pictures, rows, heads * width]
    const void* k;  // [cache rows, most, kv_heads * width]
    const void* v;  // as k
    void* y;        // [pictures, rows, heads * width], contiguous
    int64_t q_picture, q_row, k_picture, k_row, v_picture, v_row;
    // [pictures]: keys before those of the rows; row i sees the first lengths + i + 1.
    const int64_t* lengths;
    // [pictures]: the cache row of each, all different; null: a picture's own index.
    const int64_t* slots;
    int64_t cache_rows;
    int64_t pictures, rows, heads, kv_heads, width, most;
    float scale;
    DType dtype;        // of q and y
    DType cache_dtype;  // of k and v
};

// What one thread does of it: some key heads of all pictures, [begin, end) of pictures * kv_heads,
// with scratch memory of its own.
struct DecodeAttentionShare {
    int64_t begin, end;
    float* scratch;  // decode_attention_scratch() floats
};

// Returns -1, or the first picture whose slot is not in the cache or is an earlier one's, or
// whose rows reach beyond it; then nothing was written.
int64_t decode_attention(const DecodeAttentionArgs& args, int threads);

}  // namespace pyengine
