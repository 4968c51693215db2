// Attention of bfloat16: both products of bfloat16 numbers, exact, with sums in float32; the
// softmax in float32, its weights rounded to bfloat16. As in attention.simd.cc, queries lie in the
// lanes; keys, and channels of the values, are the rows of the tiles.
#include "attention/attention.h"
#include "attention/group.simd.h"
#include "gemm/tile_bf16.simd.h"
#include "isa/bfloat16.simd.h"
#include "isa/divide.simd.h"
#include "isa/math.simd.h"
#include "isa/math_bf16.simd.h"
#include "isa/transpose.simd.h"

namespace pyengine::PYENGINE_NS {

namespace {

static_assert(kGroup == 32 && kLanes == 16);

// The most keys of a block: scores of 32 queries take 32 KB.
constexpr int64_t kMostKeys = 256;

int64_t steps_of(int64_t n) {
    return ceil_divide(n, kStep);
}
int64_t tiles_of(int64_t n) {
    return ceil_divide(n, kTileHeight);
}

// A block of n keys: tiles of keys, [keys / 16][steps of width][16][32], then of the values'
// channels, [value_width / 16][steps of keys][16][32].
int64_t key_elements(const AttentionArgs& args, int64_t n) {
    return tiles_of(n) * steps_of(args.width) * kTileElements;
}
int64_t value_elements(const AttentionArgs& args, int64_t n) {
    return tiles_of(args.value_width) * steps_of(n) * kTileElements;
}

// One group's place in the scratch.
struct Group {
    BFloat16* q;  // [2][steps of width][16 pairs][16][2]
    float* o;     // [value_width, whole tiles][kGroup]: sum of exp(score - most) * value
    float* most;  // [kGroup]: the largest score so far
    float* sum;   // [kGroup]: sum of exp(score - most)
};

int64_t q_elements(const AttentionArgs& args) {
    return 2 * steps_of(args.width) * kTileElements;
}
int64_t o_floats(const AttentionArgs& args) {
    return tiles_of(args.value_width) * kTileHeight * kGroup;
}

// C (+)= A B: `rows` rows of A in tiles one after the other, each of `steps` steps; b: both vectors
// of queries.
void multiply(const BFloat16* a, int64_t rows, int64_t steps, const int64_t* offset,
              const BFloat16* b, float* c, bool accumulate) {
    const int64_t tile = steps * kTileElements;
    for (int64_t row = 0; row < rows; row += 2 * kTileHeight) {
        const BFloat16* from = a + row / kTileHeight * tile;
        multiply_tiles({{from, from + tile}, kStep, offset}, least(2 * kTileHeight, rows - row), b,
                       tile, steps, c + row * kGroup, kGroup, accumulate);
    }
}

// Rows [0, 32) of x as pairs of channels, zeros where there is no row or no channel.
void pair_queries(const BFloat16* x, int64_t step, int64_t rows, int64_t width, BFloat16* to) {
    const int64_t steps = steps_of(width);
    for (int j = 0; j < kVectors; ++j)
        for (int64_t s = 0; s < steps; ++s) {
            const int64_t left = least(kStep, width - s * kStep);
            const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << left) - 1);
            Floats block[kLanes];
            for (int i = 0; i < kLanes; ++i) {
                const int64_t row = j * kLanes + i;
                block[i] = row < rows
                               ? (Floats)_mm512_maskz_loadu_epi16(mask, x + row * step + s * kStep)
                               : Floats{};
            }
            transpose(block);
            BFloat16* out = to + (j * steps + s) * kTileElements;
            for (int i = 0; i < kLanes; ++i)
                _mm512_storeu_si512(out + i * kStep, (__m512i)block[i]);
        }
}

// Rows of at most 16 channels of at most 32 keys to a tile: channels, of 32 keys each, zeros where
// there is none.
void turn_values(const BFloat16* v, int64_t step, int64_t keys, int64_t channels, BFloat16* to) {
    const __mmask16 mask = static_cast<__mmask16>((uint32_t{1} << channels) - 1);
    Floats block[kLanes];
    for (int i = 0; i < kLanes; ++i) {
        __m256i pair[2];
        for (int p = 0; p < 2; ++p)
            pair[p] = 2 * i + p < keys ? _mm256_maskz_loadu_epi16(mask, v + (2 * i + p) * step)
                                       : _mm256_setzero_si256();
        const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(pair[0]), pair[1], 1);
        block[i] = (Floats)_mm512_permutexvar_epi16(pair_order(), both);
    }
    transpose(block);
    for (int i = 0; i < kLanes; ++i) _mm512_storeu_si512(to + i * kStep, (__m512i)block[i]);
}

// The largest score of each query, in chains that do not wait for each other.
void largest(int64_t n, const float* s, Floats (&most)[kVectors]) {
    constexpr int kKeys = 4;
    Floats chains[kKeys * kVectors];
    for (Floats& chain : chains) chain = splat(-kInfinity);
    int64_t i = 0;
    for (; i + kKeys <= n; i += kKeys)
        for (int c = 0; c < kKeys * kVectors; ++c)
            chains[c] = at_least(load(s + i * kGroup + c * kLanes), chains[c]);
    for (; i < n; ++i)
        for (int j = 0; j < kVectors; ++j)
            chains[j] = at_least(load(s + i * kGroup + j * kLanes), chains[j]);
    for (int c = kVectors; c < kKeys * kVectors; ++c)
        chains[c % kVectors] = at_least(chains[c], chains[c % kVectors]);
    for (int j = 0; j < kVectors; ++j) most[j] = chains[j];
}

// Scores times factor, in place.
void scale_scores(int64_t n, Floats factor, float* s) {
    for (int64_t i = 0; i < n * kGroup; i += kLanes) store(s + i, load(s + i) * factor);
}

// weights = 2^(score * factor - base) of two keys, added to sum and rounded into pairs.
template <bool Second>
PYENGINE_INLINE void weigh(const float* s, const Floats (&base)[kVectors], Floats factor,
                           Floats (&sum)[kVectors], BFloat16* pairs, int64_t pairs_stride) {
    constexpr int kKeys = Second ? 2 : 1;
    Floats x[kKeys * kVectors];
    for (int i = 0; i < kKeys * kVectors; ++i) {
        x[i] = exp2_bf16(fma(load(s + i * kLanes), factor, -base[i % kVectors]));
        sum[i % kVectors] += x[i];
    }
    for (int j = 0; j < kVectors; ++j) {
        const Floats second = Second ? x[kVectors * (kKeys - 1) + j] : Floats{};
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)x[j]);
        _mm512_storeu_si512(pairs + j * pairs_stride, _mm512_permutexvar_epi16(pair_order(), both));
    }
}

// From scores to weights, 2^(score * factor - most): the second product's B. most comes as this
// block's, times factor, and becomes the largest so far; earlier is what earlier sums are
// multiplied by. Returns whether any is not 1.
bool softmax(Floats factor, int64_t n, const float* s, Group& group, const Floats (&most)[kVectors],
             Floats (&earlier)[kVectors], BFloat16* pairs) {
    Floats base[kVectors], sum[kVectors];
    bool grown = false;
    for (int j = 0; j < kVectors; ++j) {
        const Floats before = load(group.most + j * kLanes), now = at_least(most[j], before);
        store(group.most + j * kLanes, now);
        // With no key seen yet, any base but -inf gives weights of zero.
        base[j] = select(now == splat(-kInfinity), Floats{}, now);
        grown |= _mm512_cmp_ps_mask((__m512)before, (__m512)base[j], _CMP_NEQ_UQ) != 0;
        earlier[j] = before - base[j];
        sum[j] = Floats{};
    }
    exp2_to_one(earlier);
    const int64_t stride = steps_of(n) * kTileElements;
    int64_t i = 0;
    for (; i + 2 <= n; i += 2)
        weigh<true>(s + i * kGroup, base, factor, sum, pairs + i * kLanes, stride);
    if (i < n) {
        weigh<false>(s + i * kGroup, base, factor, sum, pairs + i * kLanes, stride);
        i += 2;
    }
    for (; i < steps_of(n) * kStep; i += 2)
        for (int j = 0; j < kVectors; ++j)
            _mm512_storeu_si512(pairs + i * kLanes + j * stride, _mm512_setzero_si512());
    for (int j = 0; j < kVectors; ++j) {
        float* total = group.sum + j * kLanes;
        store(total, fma(load(total), earlier[j], sum[j]));
    }
    return grown;
}

// What the products of one call share.
struct Scratch {
    float* s;         // [block, whole tiles][kGroup]
    BFloat16* pairs;  // [2][steps of block][16 pairs][16][2]
    int64_t* offset;  // of steps
};

// All of one head's keys for `groups` groups of queries from `query` on.
void attend(const AttentionWork& work, const float* packed, const float* mask, int64_t query,
            Group* group, int64_t groups, const Scratch& scratch) {
    const AttentionArgs& args = work.args;
    // Scores that a mask is added to are scaled before it, those that keep their order are not.
    const bool scaled = mask || !(args.scale >= 0);
    const Floats scale = splat(args.scale);
    const Floats factor = splat(scaled ? kLog2E : args.scale * kLog2E);
    for (int64_t b = 0; b < work.blocks; ++b) {
        const int64_t key = b * work.block;
        const int64_t n = least(args.keys - key, work.block);
        const BFloat16* keys = reinterpret_cast<const BFloat16*>(packed + b * work.block_floats);
        const BFloat16* values = keys + key_elements(args, n);
        for (int64_t g = 0; g < groups; ++g) {
            const int64_t first = query + g * kGroup;
            if (args.causal && key > first + kGroup - 1) continue;  // all hidden
            multiply(keys, n, steps_of(args.width), scratch.offset, group[g].q, scratch.s, false);
            Floats most[kVectors], earlier[kVectors];
            if (scaled) scale_scores(n, scale, scratch.s);
            if (mask || (args.causal && key + n - 1 > first))
                hide(args, mask, first, key, n, scratch.s, most);
            else
                largest(n, scratch.s, most);
            for (int j = 0; j < kVectors; ++j) most[j] = most[j] * factor;
            if (softmax(factor, n, scratch.s, group[g], most, earlier, scratch.pairs))
                for (int64_t i = 0; i < args.value_width * kVectors; ++i) {
                    float* at = group[g].o + i * kLanes;
                    store(at, load(at) * earlier[i % kVectors]);
                }
            multiply(values, args.value_width, steps_of(n), scratch.offset, scratch.pairs,
                     group[g].o, true);
        }
    }
}

}  // namespace

AttentionSizes attention_bf16_sizes(const AttentionArgs& args) {
    const int64_t blocks = ceil_divide(args.keys, kMostKeys);
    const int64_t block = steps_of(ceil_divide(args.keys, blocks)) * kStep;
    const int64_t deepest =
        steps_of(args.width) > steps_of(block) ? steps_of(args.width) : steps_of(block);
    return {block, (key_elements(args, block) + value_elements(args, block)) / 2,
            q_elements(args) / 2 + o_floats(args) + 2 * kGroup,
            block * kGroup + pairs_elements(steps_of(block)) / 2 + round_up(2 * deepest, 16)};
}

// Items are the blocks of keys of the packed heads.
void attention_bf16_pack(const AttentionWork& work, int64_t begin, int64_t end) {
    const AttentionArgs& args = work.args;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t head = work.first_head + item / work.blocks;
        const int64_t picture = head / args.heads, key = item % work.blocks * work.block;
        const int64_t n = least(args.keys - key, work.block);
        const BFloat16* k = static_cast<const BFloat16*>(args.k) + picture * args.k_picture +
                            key * args.k_row + head % args.heads * args.width;
        const BFloat16* v = static_cast<const BFloat16*>(args.v) + picture * args.v_picture +
                            key * args.v_row + head % args.heads * args.value_width;
        BFloat16* to = reinterpret_cast<BFloat16*>(work.packed + item * work.block_floats);
        const int64_t key_tile = steps_of(args.width) * kTileElements;
        for (int64_t i = 0; i < tiles_of(n) * kTileHeight; ++i) {
            BFloat16* row = to + i / kTileHeight * key_tile + i % kTileHeight * kStep;
            if (i < n)
                spread_row(k + i * args.k_row, args.width, row);
            else
                for (int64_t s = 0; s < steps_of(args.width); ++s)
                    _mm512_storeu_si512(row + s * kTileElements, _mm512_setzero_si512());
        }
        to += key_elements(args, n);
        const int64_t value_tile = steps_of(n) * kTileElements;
        for (int64_t i = 0; i < n; i += kStep)
            for (int64_t c = 0; c < args.value_width; c += kTileHeight)
                turn_values(v + i * args.v_row + c, args.v_row, least(kStep, n - i),
                            least(kTileHeight, args.value_width - c),
                            to + c / kTileHeight * value_tile + i / kStep * kTileElements);
    }
}

// Items are the query blocks of the packed heads.
void attention_bf16(const AttentionWork& work, int64_t begin, int64_t end) {
    const TileUnit unit;
    const AttentionArgs& args = work.args;
    const int64_t values = args.heads * args.value_width;
    Scratch scratch;
    scratch.s = work.scratch;
    scratch.pairs = reinterpret_cast<BFloat16*>(scratch.s + work.block * kGroup);
    const int64_t deepest =
        steps_of(args.width) > steps_of(work.block) ? steps_of(args.width) : steps_of(work.block);
    float* next = scratch.s + work.block * kGroup + pairs_elements(steps_of(work.block)) / 2;
    scratch.offset = reinterpret_cast<int64_t*>(next);
    for (int64_t s = 0; s < deepest; ++s) scratch.offset[s] = s * kTileElements;
    next += round_up(2 * deepest, 16);
    constexpr int kMostGroups = 64 / kGroup;
    Group group[kMostGroups];
    for (int64_t g = 0; g < work.groups; ++g) {
        group[g].q = reinterpret_cast<BFloat16*>(next);
        group[g].o = next + q_elements(args) / 2;
        group[g].most = group[g].o + o_floats(args);
        group[g].sum = group[g].most + kGroup;
        next = group[g].sum + kGroup;
    }
    const float* mask = args.mask;
    for (int64_t item = begin; item < end; ++item) {
        const int64_t beside = work.heads_beside, block = item / beside;
        const int64_t packed_head = block / work.query_blocks * beside + item % beside;
        const int64_t head = work.first_head + packed_head;
        const int64_t picture = head / args.heads, column = head % args.heads;
        const int64_t query = block % work.query_blocks * work.groups * kGroup;
        const int64_t left = args.queries - query;
        const int64_t groups = least(work.groups, ceil_divide(left, kGroup));
        const BFloat16* q = static_cast<const BFloat16*>(args.q) + picture * args.q_picture +
                            query * args.q_row + column * args.width;
        for (int64_t g = 0; g < groups; ++g) {
            pair_queries(q + g * kGroup * args.q_row, args.q_row, left - g * kGroup, args.width,
                         group[g].q);
            for (int64_t i = 0; i < o_floats(args); i += kLanes) store(group[g].o + i, Floats{});
            for (int j = 0; j < kVectors; ++j) {
                store(group[g].most + j * kLanes, splat(-kInfinity));
                store(group[g].sum + j * kLanes, Floats{});
            }
        }
        if (args.mask) mask = args.mask + picture * args.mask_step[0] + column * args.mask_step[1];
        attend(work, work.packed + packed_head * work.blocks * work.block_floats, mask, query,
               group, groups, scratch);
        FlushedBFloat16* y = static_cast<FlushedBFloat16*>(args.y) +
                             (picture * args.queries + query) * values + column * args.value_width;
        for (int64_t g = 0; g < groups; ++g) {
            Floats inverse[kVectors];
            for (int j = 0; j < kVectors; ++j)
                inverse[j] = splat(1.0f) / load(group[g].sum + j * kLanes);
            store_columns(group[g].o, inverse, args.value_width, y + g * kGroup * values, values,
                          left - g * kGroup);
        }
    }
}

}  // namespace pyengine::PYENGINE_NS
