#include "attention/decode_attention.h"

#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/transpose.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Keys whose scores are weighed together: their weighted values are one chain of sums. Blocks begin
// at multiples of it, so that what a row gets depends on the keys that it sees and on nothing else.
constexpr int64_t kBlock = 64;
// Rows that a block of keys and values stays in the cache for.
constexpr int64_t kRows = 8;
// Keys and values of one block, of all heads that are looked at together: half of a second-level
// cache of 512 KB, of which the other half is the next block, on its way.
constexpr int64_t kBlockBytes = 256 << 10;
// Vectors of a head that the values are added up in.
constexpr int kStrip = 8;

constexpr float kInfinity = __builtin_inff();
constexpr float kLog2E = 0x1.715476p0f;

// Floats of a head's row, whole vectors: what lies behind its width is zero.
int64_t padded(int64_t width) {
    return (width + kLanes - 1) / kLanes * kLanes;
}

// A row's query of one head, and what has been added up for it.
struct Query {
    float* q;       // [padded]: times scale and log2(e)
    float* o;       // [padded]: sum of 2^(score - most) * value
    float* totals;  // most, the largest score so far, and the sum of 2^(score - most)
};

template <class T>
void load_row(const T* from, int64_t n, float scale, float* to) {
    for_vectors(n, [&](int64_t c, auto lanes) { store(to + c, load(from + c, lanes) * scale); });
}

template <class T>
void store_row(const float* from, int64_t n, float scale, T* to) {
    for_vectors(n, [&](int64_t c, auto lanes) { store(to + c, load(from + c) * scale, lanes); });
}

void load_query(const DecodeAttentionArgs& args, int64_t at, float scale, float* to) {
    const int64_t n = args.width;
    if (args.dtype == DType::float32)
        return load_row(static_cast<const float*>(args.q) + at, n, scale, to);
    if (args.dtype == DType::bfloat16)
        return load_row(static_cast<const BFloat16*>(args.q) + at, n, scale, to);
    load_row(static_cast<const Float16*>(args.q) + at, n, scale, to);
}

void store_result(const DecodeAttentionArgs& args, const float* from, float scale, int64_t at) {
    const int64_t n = args.width;
    if (args.dtype == DType::float32)
        return store_row(from, n, scale, static_cast<float*>(args.y) + at);
    if (args.dtype == DType::bfloat16)
        return store_row(from, n, scale, static_cast<BFloat16*>(args.y) + at);
    store_row(from, n, scale, static_cast<Float16*>(args.y) + at);
}

// Asks for one key's row of a block that comes later.
template <class T>
PYENGINE_INLINE void fetch(const T* row, int64_t width) {
    for (int64_t c = 0; c < width; c += 64 / static_cast<int64_t>(sizeof(T)))
        __builtin_prefetch(row + c, 0, 2);
}

// Scores of kLanes keys from k on, of which `count` are there: each in its own accumulator over the
// channels, whose lanes are then added up, one key's as another's.
template <class T>
PYENGINE_INLINE Floats scores(const float* q, const T* k, int64_t step, int64_t count,
                              int64_t width) {
    Floats sums[kLanes];
    for (int j = 0; j < kLanes; ++j) {
        const T* key = k + (j < count ? j : count - 1) * step;
        Floats sum = Floats{};
        for_vectors(width, [&](int64_t c, auto lanes) {
            sum = fma(load(q + c), load(key + c, lanes), sum);
        });
        sums[j] = sum;
    }
    transpose(sums);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
    return sums[0];
}

// The o of Vectors vectors: o * factor + the block's weighted values.
template <int Vectors, class T>
PYENGINE_INLINE void add_values(const T* v, int64_t step, int64_t n, const float* weights,
                                Floats factor, float* o) {
    Floats sums[Vectors];
    for (int i = 0; i < Vectors; ++i) sums[i] = Floats{};
    for (int64_t j = 0; j < n; ++j, v += step) {
        const Floats weight = splat(weights[j]);
#pragma GCC unroll 8
        for (int i = 0; i < Vectors; ++i) sums[i] = fma(weight, load(v + i * kLanes), sums[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i)
        store(o + i * kLanes, fma(load(o + i * kLanes), factor, sums[i]));
}

template <class T>
void add_last_values(const T* v, int64_t step, int64_t n, const float* weights, int64_t count,
                     Floats factor, float* o) {
    Floats sum = Floats{};
    for (int64_t j = 0; j < n; ++j) sum = fma(splat(weights[j]), load(v + j * step, count), sum);
    store(o, fma(load(o), factor, sum));
}

// One query and n keys and values of a block.
template <class T>
void attend(const Query& query, const T* k, int64_t k_step, const T* v, int64_t v_step, int64_t n,
            int64_t width) {
    float weights[kBlock];
    Floats largest = splat(-kInfinity);
    for (int64_t j = 0; j < kBlock; j += kLanes) {
        Floats score = splat(-kInfinity);
        if (j < n) {
            score = scores(query.q, k + j * k_step, k_step, n - j, width);
            if (n - j < kLanes) {
                for (int64_t i = n - j; i < kLanes; ++i) score[i] = -kInfinity;
            }
        }
        store(weights + j, score);
        largest = at_least(score, largest);
    }
    float lanes[kLanes], most = query.totals[0];
    store(lanes, largest);
    for (int i = 0; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
    // A NaN among the scores spoils the result by way of its weight.
    const float base = most == -kInfinity ? 0.0f : most;
    Floats before[1] = {splat(query.totals[0] - base)}, added = Floats{};
    exp2_to_one(before);
    for (int64_t j = 0; j < kBlock; j += kLanes) {
        Floats weight[1] = {load(weights + j) - splat(base)};
        exp2_to_one(weight);
        store(weights + j, weight[0]);
        added += weight[0];
    }
    query.totals[0] = most;
    query.totals[1] = query.totals[1] * before[0][0] + sum(added);
    int64_t c = 0;
    for (; c + kStrip * kLanes <= width; c += kStrip * kLanes)
        add_values<kStrip>(v + c, v_step, n, weights, before[0], query.o + c);
    for (; c + kLanes <= width; c += kLanes)
        add_values<1>(v + c, v_step, n, weights, before[0], query.o + c);
    if (c < width) add_last_values(v + c, v_step, n, weights, width - c, before[0], query.o + c);
}

// Some key heads of one picture, for up to kRows rows.
struct Piece {
    int64_t picture, head, heads;  // of the keys
    int64_t row, rows;
};

template <class T>
void run(const DecodeAttentionArgs& args, const Piece& piece, float* scratch) {
    const int64_t width = args.width, size = 2 * padded(width) + 2;
    const int64_t group = args.heads / args.kv_heads, heads = piece.heads * group;
    const auto query = [&](int64_t row, int64_t head) {
        float* at = scratch + (row * heads + head) * size;
        return Query{at, at + padded(width), at + 2 * padded(width)};
    };
    const int64_t first = piece.head * group * width;
    for (int64_t r = 0; r < piece.rows; ++r)
        for (int64_t h = 0; h < heads; ++h) {
            const Query to = query(r, h);
            for (int64_t c = 0; c < padded(width); c += kLanes) {
                store(to.q + c, Floats{});
                store(to.o + c, Floats{});
            }
            load_query(
                args,
                piece.picture * args.q_picture + (piece.row + r) * args.q_row + first + h * width,
                args.scale * kLog2E, to.q);
            to.totals[0] = -kInfinity;
            to.totals[1] = 0;
        }
    const T* k =
        static_cast<const T*>(args.k) + piece.picture * args.k_picture + piece.head * width;
    const T* v =
        static_cast<const T*>(args.v) + piece.picture * args.v_picture + piece.head * width;
    const int64_t before = args.lengths[piece.picture] + piece.row + 1;  // what row 0 sees
    const int64_t all = before + piece.rows - 1;
    for (int64_t key = 0; key < all;
         key += kBlock, k += kBlock * args.k_row, v += kBlock * args.v_row)
        for (int64_t h = 0; h < piece.heads; ++h) {
            for (int64_t j = key + kBlock; j < least(all, key + 2 * kBlock); ++j) {
                fetch(k + (j - key) * args.k_row + h * width, width);
                fetch(v + (j - key) * args.v_row + h * width, width);
            }
            for (int64_t r = 0; r < piece.rows; ++r) {
                const int64_t n = least(before + r - key, kBlock);
                for (int64_t g = 0; g < group && n > 0; ++g)
                    attend(query(r, h * group + g), k + h * width, args.k_row, v + h * width,
                           args.v_row, n, width);
            }
        }
    for (int64_t r = 0; r < piece.rows; ++r)
        for (int64_t h = 0; h < heads; ++h) {
            const Query done = query(r, h);
            store_result(args, done.o, 1 / done.totals[1],
                         (piece.picture * args.rows + piece.row + r) * args.heads * width + first +
                             h * width);
        }
}

// Key heads that are looked at together.
int64_t heads_together(const DecodeAttentionArgs& args) {
    const int64_t bytes = 2 * kBlock * args.width * 4;
    const int64_t heads = kBlockBytes / bytes;
    return heads < 1 ? 1 : least(heads, args.kv_heads);
}

}  // namespace

// Floats of scratch memory that a share needs.
int64_t decode_attention_scratch(const DecodeAttentionArgs& args) {
    const int64_t queries = heads_together(args) * (args.heads / args.kv_heads);
    return least(args.rows, kRows) * queries * (2 * padded(args.width) + 2) + kLanes;
}

template <class T>
void decode_attention(const DecodeAttentionArgs& args, const DecodeAttentionShare& share) {
    const int64_t together = heads_together(args);
    for (int64_t item = share.begin; item < share.end;) {
        const int64_t picture = item / args.kv_heads, head = item % args.kv_heads;
        const int64_t heads = least(together, least(args.kv_heads - head, share.end - item));
        for (int64_t row = 0; row < args.rows; row += kRows)
            run<T>(args, {picture, head, heads, row, least(kRows, args.rows - row)}, share.scratch);
        item += heads;
    }
}

template void decode_attention<float>(const DecodeAttentionArgs&, const DecodeAttentionShare&);
template void decode_attention<BFloat16>(const DecodeAttentionArgs&, const DecodeAttentionShare&);
template void decode_attention<Float16>(const DecodeAttentionArgs&, const DecodeAttentionShare&);

}  // namespace pyengine::PYENGINE_NS
