#include "attention/attention.h"

#include <algorithm>

#include "check.h"
#include "divide.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "attention";

// Floats in a cache line: every buffer is a multiple, so that none shares a line with another.
constexpr int64_t kLine = 16;

// The largest block of keys: 120 keys' scores of 16 queries and 40 channels of keys fill an L1
// cache of 32 KB; wide heads (512 channels) get fewer, so that keys and values take 192 KB of L2.
constexpr int64_t kMostKeys = 120, kBlockFloats = 49152;
// Blocks are whole numbers of tiles, of 6 or of 8 keys.
constexpr int64_t kTiles = 24;
// Queries of one item, which the block stays in the cache for.
constexpr int64_t kQueries = 64;
// Packed keys and values of as many heads as fit are in memory at once: 16 MB, or one head.
constexpr int64_t kPackedFloats = int64_t{1} << 22;
// Where those of all heads of a picture are few, as a prompt's are, heads change faster than
// queries: a row of q and y then passes through the second-level cache once, not once a head in
// pieces that share cache lines.
constexpr int64_t kSideFloats = int64_t{1} << 16;

// Keys in a block: a function of one head's shape alone, since the bits depend on it.
int64_t block_of(const AttentionArgs& a) {
    const int64_t fits = kBlockFloats / (a.width + a.value_width) / kTiles * kTiles;
    const int64_t most = std::clamp(fits, kTiles, kMostKeys);
    return round_up(ceil_divide(a.keys, ceil_divide(a.keys, most)), kTiles);
}

// Of float32 products.
AttentionSizes sizes_of(const AttentionArgs& a, int64_t group) {
    const int64_t block = block_of(a);
    return {.block = block,
            .block_floats = round_up(block * (a.width + a.value_width), kLine),
            .group_floats = group * (a.width + a.value_width + 2),
            .floats = group * block};
}

void check(const AttentionArgs& a) {
    require(a.width > 0, kOp, "a head without channels");
    require(a.keys > 0, kOp, "no keys");
    require(a.q && a.k && a.v && a.y, kOp, "null pointer");
    for (int64_t step : {a.q_picture, a.q_row, a.k_picture, a.k_row, a.v_picture, a.v_row})
        require(step >= 0, kOp, "negative step");
    for (int64_t step : a.mask_step) require(step >= 0, kOp, "negative step of the mask");
}

// Runs one wave of heads: packs their keys and values, then computes.
void run(AttentionWork work, int64_t heads, float* scratch, int64_t scratch_floats, DType dtype,
         int threads) {
    const AttentionArgs& a = work.args;
    const Table& t = table();
    const auto pack = t.attention_pack[dtype];
    const auto compute = t.attention[dtype];
    parallel_for(heads * work.blocks, 1 + 16384 / work.block_floats, threads,
                 [&](int64_t begin, int64_t end) { pack(work, begin, end); });
    // Each thread takes one share, with scratch of its own.
    const int64_t items = heads * work.query_blocks;
    const int64_t cost =
        ceil_divide(a.queries, work.query_blocks) * a.keys * (a.width + a.value_width);
    const int64_t shares = std::clamp(items / (1 + 65536 / cost), int64_t{1},
                                      static_cast<int64_t>(std::max(threads, 1)));
    parallel_for(shares, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t share = begin; share < end; ++share) {
            AttentionWork mine = work;
            mine.scratch = scratch + share * scratch_floats;
            compute(mine, items * share / shares, items * (share + 1) / shares);
        }
    });
}

}  // namespace

void attention(const AttentionArgs& a, DType dtype, int threads) {
    const int64_t all = checked_count(kOp, a.pictures, a.heads);
    checked_count(kOp, all, a.queries, a.width, 2);
    checked_count(kOp, all, a.keys, a.width, 2);
    checked_count(kOp, all, a.keys, a.value_width, 2);
    if (checked_count(kOp, all, a.queries, a.value_width) == 0) return;
    check(a);

    AttentionWork work{};
    work.args = a;
    const int64_t group = kGroupVectors * table().lanes;
    const bool rounded = dtype == DType::bfloat16 && table().attention_bf16_sizes;
    const AttentionSizes sizes = rounded ? table().attention_bf16_sizes(a) : sizes_of(a, group);
    work.block = sizes.block;
    work.blocks = ceil_divide(a.keys, work.block);
    work.block_floats = sizes.block_floats;
    const int64_t per_head = checked_count(kOp, work.blocks, work.block_floats);
    threads = std::max(threads, 1);
    // Fewer queries an item where the threads would not all have four.
    work.groups = ceil_divide(std::min(kQueries, a.queries), group);
    const auto query_blocks = [&] { return ceil_divide(a.queries, work.groups * group); };
    while (work.groups > 1 && all * query_blocks() < 4 * int64_t{threads}) work.groups /= 2;
    work.query_blocks = query_blocks();

    const int64_t waves = ceil_divide(all, std::clamp(kPackedFloats / per_head, int64_t{1}, all));
    const int64_t wave = ceil_divide(all, waves);
    const bool few = wave == all && a.heads * per_head <= kSideFloats;
    work.heads_beside = few ? a.heads : 1;
    const int64_t scratch_floats = round_up(work.groups * sizes.group_floats + sizes.floats, kLine);
    const int64_t packed = checked_count(kOp, wave, per_head);
    work.packed = scratch(packed + checked_count(kOp, threads, scratch_floats));
    for (int64_t head = 0; head < all; head += wave) {
        work.first_head = head;
        run(work, std::min(wave, all - head), work.packed + packed, scratch_floats, dtype, threads);
    }
}

}  // namespace pyengine
