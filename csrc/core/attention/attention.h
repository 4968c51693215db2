// Attention over packed heads with online softmax.
// Vaswani et al. 2017, arXiv:1706.03762; Milakov & Gimelshein 2018, arXiv:1805.02867;
// the tiling is FlashAttention's (Dao et al. 2022, arXiv:2205.14135).
#pragma once

#include <stdint.h>

#include "dtype.h"

namespace pyengine {

// Steps between neighbours of one dimension count elements; the last dimension is contiguous.
struct AttentionArgs {
    const void* q;  // [pictures, queries, heads * width]
    const void* k;  // [pictures, keys, heads * width]
    const void* v;  // [pictures, keys, heads * value_width]
    void* y;        // [pictures, queries, heads * value_width], contiguous
    int64_t q_picture, q_row, k_picture, k_row, v_picture, v_row;
    const float* mask;     // added to the scores, or null
    int64_t mask_step[4];  // of picture, head, query and key; 0 where it is broadcast
    int64_t pictures, heads, queries, keys, width, value_width;
    float scale;
    bool causal;  // row i sees keys 0..i
};

// What keys, values and working memory take; a function of one head's shape alone, since the bits
// depend on `block`.
struct AttentionSizes {
    int64_t block;         // keys
    int64_t block_floats;  // of the packed keys and values of a block
    int64_t group_floats;  // of a thread's scratch memory, for each group of queries
    int64_t floats;        // and for all of them
};

// What attention() hands to the vector code: the arguments, and how the work is cut.
struct AttentionWork {
    AttentionArgs args;
    // Keys and values of one head are packed in blocks of `block` keys (the last may have fewer),
    // bfloat16 ones in tiles where they are multiplied as such. Otherwise for n keys the keys, [n,
    // width], then the values, cut into panels [n, m] of m channels. All in float32, so that both
    // products read them as one stream.
    int64_t block, blocks, block_floats;
    float* packed;       // [heads packed, blocks, block_floats]
    int64_t first_head;  // of pictures * heads, the one that is packed first
    // An item of the computation is `groups` groups of kGroupVectors vectors of queries.
    int64_t groups, query_blocks;
    // Items run through that many heads of one block of queries (1, or all of a picture), then
    // through the blocks.
    int64_t heads_beside;
    float* scratch;  // attention_scratch() floats, of one thread
};

// Vectors of queries side by side: a group is as many queries as these have lanes.
constexpr int kGroupVectors = 2;

// y = softmax(q k^T * scale + mask) v for each head.
void attention(const AttentionArgs& args, DType dtype, int threads);

}  // namespace pyengine
