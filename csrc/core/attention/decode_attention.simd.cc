#include "attention/decode_attention.h"

#include "attention/slots.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/transpose.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

// Keys whose scores are weighed together: their weighted values are one chain of sums. Blocks begin
// at multiples of it, so that what a row gets depends on the keys that it sees and on nothing else.
constexpr int64_t kBlock = 64;
// Rows that keys and values stay in the cache for.
constexpr int64_t kRows = 8;
// Keys are read kLanes at a time, head after head, and so are values: in this order their memory is
// nearly one stream. What comes next is asked for bit by bit meanwhile, since the CPU has few
// requests under way at a time; all that is looked at together takes half of a second-level cache
// of 512 KB.
constexpr int64_t kTileBytes = 256 << 10;
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
    float* q;        // [padded]: times scale and log2(e)
    float* o;        // [padded]: sum of 2^(score - most) * value
    float* sums;     // [padded]: the same of this block alone
    float* weights;  // [kBlock]: of its keys; before that their scores
    float* totals;   // most, the largest score so far; the sum of 2^(score - most); how much the
                     // block's most makes of what was there

    static int64_t size(int64_t width) { return 3 * padded(width) + kBlock + kLanes; }
    static Query at(float* from, int64_t width) {
        const int64_t n = padded(width);
        return {from, from + n, from + 2 * n, from + 3 * n, from + 3 * n + kBlock};
    }
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
    with_type(args.dtype, [&](auto t) {
        load_row(static_cast<const decltype(t)*>(args.q) + at, args.width, scale, to);
    });
}

void store_result(const DecodeAttentionArgs& args, const float* from, float scale, int64_t at) {
    with_type(args.dtype, [&](auto t) {
        store_row(from, args.width, scale, static_cast<decltype(t)*>(args.y) + at);
    });
}

// Asks for the rows [begin, end) of one head.
template <class T>
PYENGINE_INLINE void fetch(const T* first, int64_t step, int64_t begin, int64_t end,
                           int64_t width) {
    for (int64_t i = begin; i < end; ++i)
        for (int64_t c = 0; c < width; c += 64 / static_cast<int64_t>(sizeof(T)))
            __builtin_prefetch(first + i * step + c, 0, 2);
}

// Scores of kLanes keys from k on, of which `count` are there: each in its own accumulator over the
// channels, whose lanes are then added up, one key's as another's.
template <class T>
PYENGINE_INLINE Floats scores(const float* q, const T* k, int64_t step, int64_t count,
                              int64_t width) {
    Floats sums[kLanes];
    const T* keys[kLanes];
#pragma GCC unroll 16
    for (int j = 0; j < kLanes; ++j) {
        sums[j] = Floats{};
        keys[j] = k + (j < count ? j : count - 1) * step;
    }
    for_vectors(width, [&](int64_t c, auto lanes) {
        const Floats query = load(q + c);
#pragma GCC unroll 16
        for (int j = 0; j < kLanes; ++j) sums[j] = fma(query, load(keys[j] + c, lanes), sums[j]);
    });
    transpose(sums);
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) sums[j] += sums[j + half];
    for (int64_t j = count; j < kLanes; ++j) sums[0][j] = -kInfinity;
    return sums[0];
}

// From a block's scores to weights, and what has been added up before in terms of its most.
void weigh(const Query& query, int64_t n) {
    for (int64_t j = (n + kLanes - 1) / kLanes * kLanes; j < kBlock; j += kLanes)
        store(query.weights + j, splat(-kInfinity));
    Floats largest = splat(-kInfinity);
    for (int64_t j = 0; j < kBlock; j += kLanes)
        largest = at_least(load(query.weights + j), largest);
    float lanes[kLanes], most = query.totals[0];
    store(lanes, largest);
    for (int i = 0; i < kLanes; ++i) most = lanes[i] > most ? lanes[i] : most;
    // A NaN among the scores spoils the result by way of its weight.
    const float base = most == -kInfinity ? 0.0f : most;
    Floats before[1] = {splat(query.totals[0] - base)}, added = Floats{};
    exp2_to_one(before);
    for (int64_t j = 0; j < kBlock; j += kLanes) {
        Floats weight[1] = {load(query.weights + j) - splat(base)};
        exp2_to_one(weight);
        store(query.weights + j, weight[0]);
        added += weight[0];
    }
    query.totals[0] = most;
    query.totals[1] = query.totals[1] * before[0][0] + sum(added);
    query.totals[2] = before[0][0];
}

// sums (+)= n weighted values, Vectors vectors of each: one chain over a block's keys, whatever the
// pieces in which they come.
template <int Vectors, class T, class Lanes>
PYENGINE_INLINE void add_vectors(const T* v, int64_t step, int64_t n, const float* weights,
                                 bool first, float* to, Lanes lanes) {
    Floats sums[Vectors];
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) sums[i] = first ? Floats{} : load(to + i * kLanes);
    for (int64_t j = 0; j < n; ++j, v += step) {
        const Floats weight = splat(weights[j]);
#pragma GCC unroll 8
        for (int i = 0; i < Vectors; ++i)
            sums[i] = fma(weight, load(v + i * kLanes, lanes), sums[i]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < Vectors; ++i) store(to + i * kLanes, sums[i]);
}

template <class T>
PYENGINE_INLINE void add_values(const T* v, int64_t step, int64_t n, int64_t width,
                                const float* weights, bool first, float* sums) {
    int64_t c = 0;
    for (; c + kStrip * kLanes <= width; c += kStrip * kLanes)
        add_vectors<kStrip>(v + c, step, n, weights, first, sums + c, Whole{});
    for_vectors(width - c, [&](int64_t i, auto lanes) {
        add_vectors<1>(v + c + i, step, n, weights, first, sums + c + i, lanes);
    });
}

// Some key heads of one picture, for up to kRows rows.
struct Piece {
    int64_t picture, head, heads;  // of the keys
    int64_t row, rows;
};

template <class T>
struct Work {
    const DecodeAttentionArgs& args;
    const Piece& piece;
    float* scratch;
    const T *k, *v;  // of the piece's first head

    int64_t width() const { return args.width; }
    int64_t group() const { return args.heads / args.kv_heads; }
    Query query(int64_t row, int64_t head) const {
        return Query::at(scratch + (row * piece.heads * group() + head) * Query::size(width()),
                         width());
    }
    int64_t first_channel() const { return piece.head * group() * width(); }
    int64_t seen(int64_t row) const { return args.lengths[piece.picture] + piece.row + row + 1; }
    int64_t keys() const { return seen(piece.rows - 1); }

    // Calls use(query, keys that it sees from `key` on) for all queries of a key head.
    template <class Use>
    void queries_of(int64_t head, int64_t key, const Use& use) const {
        for (int64_t r = 0; r < piece.rows; ++r) {
            const int64_t n = seen(r) - key;
            for (int64_t g = 0; g < group() && n > 0; ++g) use(query(r, head * group() + g), n);
        }
    }

    void load_queries() const {
        for (int64_t r = 0; r < piece.rows; ++r)
            for (int64_t h = 0; h < piece.heads * group(); ++h) {
                const Query to = query(r, h);
                for (int64_t c = 0; c < padded(width()); c += kLanes) {
                    store(to.q + c, Floats{});
                    store(to.o + c, Floats{});
                }
                const int64_t row = piece.picture * args.q_picture + (piece.row + r) * args.q_row;
                load_query(args, row + first_channel() + h * width(), args.scale * kLog2E, to.q);
                to.totals[0] = -kInfinity;
                to.totals[1] = 0;
            }
    }

    // Calls use(head, key) for tiles of kLanes keys from `begin` on, and asks for those that
    // follow.
    template <class Use>
    void tiles(const T* from, int64_t step, int64_t begin, int64_t end, const Use& use) const {
        for (int64_t key = begin; key < end; key += kLanes)
            for (int64_t h = 0; h < piece.heads; ++h) {
                fetch(from + h * width(), step, key + kLanes, least(key + 2 * kLanes, keys()),
                      width());
                use(h, key);
            }
    }

    void block(int64_t begin) const {
        const int64_t end = least(begin + kBlock, keys());
        tiles(k, args.k_row, begin, end, [&](int64_t h, int64_t key) {
            queries_of(h, key, [&](const Query& query, int64_t n) {
                store(query.weights + (key - begin),
                      scores(query.q, k + key * args.k_row + h * width(), args.k_row,
                             least(n, kLanes), width()));
            });
        });
        for (int64_t h = 0; h < piece.heads; ++h)
            queries_of(h, begin,
                       [&](const Query& query, int64_t n) { weigh(query, least(n, kBlock)); });
        tiles(v, args.v_row, begin, end, [&](int64_t h, int64_t key) {
            queries_of(h, key, [&](const Query& query, int64_t n) {
                add_values(v + key * args.v_row + h * width(), args.v_row, least(n, kLanes),
                           width(), query.weights + (key - begin), key == begin, query.sums);
            });
        });
        for (int64_t h = 0; h < piece.heads; ++h)
            queries_of(h, begin, [&](const Query& query, int64_t) {
                const Floats factor = splat(query.totals[2]);
                for (int64_t c = 0; c < padded(width()); c += kLanes)
                    store(query.o + c, fma(load(query.o + c), factor, load(query.sums + c)));
            });
    }

    void store_results() const {
        for (int64_t r = 0; r < piece.rows; ++r)
            for (int64_t h = 0; h < piece.heads * group(); ++h) {
                const Query done = query(r, h);
                const int64_t row = piece.picture * args.rows + piece.row + r;
                store_result(args, done.o, 1 / done.totals[1],
                             row * args.heads * width() + first_channel() + h * width());
            }
    }
};

template <class T>
void run(const DecodeAttentionArgs& args, const Piece& piece, float* scratch) {
    const int64_t head = piece.head * args.width, slot = slot_of(args.slots, piece.picture);
    const Work<T> work{args, piece, scratch,
                       static_cast<const T*>(args.k) + slot * args.k_picture + head,
                       static_cast<const T*>(args.v) + slot * args.v_picture + head};
    work.load_queries();
    for (int64_t begin = 0; begin < work.keys(); begin += kBlock) work.block(begin);
    work.store_results();
}

// Key heads that are looked at together.
int64_t heads_together(const DecodeAttentionArgs& args) {
    const int64_t bytes = 4 * kLanes * args.width * 4;  // these keys and values, and the next
    const int64_t heads = kTileBytes / bytes;
    return heads < 1 ? 1 : least(heads, args.kv_heads);
}

}  // namespace

// Floats of scratch memory that a share needs.
int64_t decode_attention_scratch(const DecodeAttentionArgs& args) {
    const int64_t queries = heads_together(args) * (args.heads / args.kv_heads);
    return least(args.rows, kRows) * queries * Query::size(args.width);
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

PYENGINE_INSTANTIATE(decode_attention, (const DecodeAttentionArgs&, const DecodeAttentionShare&));

}  // namespace pyengine::PYENGINE_NS
