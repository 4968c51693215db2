#include "attention/decode_attention.h"

#include <algorithm>

#include "attention/slots.h"
#include "check.h"
#include "parallel.h"
#include "scratch.h"
#include "table.h"

namespace pyengine {

namespace {

constexpr const char* kOp = "decode_attention";

void check(const DecodeAttentionArgs& a) {
    require(a.width > 0 && a.kv_heads > 0 && a.heads % a.kv_heads == 0, kOp,
            "heads that are no multiple of the keys'");
    require(a.q && a.k && a.v && a.y && a.lengths, kOp, "null pointer");
    for (int64_t step : {a.q_picture, a.q_row, a.k_picture, a.k_row, a.v_picture, a.v_row})
        require(step >= 0, kOp, "negative step");
}

}  // namespace

int64_t decode_attention(const DecodeAttentionArgs& a, int threads) {
    checked_count(kOp, a.pictures, a.most, a.kv_heads, a.width);
    checked_count(kOp, a.heads + 1, a.width + 64, 64);
    if (checked_count(kOp, a.pictures, a.rows, a.heads, a.width) == 0) return -1;
    check(a);
    const int64_t bad = first_bad_slot(a.slots, a.pictures, a.cache_rows);
    if (bad >= 0) return bad;
    int64_t keys = 0;  // that are looked at, over all pictures
    for (int64_t i = 0; i < a.pictures; ++i) {
        if (a.lengths[i] < 0 || a.lengths[i] > a.most - a.rows) return i;
        keys += a.lengths[i] + a.rows;
    }
    // Less than this many products of a head's width, some 4 us, is not worth waking threads for.
    const int64_t items = a.pictures * a.kv_heads, products = keys * a.rows * a.heads;
    const int64_t useful = 1 + products * a.width / 100000;
    const int64_t shares = std::min({items, useful, static_cast<int64_t>(std::max(threads, 1))});
    const int64_t room = (table().decode_attention_scratch(a) + 15) / 16 * 16;
    float* memory = scratch(room * shares);
    const auto run = table().decode_attention[a.cache_dtype];
    parallel_for(shares, 1, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
            run(a, {.begin = items * i / shares,
                    .end = items * (i + 1) / shares,
                    .scratch = memory + i * room});
    });
    return -1;
}

}  // namespace pyengine
