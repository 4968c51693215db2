#include "attention/attention.h"

#include "attention/group.simd.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/transpose.simd.h"
#include "isa/vector.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Queries lie in the lanes, so that a row of the softmax is one lane: its largest score, its sum
// and its rescaling take no sum over lanes, any head size fills the vectors, and what a query gets
// is the same at any place in a group. Both products are tiles of kTile broadcast values (keys, or
// channels of the values) by kGroupVectors vectors of queries; AVX2 has registers for 6 rows.
constexpr int kTile = kLanes == 16 ? 8 : 6;
template <int M>
struct Rows {
    static constexpr int count = M;
};

template <int M, class Step>
PYENGINE_INLINE void with_rows(int64_t count, const Step& step) {
    if (count == M) {
        step(Rows<M>{});
    } else if constexpr (M > 1) {
        with_rows<M - 1>(count, step);
    }
}

// Cuts [0, n) into tiles of at most kTile that differ by one at most (40 = 5 * 6 + 2 * 5), and
// calls step(start, Rows<M>{}) for each.
template <class Step>
PYENGINE_INLINE void for_tiles(int64_t n, const Step& step) {
    const int64_t tiles = ceil_divide(n, kTile);
    for (int64_t tile = 0, start = 0; tile < tiles; ++tile) {
        const int64_t count = n / tiles + (tile < n % tiles);
        with_rows<kTile>(count, [&](auto rows) { step(start, rows); });
        start += count;
    }
}

// Steps in one turn of the loop, as in gemm/tile.simd.h.
constexpr int kUnroll = kLanes == 8 ? 4 : 1;

// acc[i][j] = sum over `depth` steps of a[i * a_row + step * a_step] * b[step][j], in order.
template <int M>
PYENGINE_INLINE void multiply(const float* a, int64_t a_row, int64_t a_step, const float* b,
                              int64_t depth, Floats (&acc)[M][kVectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i)
        for (int j = 0; j < kVectors; ++j) acc[i][j] = Floats{};
#pragma GCC unroll kUnroll
    for (int64_t step = 0; step < depth; ++step) {
        Floats right[kVectors];
        for (int j = 0; j < kVectors; ++j) right[j] = load(b + step * kGroup + j * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < M; ++i) {
            const Floats left = splat(a[i * a_row + step * a_step]);
            for (int j = 0; j < kVectors; ++j) acc[i][j] = fma(left, right[j], acc[i][j]);
        }
    }
}

// One group's place in the scratch.
struct Group {
    float* q;     // [width, kGroup]: queries times scale
    float* o;     // [value_width, kGroup]: sum of exp(score - most) * value
    float* most;  // [kGroup]: the largest score so far
    float* sum;   // [kGroup]: sum of exp(score - most)
};

// Channels that are summed in one chain: keeps the rounding of wide heads (512) that of narrow
// ones, and what is read again and again in the L1 cache.
constexpr int64_t kDepth = 160;

// Scores of n keys, [n, kGroup], and the largest of each query.
void scores(const float* keys, int64_t n, const float* q, int64_t width, float* s,
            Floats (&largest)[kVectors]) {
    // In registers: through memory, each tile would wait for the one before.
    Floats most[kVectors];
    const int64_t chains = ceil_divide(width, kDepth);
    for (int64_t chain = 0; chain < chains; ++chain) {
        const int64_t from = width * chain / chains, to = width * (chain + 1) / chains;
        for (int j = 0; j < kVectors; ++j) most[j] = splat(-kInfinity);
        for_tiles(n, [&](int64_t start, auto rows) {
            constexpr int M = decltype(rows)::count;
            Floats acc[M][kVectors];
            multiply<M>(keys + start * width + from, width, 1, q + from * kGroup, to - from, acc);
            float* tile = s + start * kGroup;
#pragma GCC unroll 8
            for (int i = 0; i < M; ++i)
                for (int j = 0; j < kVectors; ++j) {
                    float* at = tile + i * kGroup + j * kLanes;
                    const Floats score = chain == 0 ? acc[i][j] : load(at) + acc[i][j];
                    store(at, score);
                    most[j] = at_least(score, most[j]);
                }
        });
    }
    for (int j = 0; j < kVectors; ++j) largest[j] = most[j];
}

// weights = exp(score - base) for Keys keys, in place and added to sum.
template <int Keys>
PYENGINE_INLINE void weigh(float* s, const Floats (&base)[kVectors], Floats unit,
                           Floats (&sum)[kVectors]) {
    Floats x[Keys * kVectors];
    for (int i = 0; i < Keys * kVectors; ++i)
        x[i] = (load(s + i * kLanes) - base[i % kVectors]) * unit;
    exp2_to_one(x);
    for (int i = 0; i < Keys * kVectors; ++i) {
        store(s + i * kLanes, x[i]);
        sum[i % kVectors] += x[i];
    }
}

// From scores to weights, exp(score - most), in place. most comes as this block's and becomes the
// largest so far; factor is what earlier sums are multiplied by.
void softmax(Floats unit, int64_t n, float* s, Group& group, const Floats (&most)[kVectors],
             Floats (&factor)[kVectors]) {
    Floats base[kVectors], sum[kVectors];
    for (int j = 0; j < kVectors; ++j) {
        const Floats before = load(group.most + j * kLanes), now = at_least(most[j], before);
        store(group.most + j * kLanes, now);
        // With no key seen yet, any base but -inf gives weights of zero.
        base[j] = select(now == splat(-kInfinity), Floats{}, now);
        factor[j] = (before - base[j]) * unit;
        sum[j] = Floats{};
    }
    exp2_to_one(factor);
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) weigh<2>(s + i * kGroup, base, unit, sum);
    if (i < n) weigh<1>(s + i * kGroup, base, unit, sum);
    for (int j = 0; j < kVectors; ++j) {
        float* total = group.sum + j * kLanes;
        store(total, fma(load(total), factor[j], sum[j]));
    }
}

// o = o * factor + values^T weights.
void accumulate(const float* values, int64_t n, const float* weights, int64_t value_width,
                const Floats (&factor)[kVectors], float* o) {
    for_tiles(value_width, [&](int64_t start, auto rows) {
        constexpr int M = decltype(rows)::count;
        Floats acc[M][kVectors];
        multiply<M>(values + start * n, 1, M, weights, n, acc);
        for (int i = 0; i < M; ++i)
            for (int j = 0; j < kVectors; ++j) {
                float* at = o + (start + i) * kGroup + j * kLanes;
                store(at, fma(load(at), factor[j], acc[i][j]));
            }
    });
}

// Rows [first, first + kGroup) of x into columns, times factor; zeros where there is no row.
template <class T>
void load_columns(const T* x, int64_t step, int64_t rows, int64_t width, Floats factor, float* to) {
    for (int j = 0; j < kVectors; ++j)
        for_vectors(width, [&](int64_t c, auto lanes) {
            Floats block[kLanes];
            for (int i = 0; i < kLanes; ++i) {
                const int64_t row = j * kLanes + i;
                block[i] = row < rows ? load(x + row * step + c, lanes) * factor : Floats{};
            }
            transpose(block);
            const int64_t left = width - c;
            for (int i = 0; i < kLanes && i < left; ++i)
                store(to + (c + i) * kGroup + j * kLanes, block[i]);
        });
}

// All of one head's keys for `groups` groups of queries from `query` on.
void attend(const AttentionWork& work, const float* packed, const float* mask, int64_t query,
            Group* group, int64_t groups, float* s) {
    const AttentionArgs& args = work.args;
    // Scores come in units of ln 2, unless a mask is added: its lowest values, times log2(e), would
    // overflow.
    const Floats unit = splat(mask ? kLog2E : 1.0f);
    for (int64_t b = 0; b < work.blocks; ++b) {
        const int64_t key = b * work.block;
        const int64_t n = args.keys - key < work.block ? args.keys - key : work.block;
        const float* keys = packed + b * work.block_floats;
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = query + g * kGroup;
            if (args.causal && key > first + kGroup - 1) continue;  // all hidden
            Floats most[kVectors], factor[kVectors];
            scores(keys, n, group[g].q, args.width, s, most);
            if (mask || (args.causal && key + n - 1 > first))
                hide(args, mask, first, key, n, s, most);
            softmax(unit, n, s, group[g], most, factor);
            accumulate(keys + n * args.width, n, s, args.value_width, factor, group[g].o);
        }
    }
}

}  // namespace

// Items are the blocks of keys of the packed heads.
template <class T>
void attention_pack(const AttentionWork& work, int64_t begin, int64_t end) {
    const AttentionArgs& args = work.args;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t head = work.first_head + item / work.blocks;
        const int64_t picture = head / args.heads, key = item % work.blocks * work.block;
        const int64_t n = args.keys - key < work.block ? args.keys - key : work.block;
        const T* k = static_cast<const T*>(args.k) + picture * args.k_picture + key * args.k_row +
                     head % args.heads * args.width;
        const T* v = static_cast<const T*>(args.v) + picture * args.v_picture + key * args.v_row +
                     head % args.heads * args.value_width;
        float* to = work.packed + item * work.block_floats;
        for (int64_t i = 0; i < n; ++i)
            for_vectors(args.width, [&](int64_t c, auto lanes) {
                store(to + i * args.width + c, load(k + i * args.k_row + c, lanes), lanes);
            });
        to += n * args.width;
        for_tiles(args.value_width, [&](int64_t start, auto rows) {
            constexpr int M = decltype(rows)::count;
            for (int64_t i = 0; i < n; ++i) {
                T narrow[kTile + kLanes] = {};
                float wide[kTile + kLanes];
                __builtin_memcpy(narrow, v + i * args.v_row + start, M * sizeof(T));
                for (int c = 0; c < M; c += kLanes) store(wide + c, load(narrow + c));
                __builtin_memcpy(to + start * n + i * M, wide, M * sizeof(float));
            }
        });
    }
}

// Items are the query blocks of the packed heads.
template <class T>
void attention(const AttentionWork& work, int64_t begin, int64_t end) {
    const AttentionArgs& args = work.args;
    const int64_t values = args.heads * args.value_width;
    float* s = work.scratch;
    float* next = s + work.block * kGroup;
    constexpr int kMostGroups = 64 / kGroup;
    Group group[kMostGroups];
    for (int64_t g = 0; g < work.groups; ++g) {
        group[g].q = next;
        group[g].o = group[g].q + args.width * kGroup;
        group[g].most = group[g].o + args.value_width * kGroup;
        group[g].sum = group[g].most + kGroup;
        next = group[g].sum + kGroup;
    }
    const float* mask = args.mask;
    const Floats scale = splat(mask ? args.scale : args.scale * kLog2E);
    for (int64_t item = begin; item < end; ++item) {
        const int64_t beside = work.heads_beside, block = item / beside;
        const int64_t packed_head = block / work.query_blocks * beside + item % beside;
        const int64_t head = work.first_head + packed_head;
        const int64_t picture = head / args.heads, column = head % args.heads;
        const int64_t query = block % work.query_blocks * work.groups * kGroup;
        const int64_t left = args.queries - query;
        const int64_t groups =
            left < work.groups * kGroup ? (left + kGroup - 1) / kGroup : work.groups;
        const T* q = static_cast<const T*>(args.q) + picture * args.q_picture + query * args.q_row +
                     column * args.width;
        for (int64_t g = 0; g < groups; ++g) {
            load_columns(q + g * kGroup * args.q_row, args.q_row, left - g * kGroup, args.width,
                         scale, group[g].q);
            for (int64_t i = 0; i < args.value_width * kGroup; i += kLanes)
                store(group[g].o + i, Floats{});
            for (int j = 0; j < kVectors; ++j) {
                store(group[g].most + j * kLanes, splat(-kInfinity));
                store(group[g].sum + j * kLanes, Floats{});
            }
        }
        if (args.mask) mask = args.mask + picture * args.mask_step[0] + column * args.mask_step[1];
        attend(work, work.packed + packed_head * work.blocks * work.block_floats, mask, query,
               group, groups, s);
        T* y = static_cast<T*>(args.y) + (picture * args.queries + query) * values +
               column * args.value_width;
        for (int64_t g = 0; g < groups; ++g) {
            Floats inverse[kVectors];
            for (int j = 0; j < kVectors; ++j)
                inverse[j] = splat(1.0f) / load(group[g].sum + j * kLanes);
            store_columns(group[g].o, inverse, args.value_width, y + g * kGroup * values, values,
                          left - g * kGroup);
        }
    }
}

PYENGINE_INSTANTIATE(attention_pack, PYENGINE_RANGE(AttentionWork));
PYENGINE_INSTANTIATE(attention, PYENGINE_RANGE(AttentionWork));

}  // namespace pyengine::PYENGINE_NS
